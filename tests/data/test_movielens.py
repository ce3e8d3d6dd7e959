"""read_movielens: small examples of the three layouts, and one data set in full."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from recdistill.data import Dataset, read_movielens
from recdistill.errors import DataError
from tests.real_data import real_data


def everything(data: Dataset) -> pa.Table:
    return pa.Table.from_batches(data.interactions())


def flags(*genres: int) -> str:
    """The 19 flags of u.item with those numbers set (0 is `unknown`)."""
    return "|".join("1" if number in genres else "0" for number in range(19))


def layout_100k(folder: Path) -> Path:
    (folder / "u.data").write_text("196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    films = (
        f"242|Kolya (1996)|24-Jan-1997||http://x/?Kolya|{flags(5)}\n"
        f"543|Misérables, Les (1995)|01-Jan-1995||http://x|{flags(8, 12)}\n"
        f"267|unknown||||{flags(0)}\n"
        f"1412|Land Before Time III (1995) (V)|01-Jan-1995||http://x|{flags(3, 4)}\n"
    )
    (folder / "u.item").write_text(films, encoding="latin-1")
    (folder / "u.user").write_text("196|49|M|writer|55105\n186|39|F|executive|E2A4H\n")
    return folder


def layout_1m(folder: Path) -> Path:
    ratings = "1::1193::5::978300760\n2::661::3::978302109\n"
    (folder / "ratings.dat").write_text(ratings)
    films = (
        "1193::One Flew Over the Cuckoo's Nest (1975)::Drama\n"
        "661::Star Wars: Café (1996)::Animation|Children's|Musical\n"
    )
    (folder / "movies.dat").write_text(films, encoding="latin-1")
    (folder / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072-1234\n")
    return folder


def layout_csv(folder: Path) -> Path:
    ratings = (
        "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n7,1029,3,851868750\n"
    )
    (folder / "ratings.csv").write_text(ratings)
    films = (
        "movieId,title,genres\n"
        '31,"American President, The (1995)",Comedy|Drama\n'
        "1029,Rocky VI (1986) ,Comedy\n"
        "108583,Fawlty Towers (1975-1979),Comedy\n"
        "143410,Hyena Road,(no genres listed)\n"
    )
    (folder / "movies.csv").write_text(films, encoding="utf-8")
    return folder


class TestLayout100K:
    def test_ratings(self, tmp_path):
        assert everything(read_movielens(layout_100k(tmp_path))).to_pylist() == [
            {"user_id": "196", "item_id": "242", "rating": 3.0, "timestamp": 881250949},
            {"user_id": "186", "item_id": "302", "rating": 3.0, "timestamp": 891717742},
        ]

    def test_the_year_is_removed_from_titles_and_flags_become_genres(self, tmp_path):
        items = read_movielens(layout_100k(tmp_path)).items
        assert items["item_id"].to_pylist() == ["242", "543", "267", "1412"]
        assert items["title"].to_pylist() == [
            "Kolya",
            "Misérables, Les",
            "unknown",
            "Land Before Time III",
        ]
        assert items["year"].to_pylist() == [1996, 1995, None, 1995]
        assert items["genres"].to_pylist() == [
            ["Comedy"],
            ["Drama", "Musical"],
            ["unknown"],
            ["Animation", "Children's"],
        ]

    def test_users(self, tmp_path):
        assert read_movielens(layout_100k(tmp_path)).queries.to_pylist()[1] == {
            "user_id": "186",
            "age": 39,
            "gender": "F",
            "occupation": "executive",
            "zip_code": "E2A4H",
        }

    def test_a_film_with_too_few_values_is_named_by_its_line(self, tmp_path):
        folder = layout_100k(tmp_path)
        with (folder / "u.item").open("a") as stream:
            stream.write("\n99|Short (1990)|\n")
        with pytest.raises(
            DataError, match=r"u.item, line 6: must have 24 values .* Received: 3"
        ):
            read_movielens(folder)

    def test_a_repeated_film_is_named(self, tmp_path):
        folder = layout_100k(tmp_path)
        films = (folder / "u.item").read_bytes()
        (folder / "u.item").write_bytes(films + films)
        with pytest.raises(DataError, match="'242' is in rows 1, 5"):
            read_movielens(folder)

    def test_an_age_that_is_not_a_number(self, tmp_path):
        folder = layout_100k(tmp_path)
        (folder / "u.user").write_text("1|old|M|writer|55105\n")
        with pytest.raises(DataError, match=r"u.user cannot be read: .*old"):
            read_movielens(folder)


class TestLayout1M:
    def test_ratings_separated_by_double_colons(self, tmp_path):
        assert everything(read_movielens(layout_1m(tmp_path))).to_pylist() == [
            {"user_id": "1", "item_id": "1193", "rating": 5.0, "timestamp": 978300760},
            {"user_id": "2", "item_id": "661", "rating": 3.0, "timestamp": 978302109},
        ]

    def test_films_may_have_colons_and_latin_letters(self, tmp_path):
        items = read_movielens(layout_1m(tmp_path)).items
        assert items["title"].to_pylist()[1] == "Star Wars: Café"
        assert items["year"].to_pylist() == [1975, 1996]
        assert items["genres"].to_pylist()[1] == ["Animation", "Children's", "Musical"]

    def test_users_have_the_columns_of_the_100k_layout(self, tmp_path):
        assert read_movielens(layout_1m(tmp_path)).queries.to_pylist()[1] == {
            "user_id": "2",
            "age": 56,
            "gender": "M",
            "occupation": "16",
            "zip_code": "70072-1234",
        }


class TestLayoutCsv:
    def test_ratings_get_the_common_names(self, tmp_path):
        assert everything(read_movielens(layout_csv(tmp_path))).to_pylist() == [
            {"user_id": "1", "item_id": "31", "rating": 2.5, "timestamp": 1260759144},
            {"user_id": "7", "item_id": "1029", "rating": 3.0, "timestamp": 851868750},
        ]

    def test_films(self, tmp_path):
        data = read_movielens(layout_csv(tmp_path))
        assert data.items.to_pydict() == {
            "item_id": ["31", "1029", "108583", "143410"],
            "title": [
                "American President, The",
                "Rocky VI",
                "Fawlty Towers (1975-1979)",
                "Hyena Road",
            ],
            "year": [1995, 1986, None, None],
            "genres": [["Comedy", "Drama"], ["Comedy"], ["Comedy"], []],
        }
        assert data.queries is None

    def test_a_missing_column_is_named(self, tmp_path):
        folder = layout_csv(tmp_path)
        (folder / "movies.csv").write_text("movieId,name,genres\n1,x,y\n")
        with pytest.raises(DataError, match=r"movies.csv has no column 'title'"):
            read_movielens(folder)


@pytest.mark.parametrize("layout", [layout_100k, layout_1m, layout_csv])
class TestEveryLayout:
    def test_the_rating_can_be_the_relevance(
        self, tmp_path: Path, layout: Callable[[Path], Path]
    ):
        table = everything(read_movielens(layout(tmp_path), {"relevance": "rating"}))
        assert table.schema.field("rating").type == pa.float32()

    def test_a_bad_time_is_named_by_its_row(
        self, tmp_path: Path, layout: Callable[[Path], Path]
    ):
        folder = layout(tmp_path)
        names = ("u.data", "ratings.dat", "ratings.csv")
        ratings = next(folder / name for name in names if (folder / name).exists())
        text = ratings.read_text().rstrip("\n")
        ratings.write_text(text + "x\n")
        with pytest.raises(DataError, match=r"column `timestamp`, row 2: "):
            read_movielens(folder)

    def test_two_copies_have_the_same_fingerprint(
        self, tmp_path: Path, layout: Callable[[Path], Path]
    ):
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        one = read_movielens(layout(tmp_path / "a"))
        two = read_movielens(layout(tmp_path / "b"))
        assert one.fingerprint == two.fingerprint
        assert one.source == two.source
        assert one.name == "a"


def test_the_10m_layout_has_half_stars_utf8_titles_and_no_users(tmp_path):
    (tmp_path / "ratings.dat").write_text(
        "1::122::4.5::838985046\n2::3::5::838983525\n"
    )
    (tmp_path / "movies.dat").write_text(
        "122::Amélie: Film (2001)::Comedy|Romance\n3::Plain::(no genres listed)\n",
        encoding="utf-8",
    )
    data = read_movielens(tmp_path, {"relevance": "rating"})
    (batch,) = data.interactions()
    assert batch["item_id"].to_pylist() == ["122", "3"]
    assert batch["rating"].to_pylist() == [4.5, 5.0]
    assert data.items["title"].to_pylist() == ["Amélie: Film", "Plain"]
    assert data.items["genres"].to_pylist() == [["Comedy", "Romance"], []]
    assert data.queries is None


def test_a_folder_without_any_layout_lists_the_layouts(tmp_path):
    (tmp_path / "ratings.csv").write_text("userId\n1\n")
    with pytest.raises(DataError) as error:
        read_movielens(tmp_path)
    for file in ("u.data", "ratings.dat", "ratings.csv, movies.csv"):
        assert file in str(error.value)


@pytest.mark.real_data
def test_ml_latest_small_is_read_in_full():
    data = read_movielens(real_data("ml-latest-small"))
    table = everything(data)
    assert table.num_rows == 100_004
    assert len(table["user_id"].unique()) == 671
    assert len(table["item_id"].unique()) == 9_066
    assert data.items.num_rows == 9_125
    assert set(table["item_id"].to_pylist()) <= set(data.items["item_id"].to_pylist())
    films = dict(
        zip(data.items["item_id"].to_pylist(), data.items.to_pylist(), strict=True)
    )
    assert films["29"]["title"] == (
        "City of Lost Children, The (Cité des enfants perdus, La)"
    )
    assert films["29"]["year"] == 1995
