"""The list axis: masked operations, and ranks in the graph and in NumPy."""
