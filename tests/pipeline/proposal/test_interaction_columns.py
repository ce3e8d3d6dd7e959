"""Columns of the interactions: which are features of the query, and which are not."""

import pytest

from tests.pipeline.proposal import layouts
from tests.pipeline.proposal.proposals import document, left_out, log, proposed


def test_the_outcome_of_an_interaction_is_no_feature_unless_the_user_says_so(tmp_path):
    lines = log(",seconds", lambda k, u, i: f",{(k * 37) % 101 / 2}")
    layouts.write(tmp_path / "interactions.csv", lines)
    assert list(document(tmp_path)["query"]) == ["history"]
    found = document(tmp_path, context=("seconds",))
    assert found["query"]["seconds"] == {"kind": "number"}


def test_a_column_that_describes_the_item_is_no_query_feature(tmp_path):
    lines = log(",brand", lambda k, u, i: f",b{i % 3}")
    layouts.write(tmp_path / "interactions.csv", lines)
    proposal = proposed(tmp_path)
    assert list(proposal.query) == ["history"]
    assert left_out(proposal)["brand"].startswith("describes the item")


@pytest.mark.parametrize("name", ["text", "query"])
def test_the_text_of_a_review_is_no_search(tmp_path, name):
    words = "I loved the place number and would come again any day of the week"
    lines = log(f",{name}", lambda k, u, i: f",{words} {i} {k}")
    layouts.write(tmp_path / "interactions.csv", lines)
    proposal = proposed(tmp_path)
    assert list(proposal.query) == ["history"]
    assert left_out(proposal)[name].startswith("perhaps known only after the choice")


def shown_lists(extra, values, users=12):
    """Lists of three items, the first chosen, with more columns."""
    lines = [f"list_id,user_id,item_id,timestamp,clicked,{extra}"]
    for k, (user, item, time) in enumerate(layouts.rows()):
        for place in range(3):
            shown = (item + place) % layouts.ITEMS
            row = f"l{k},u{user % users},i{shown},{time},{int(place == 0)}"
            lines.append(f"{row},{values(k, shown)}")
    return lines


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (lambda k, i: f"t{7919 * k}", "identifies the list, like its id"),
        (lambda k, i: k, "identifies the list, like its id"),
        (
            lambda k, i: f"t{max(k, 9)}",
            "nearly every list has its own value (81 in 90 lists)",
        ),
        (
            lambda k, i: f"{i}.5",
            "describes the item, which has one value; features of items are columns of "
            "a table of items",
        ),
        (lambda k, i: k + i, "differs within a list, so it is not the query's"),
    ],
    ids=["text", "number", "nearly", "item", "row"],
)
def test_a_column_of_a_listwise_table_is_judged_by_the_lists(tmp_path, value, reason):
    layouts.write(tmp_path / "lists.csv", shown_lists("trace", value))
    proposal = proposed(tmp_path)
    assert left_out(proposal) == {"trace": reason}
    layouts.write(tmp_path / "lists.csv", shown_lists("trace", lambda k, i: k % 4))
    proposal = proposed(tmp_path)
    assert proposal.query["trace"] == {"kind": "category"}


def test_integers_that_many_queries_have_once_are_ids_and_no_numbers(tmp_path):
    lines = [
        f"u{u},{i},{t},{7 * u},{u}" for u in range(120) for i, t in ((1, 2), (3, 4))
    ]
    header = "user_id,item_id,timestamp,account,price"
    layouts.write(tmp_path / "interactions.csv", [header, *lines])
    proposal = proposed(tmp_path)
    assert left_out(proposal)["account"] == "identifies the query, like its id"


def test_the_columns_of_the_users_condition_are_kept_by(tmp_path):
    lines = log(
        ",status,rating,device",
        lambda k, u, i: f",{'paid' if k % 4 else 'back'},{1 + k % 5},{'ab'[k % 2]}",
    )
    layouts.write(tmp_path / "interactions.csv", lines)
    keep = "status == 'paid' and device != 'c'"
    proposal = proposed(tmp_path, keep=keep)
    uses = {use.profile.name: (use.use, use.reason) for use in proposal.uses}
    assert uses["status"] == ("keep", "as you said")
    # The proposed condition on the rating is not used.
    assert uses["rating"][0] == ""
    assert uses["rating"][1].startswith("perhaps known only after the choice")
    # A feature of the query remains one.
    assert uses["device"][0] == "category"
    assert "rating" not in document(tmp_path, keep=keep)["query"]
