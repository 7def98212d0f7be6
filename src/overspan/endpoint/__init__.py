"""Who answers at an address and what it says: one client, one reader of `/metrics`."""
