"""Configuration of a pipeline: one TOML file, one module per section.

Unknown keys are errors that name the nearest known key, and all values are checked
before any work starts. `docs/configuration.md` lists all keys.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
