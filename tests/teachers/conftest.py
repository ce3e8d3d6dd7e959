"""train_tfrs.py runs in a process of its own, under Keras 2."""

collect_ignore = ["train_tfrs.py"]
