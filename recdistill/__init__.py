"""recdistill distils a heavy ranking model into a light two-tower student.

Submodules and the names in `__init__.pyi` load on first use, so `import recdistill` and
the command line's `--help` do not wait for TensorFlow.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
