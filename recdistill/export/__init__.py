"""Export of two-tower models to TensorFlow Serving, and replacement of their items."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
