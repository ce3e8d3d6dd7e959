"""Columns of ratings and relevances: which they are, and which rows are choices."""

import pytest

from recdistill.pipeline.proposal.column_names import are_judgements
from tests.pipeline.proposal import layouts
from tests.pipeline.proposal.proposals import document, left_out, log, proposed


def test_graded_relevance_is_kept_as_relevance(tmp_path):
    layouts.write(tmp_path / "lists.csv", log(",label", lambda k, u, i: f",{k % 3}"))
    found = document(tmp_path)
    assert found["dataset"]["columns"] == {"relevance": "label"}
    assert found["dataset"]["interactions"] == {"file": "lists.csv"}


def test_the_lowest_kept_grade_is_kept_exactly(tmp_path):
    grades = [repr(k / 11) for k in (1, 5, 9, 11)]
    layouts.write(
        tmp_path / "a.csv", log(",rating", lambda k, u, i: "," + grades[k % 4])
    )
    found = document(tmp_path)
    assert found["dataset"]["keep"] == f"rating >= {9 / 11!r}"


@pytest.mark.parametrize(
    "name",
    "star_rating Book-Rating user_rating review_rating userRating overall_rating "
    "movie_ratings review_stars my_score user_score".split(),
)
def test_the_last_word_of_a_name_may_say_that_it_is_a_rating(tmp_path, name):
    lines = log(f",{name}", lambda k, u, i: f",{1 + (7 * u + 3 * i + k) % 5}")
    layouts.write(tmp_path / "interactions.csv", lines)
    assert document(tmp_path)["dataset"]["keep"] == f"{name} >= 4"


@pytest.mark.parametrize(
    "name",
    "average_rating avg_rating imdb_rating content_rating age_rating critic_rating "
    "predicted_rating seller_rating num_ratings imdb_score risk_score model_score "
    "item_score github_stars rating_count operating".split(),
)
def test_other_ratings_and_scores_are_not_those_of_the_query(tmp_path, name):
    assert not are_judgements(name)
    lines = log(f",{name}", lambda k, u, i: f",{1 + (7 * u + 3 * i + k) % 5}")
    layouts.write(tmp_path / "interactions.csv", lines)
    assert "keep" not in document(tmp_path)["dataset"]


@pytest.mark.parametrize("of", ["user", "item"])
def test_a_rating_with_one_value_for_each_item_or_query_is_no_choice(tmp_path, of):
    lines = log(
        ",hotel_stars", lambda k, u, i: f",{1 + {'user': u, 'item': i}[of] % 5}"
    )
    layouts.write(tmp_path / "interactions.csv", lines)
    proposal = proposed(tmp_path)
    assert proposal.known().keep == []
    if of == "item":
        assert left_out(proposal)["hotel_stars"].startswith("describes the item")


def test_a_negative_number_beside_grades_means_not_rated(tmp_path):
    grades = [-1, *range(1, 11)]
    lines = log(",rating", lambda k, u, i: f",{grades[(7 * u + k) % 11]}")
    layouts.write(tmp_path / "interactions.csv", lines)
    assert document(tmp_path)["dataset"]["keep"] == "rating >= 8"
    reason = proposed(tmp_path).known().reasons["rating"]
    assert reason.startswith("a rating from 1 to 10: 8 or more counts as a choice (")
    assert reason.endswith("; -1 is not rated")


@pytest.mark.parametrize("grades", [(-1, 1), (-1, 0, 1), (-2, -1, 0, 1, 2)])
def test_likes_and_dislikes_are_no_grades(tmp_path, grades):
    lines = log(",rating", lambda k, u, i: f",{grades[k % len(grades)]}")
    layouts.write(tmp_path / "interactions.csv", lines)
    assert document(tmp_path)["dataset"]["keep"] == "rating > 0"
