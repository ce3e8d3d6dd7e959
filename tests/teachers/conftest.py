"""train_tfrs.py runs in its own process, under Keras 2."""

collect_ignore = ["train_tfrs.py"]
