"""Retrieval in the graph: the top K of a catalogue, exact or by inverted lists."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
