r"""Losses over lists of candidates: what the student learns from.

Each loss is a function of plain arrays that returns one number a list, and a thin Keras
class of the same name around it that averages those numbers over a batch.

| the list comes with | and it matters | use |
|---|---|---|
| teacher scores | how much better one candidate is | `ListwiseKLDivergence` |
| | the same, in the numbers of other libraries | `ListwiseSoftCrossEntropy` |
| | the same, with some lists wrong or noisy | `ListwiseJensenShannon` |
| | the margins themselves, on the teacher's scale | `PairwiseMarginMSE` |
| | which of two is better; short lists | `PairwiseRankNet` |
| | the scores themselves: amounts | `PointwiseMSE` |
| | the same: probabilities, log-odds | `PointwiseBinaryCrossEntropy` |
| | the order alone | `ListwisePlackettLuce` |
| | the order at the top, NDCG | `ListwiseSoftLambdaNDCG` |
| the teacher's top and a drawn tail | the order at the top | `TopKRelaxedRanking` |
| | the same, after most of it is learned | `TopKDualCorrection` |
| | log-odds at the top, a low tail | `TopKRankDistil` |
| | positives for a pointwise relevance loss | `TopKPositionWeighted` |
| relevance: clicks, ratings, grades | what people chose | `ListwiseCrossEntropy` |
| | grades, NDCG | `ListwiseLambdaNDCG` |
| no list, one choice a query | what people chose | `InBatchSoftmax` |
| the teacher's embeddings | what is alike | see `representation` |

`docs/losses.md` has the arguments, how the losses are related, and an experiment.

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

from recdistill.losses.dual_correction import TopKDualCorrection, top_k_dual_correction
from recdistill.losses.in_batch import InBatchSoftmax, in_batch_softmax
from recdistill.losses.list_loss import ListLoss, TemperedListLoss
from recdistill.losses.listwise import (
    ListwiseCrossEntropy,
    ListwiseJensenShannon,
    ListwiseKLDivergence,
    ListwiseSoftCrossEntropy,
    listwise_cross_entropy,
    listwise_jensen_shannon,
    listwise_kl_divergence,
    listwise_soft_cross_entropy,
)
from recdistill.losses.ordering import (
    ListwiseLambdaNDCG,
    ListwisePlackettLuce,
    ListwiseSoftLambdaNDCG,
    listwise_lambda_ndcg,
    listwise_plackett_luce,
    listwise_soft_lambda_ndcg,
)
from recdistill.losses.pairwise import (
    PairwiseMarginMSE,
    PairwiseRankNet,
    pairwise_margin_mse,
    pairwise_rank_net,
)
from recdistill.losses.pointwise import (
    PointwiseBinaryCrossEntropy,
    PointwiseMSE,
    pointwise_binary_cross_entropy,
    pointwise_mse,
)
from recdistill.losses.representation import (
    ContrastiveAlignment,
    HintMSE,
    RelationalAngle,
    RelationalDistance,
    contrastive_alignment,
    hint_mse,
    relational_angle,
    relational_distance,
)
from recdistill.losses.representation_loss import RepresentationLoss
from recdistill.losses.top_k import (
    TopKPositionWeighted,
    TopKRankDistil,
    TopKRelaxedRanking,
    top_k_position_weighted,
    top_k_rank_distil,
    top_k_relaxed_ranking,
)

__all__ = [
    "ContrastiveAlignment",
    "HintMSE",
    "InBatchSoftmax",
    "ListLoss",
    "ListwiseCrossEntropy",
    "ListwiseJensenShannon",
    "ListwiseKLDivergence",
    "ListwiseLambdaNDCG",
    "ListwisePlackettLuce",
    "ListwiseSoftCrossEntropy",
    "ListwiseSoftLambdaNDCG",
    "PairwiseMarginMSE",
    "PairwiseRankNet",
    "PointwiseBinaryCrossEntropy",
    "PointwiseMSE",
    "RelationalAngle",
    "RelationalDistance",
    "RepresentationLoss",
    "TemperedListLoss",
    "TopKDualCorrection",
    "TopKPositionWeighted",
    "TopKRankDistil",
    "TopKRelaxedRanking",
    "contrastive_alignment",
    "hint_mse",
    "in_batch_softmax",
    "listwise_cross_entropy",
    "listwise_jensen_shannon",
    "listwise_kl_divergence",
    "listwise_lambda_ndcg",
    "listwise_plackett_luce",
    "listwise_soft_cross_entropy",
    "listwise_soft_lambda_ndcg",
    "pairwise_margin_mse",
    "pairwise_rank_net",
    "pointwise_binary_cross_entropy",
    "pointwise_mse",
    "relational_angle",
    "relational_distance",
    "top_k_dual_correction",
    "top_k_position_weighted",
    "top_k_rank_distil",
    "top_k_relaxed_ranking",
]
