"""Retrieval: top K of a catalogue in the TensorFlow graph, exact or IVF."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
