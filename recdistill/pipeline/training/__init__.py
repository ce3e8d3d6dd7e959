"""Training of students and rankers."""
