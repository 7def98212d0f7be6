"""What is known: models, hardware, recipes, inventories, engine flags by version; each number with its source."""
