"""Candidates of lists: retrieved, sampled, scored, and their uniform tail."""
