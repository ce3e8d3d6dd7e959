"""What a model costs: time (`measuring`), `flops`, `energy`, and the `report` of it."""
