"""Operations along the list axis: masked arithmetic, and ranks in TF and NumPy."""
