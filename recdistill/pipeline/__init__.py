"""The batch pipeline, from interactions to an exported student.

`steps.Pipeline` runs it, `config.load_config` reads its TOML file.
"""
