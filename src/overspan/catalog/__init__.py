"""What is known: models, hardware, recipes, inventories, engine flags by version; each number with its source.

A model's sizes come from `models.find`. `accounting` counts them from config.json; `counted` compares that with the
headers of the weights. What a rank needs in memory is in `planner/memory.py`.
"""
