r"""Distillation and relevance losses over lists of candidates, and over embeddings.

Each loss is a function of plain arrays that returns one number for each list, and a
Keras class of the same name that averages these numbers over a batch.

| class | name in the literature | learns from |
|---|---|---|
| `ListwiseKLDivergence` | KL divergence (soft targets), the default | teacher scores |
| `ListwiseSoftCrossEntropy` | soft cross-entropy, KL plus a constant | teacher scores |
| `ListwiseJensenShannon` | Jensen–Shannon divergence | noisy teacher scores |
| `StratifiedKLDivergence` | UnKD, popularity-stratified | teacher scores by stratum |
| `PairwiseMarginMSE` | margin-MSE | margins, on their scale |
| `PairwiseRankNet` | RankNet | preferences within pairs |
| `PointwiseMSE` | MSE, logit matching | teacher scores: amounts |
| `PointwiseBinaryCrossEntropy` | binary cross-entropy | log-odds |
| `ListwisePlackettLuce` | ListMLE, Plackett–Luce | the teacher's order |
| `ListwiseSoftLambdaNDCG` | LambdaRank, LambdaLoss NDCG | the teacher's top k |
| `TopKRelaxedRanking` | DE-RRD, relaxed ranking distillation | top k, sampled tail |
| `TopKDualCorrection` | DCD, dual correction | remaining rank errors |
| `TopKRankDistil` | RankDistil | log-odds of the top k |
| `TopKPositionWeighted` | Ranking Distillation (Tang & Wang) | top k as positives |
| `ListwiseCrossEntropy` | softmax cross-entropy, ListNet | relevance |
| `ListwiseLambdaNDCG` | LambdaRank, LambdaLoss NDCG | graded relevance |
| `InBatchSoftmax` | sampled softmax with logQ | pairs of query and item |
| `HintMSE` | FitNets hints | embeddings |
| `RelationalDistance` | RKD distance (RKD-D) | embeddings |
| `RelationalAngle` | RKD angle (RKD-A) | embeddings |
| `ContrastiveAlignment` | CRD, InfoNCE | embeddings |

`docs/losses.md` recommends a loss for each situation, relates the losses to each other,
and reports an experiment.

The classes take `y_true` as `{"labels": …, "mask": …}`, the form of keras-rs, or as
labels alone if nothing is padded. `recdistill.Distiller` passes the mask on. Keras's
own `compile` and `keras.distillation.LogitsDistillation` work with these losses too,
but pass labels without a mask.

Examples:
    A teacher that finds the first of two candidates three times as likely as the
    second, and a student that does not distinguish them. The second list contains only
    padding, so it does not count in the mean.

    >>> teacher_scores = np.array([[np.log(3.0), 0.0], [0.0, 0.0]], "float32")
    >>> mask = np.array([[True, True], [False, False]])
    >>> student_scores = np.zeros((2, 2), "float32")
    >>> loss = ListwiseKLDivergence()
    >>> y_true = {"labels": teacher_scores, "mask": mask}
    >>> round(float(loss(y_true, student_scores)), 4)
    0.1308

    By hand, this is 3/4 log((3/4) / (1/2)) + 1/4 log((1/4) / (1/2)).
"""

import recdistill.lists  # noqa: F401  Checks Keras's backend.
from recdistill.losses.alignment import (
    ContrastiveAlignment,
    HintMSE,
    contrastive_alignment,
    hint_mse,
)
from recdistill.losses.dual_correction import TopKDualCorrection, top_k_dual_correction
from recdistill.losses.in_batch import InBatchSoftmax, in_batch_softmax
from recdistill.losses.lambda_ndcg import (
    ListwiseLambdaNDCG,
    ListwiseSoftLambdaNDCG,
    listwise_lambda_ndcg,
    listwise_soft_lambda_ndcg,
)
from recdistill.losses.list_loss import (
    ListLoss,
    LossWithSettings,
    RelevanceListLoss,
    TemperedListLoss,
)
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
from recdistill.losses.pairwise import (
    PairwiseMarginMSE,
    PairwiseRankNet,
    pairwise_margin_mse,
    pairwise_rank_net,
)
from recdistill.losses.plackett_luce import (
    ListwisePlackettLuce,
    TopKRelaxedRanking,
    listwise_plackett_luce,
    top_k_relaxed_ranking,
)
from recdistill.losses.pointwise import (
    PointwiseBinaryCrossEntropy,
    PointwiseMSE,
    pointwise_binary_cross_entropy,
    pointwise_mse,
)
from recdistill.losses.relational import (
    RelationalAngle,
    RelationalDistance,
    relational_angle,
    relational_distance,
)
from recdistill.losses.representation_loss import RepresentationLoss
from recdistill.losses.stratified import (
    StratifiedKLDivergence,
    stratified_kl_divergence,
)
from recdistill.losses.top_k import (
    TopKPositionWeighted,
    TopKRankDistil,
    top_k_position_weighted,
    top_k_rank_distil,
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
    "LossWithSettings",
    "PairwiseMarginMSE",
    "PairwiseRankNet",
    "PointwiseBinaryCrossEntropy",
    "PointwiseMSE",
    "RelationalAngle",
    "RelationalDistance",
    "RelevanceListLoss",
    "RepresentationLoss",
    "StratifiedKLDivergence",
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
    "stratified_kl_divergence",
    "top_k_dual_correction",
    "top_k_position_weighted",
    "top_k_rank_distil",
    "top_k_relaxed_ranking",
]
