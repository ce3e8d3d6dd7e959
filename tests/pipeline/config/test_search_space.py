"""Search spaces of a configuration: what is accepted, and what each error says."""

import pytest

from recdistill.errors import ConfigError
from recdistill.pipeline.config.search_space import Choices, Range, parse_space
from tests import small_pipelines


def test_tables_are_nested_as_in_the_configuration():
    table = {
        "student": {"dim": [8, 16], "hidden": [[64], [64, 32]]},
        "distill": {"weight": {"low": 0.3, "high": 1}, "loss": ["PairwiseRankNet"]},
        "lists": {"tail": {"low": 100, "high": 900}},
    }
    assert parse_space(table, "tune.search") == {
        "student.dim": Choices((8, 16)),
        "student.hidden": Choices(([64], [64, 32])),
        "distill.weight": Range(0.3, 1),
        "distill.loss": Choices(("PairwiseRankNet",)),
        "lists.tail": Range(100, 900),
    }
    assert parse_space({}, "tune.search") == {}


def test_whole_ends_are_searched_as_whole_numbers_and_decades_by_their_ratio():
    assert Range(100, 900).is_whole
    assert not Range(1, 2.0).is_whole
    assert not Range(100, 900).is_logarithmic
    assert Range(100, 1_000).is_logarithmic
    assert not Range(-1, 1_000).is_logarithmic


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("{student={dim=16}}", r"`search.student.dim` must be a list of values"),
        ("{student={dim=[]}}", r"`search.student.dim` must be a list of values"),
        ("{distill={weight={low=1,high=1}}}", r"`low` below the number `high`"),
        ("{distill={weight={low=0,high='1'}}}", r"low=0, high='1'"),
        ("{distill={weight={low=0,high=inf}}}", r"low=0, high=inf"),
        ("{distill={weight={low=nan,high=1}}}", r"low=nan, high=1"),
        ("{lists={seen=['exclude']}}", r"sections `student` and `distill`.*lists.seen"),
        ("{teacher={l2=[1.0]}}", r"Received: teacher.l2"),
        ("[1]", r"`tune.search` must be a valid dictionary"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_its_key(tmp_path, search, said):
    with pytest.raises(ConfigError, match=said):
        small_pipelines.load(tmp_path, f"tune.search={search}")


@pytest.mark.parametrize(
    ("given", "seconds"), [('"90s"', 90), ('"1.5 h"', 5_400), ('"2min"', 120), ("7", 7)]
)
def test_a_time_limit_has_a_unit_or_is_in_seconds(tmp_path, given, seconds):
    config = small_pipelines.load(tmp_path, f"tune.timeout={given}")
    assert config.tune.timeout == seconds


@pytest.mark.parametrize("given", ['"1d"', '"h"', '"-1s"', "0", "nan", '"1 2 s"'])
def test_a_time_limit_that_is_none_is_refused(tmp_path, given):
    with pytest.raises(ConfigError, match=r"`tune.timeout`"):
        small_pipelines.load(tmp_path, f"tune.timeout={given}")
