"""Roles and columns of a data set."""

import pytest

from recdistill.data import Columns
from recdistill.data.dataset import nearest, require_columns
from recdistill.errors import DataError


class TestColumns:
    def test_an_unknown_role_names_the_nearest(self):
        with pytest.raises(DataError, match="Received: 'user'"):
            Columns.of({"user": "u"})
        with pytest.raises(DataError, match=r"Did you mean 'weight'\?"):
            Columns.of({"weights": "w"})

    def test_one_column_cannot_have_two_roles(self):
        with pytest.raises(DataError, match="Received: 'id' for several roles"):
            Columns(query="id", item="id")

    def test_other_roles_keep_their_default_columns(self):
        assert Columns.of({"time": "when"}) == Columns(time="when")
        assert Columns.of(None) == Columns()

    def test_names_are_the_columns_that_interactions_need(self):
        roles = Columns(relevance="stars")
        assert roles.names() == ["user_id", "item_id", "timestamp", "stars"]


def test_the_hint_is_the_closest_name_in_any_case():
    assert nearest("Userid", ["item_id", "user_id"]) == " Did you mean 'user_id'?"
    assert nearest("zzz", ["item_id", "user_id"]) == ""


def test_a_missing_or_repeated_column_is_an_error():
    require_columns(["a", "b"], ["a"], "x.csv")
    with pytest.raises(DataError, match=r"x.csv has no column 'c'.* are: a, b"):
        require_columns(["a", "b"], ["c"], "x.csv")
    with pytest.raises(DataError, match=r"x.csv has several columns named 'b'"):
        require_columns(["a", "b", "b"], ["b"], "x.csv")
    require_columns(["a", "b", "b"], ["a"], "x.csv")  # nobody reads the repeated one
