"""Rankings of lists and of catalogues of any size, and validation by them."""
