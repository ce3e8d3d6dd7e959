"""Readers for interaction data: which query chose which item, and when.

Each reader returns a `Dataset`: two tables in memory (items and queries) and a stream
of interactions that is never in memory as a whole.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
