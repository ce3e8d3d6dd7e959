"""Operations along the list axis: masked arithmetic, and ranks in TF and NumPy."""

from recdistill.lists.keras_backend import check_keras_backend

check_keras_backend()
