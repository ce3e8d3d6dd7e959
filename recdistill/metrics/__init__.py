"""Metrics: ranking quality, agreement of two rankings, and beyond accuracy.

`ranking` compares scores with relevance, `agreement` compares a student's ranking with
its teacher's, and `beyond_accuracy` evaluates the recommended items alone. The
functions (`ndcg`, `recall`, …) are NumPy and return one number for each list. The
classes (`NDCG`, `Recall`, …) are the same metrics for Keras's `compile` and `fit`.
TensorFlow is imported when one of the classes is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
