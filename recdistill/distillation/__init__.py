"""Distillation: the Distiller, loss terms, score transforms and the score doctor."""

import lazy_loader

import recdistill.lists  # noqa: F401  Checks Keras's backend.

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
