r"""Losses over lists of candidates: what the student learns from.

Each loss is a function of plain arrays that returns one number a list, and a thin Keras
class of the same name around it that averages those numbers over a batch.

| the list comes with | and it matters | use |
|---|---|---|
| teacher scores | how much better one candidate is | `ListwiseKLDivergence` |
| relevance: clicks, ratings, grades | what people chose | `ListwiseCrossEntropy` |

The classes take `y_true` as `{"labels": …, "mask": …}`, the form of keras-rs, or as
bare labels where nothing is padded. `recdistill.Distiller` passes the mask on. Keras's
own `compile` and `keras.distillation.LogitsDistillation` take these losses, too, but
know bare labels only.

Example:
    A teacher that finds the first of two candidates three times as likely as the
    second, and a student that cannot tell them apart. The second list is padding only;
    it does not dilute the mean.

    >>> teacher_scores = np.array([[np.log(3.0), 0.0], [0.0, 0.0]], "float32")
    >>> mask = np.array([[True, True], [False, False]])
    >>> student_scores = np.zeros((2, 2), "float32")
    >>> loss = ListwiseKLDivergence()
    >>> y_true = {"labels": teacher_scores, "mask": mask}
    >>> round(float(loss(y_true, student_scores)), 4)
    0.1308

    By hand, that is 3/4 log((3/4) / (1/2)) + 1/4 log((1/4) / (1/2)).
"""

from recdistill.losses.list_loss import ListLoss
from recdistill.losses.listwise import (
    ListwiseCrossEntropy,
    ListwiseKLDivergence,
    listwise_cross_entropy,
    listwise_kl_divergence,
)

__all__ = [
    "ListLoss",
    "ListwiseCrossEntropy",
    "ListwiseKLDivergence",
    "listwise_cross_entropy",
    "listwise_kl_divergence",
]
