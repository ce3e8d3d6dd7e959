"""Training of the teacher's members, their search, and their weights."""
