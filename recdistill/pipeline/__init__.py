"""The pipeline: from interactions to an exported student.

`Pipeline` runs the steps of a configuration, and `run` does so in one call.
"""

import lazy_loader

import recdistill.lists  # noqa: F401  Checks Keras's backend.

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
