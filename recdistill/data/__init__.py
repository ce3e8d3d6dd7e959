"""Readers for interaction data: queries, items, and the choices over time.

Each reader returns a `Dataset`: two tables in memory (items and queries) and a stream
of interactions that is never in memory as a whole.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
