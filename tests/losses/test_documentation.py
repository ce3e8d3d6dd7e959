"""losses: every loss is documented, and is found by its name in the literature."""

import inspect
import re
from pathlib import Path

import pytest

from recdistill import losses
from tests import contracts

DOCS = Path(__file__).parents[2] / "docs" / "losses.md"
BASES = {
    losses.LossWithSettings,
    losses.ListLoss,
    losses.TemperedListLoss,
    losses.RelevanceListLoss,
    losses.RepresentationLoss,
}
LOSSES = [cls for cls in contracts.all_losses() if cls not in BASES]
LITERATURE = {
    "ContrastiveAlignment": ("CRD", "InfoNCE"),
    "HintMSE": ("FitNets",),
    "InBatchSoftmax": ("sampled softmax", "logQ"),
    "ListwiseCrossEntropy": ("ListNet", "Softmax cross-entropy"),
    "ListwiseJensenShannon": ("Jensen\u2013Shannon",),
    "ListwiseKLDivergence": ("KL divergence",),
    "ListwiseLambdaNDCG": ("LambdaRank", "LambdaLoss"),
    "ListwisePlackettLuce": ("ListMLE", "Plackett\u2013Luce"),
    "ListwiseSoftCrossEntropy": ("Soft cross-entropy", "ListNet"),
    "ListwiseSoftLambdaNDCG": ("LambdaRank", "LambdaLoss"),
    "PairwiseMarginMSE": ("Margin-MSE",),
    "PairwiseRankNet": ("RankNet",),
    "PointwiseBinaryCrossEntropy": ("Binary cross-entropy",),
    "PointwiseMSE": ("Mean squared error",),
    "RelationalAngle": ("RKD angle",),
    "RelationalDistance": ("RKD distance",),
    "StratifiedKLDivergence": ("UnKD", "popularity-stratified"),
    "TopKDualCorrection": ("DCD", "dual correction"),
    "TopKPositionWeighted": ("Ranking Distillation (Tang & Wang)",),
    "TopKRankDistil": ("RankDistil",),
    "TopKRelaxedRanking": ("DE-RRD", "relaxed ranking distillation"),
}


def first_line(documented):
    return inspect.getdoc(documented).splitlines()[0]


def test_every_loss_has_a_name_in_the_literature():
    assert {cls.__name__ for cls in LOSSES} == set(LITERATURE)


@pytest.mark.parametrize("loss_cls", LOSSES)
def test_the_first_line_of_a_docstring_has_the_name_in_the_literature(loss_cls):
    for name in LITERATURE[loss_cls.__name__]:
        assert name in first_line(loss_cls)


@pytest.mark.parametrize("loss_cls", LOSSES)
def test_the_tables_of_the_package_and_of_the_docs_contain_every_loss(loss_cls):
    assert f"`{loss_cls.__name__}`" in losses.__doc__
    assert f"`{loss_cls.__name__}`" in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize("loss_cls", contracts.list_losses())
def test_functions_document_arguments_a_paper_a_choice_and_an_example(loss_cls):
    text = inspect.getdoc(contracts.function_of(loss_cls))
    for name in inspect.signature(contracts.function_of(loss_cls)).parameters:
        assert f"    {name}: " in text
    for section in ("Returns:", "Raises:", "Use when:", "Reference:", ">>> "):
        assert section in text


@pytest.mark.parametrize("loss_cls", contracts.list_losses())
def test_the_table_of_arguments_has_the_defaults(loss_cls):
    text = DOCS.read_text(encoding="utf-8")
    table = text[text.index("## Arguments") : text.index("**Temperature.**")]
    (row,) = (line for line in table.splitlines() if f"`{loss_cls.__name__}`" in line)
    documented = dict(re.findall(r"`(\w+)=([\w.]+)`", row.split("|")[2]))
    defaults = {
        name: str(parameter.default)
        for name, parameter in inspect.signature(loss_cls).parameters.items()
        if parameter.default is not inspect.Parameter.empty
        and name not in ("reduction", "name", "dtype")
    }
    assert documented == defaults
