"""Retrieval in the graph: the top K of a catalogue, exactly or by inverted lists.

`exact` has what all indexes share and the exact one, `ivf` the approximate one,
`indexing` builds either from embeddings (`clustering` deals the items out), and
`catalogue` puts ids beside it.
"""
