"""Data sets that a configuration names."""

import pytest

from recdistill.errors import ConfigError, DataError
from recdistill.pipeline.config import DatasetConfig
from recdistill.pipeline.preparation.dataset_loading import (
    load_dataset,
    reading_options,
)
from tests import small_pipelines


class TestLoadDataset:
    def write(self, folder):
        text = "who,what,when\n" + "".join(f"{k % 3},{k},{k}\n" for k in range(9))
        (folder / "interactions.csv").write_text(text)

    def test_tables_with_their_roles(self, tmp_path):
        self.write(tmp_path)
        columns = {"query": "who", "item": "what", "time": "when"}
        settings = DatasetConfig(reader="tables", path=tmp_path, columns=columns)
        data = load_dataset(settings, small_pipelines.quiet)
        assert data.columns.query == "who"
        assert sum(batch.num_rows for batch in data.interactions()) == 9

    def test_a_url_names_a_folder_in_object_storage(self, tmp_path, monkeypatch):
        import fsspec

        monkeypatch.setenv("RECDISTILL_CACHE", str(tmp_path / "cache"))
        self.write(tmp_path)
        storage = fsspec.filesystem("memory")
        table = (tmp_path / "interactions.csv").read_bytes()
        storage.pipe("/bucket/shop/interactions.csv", table)
        columns = {"query": "who", "item": "what", "time": "when"}
        for path in (tmp_path, "memory://bucket/shop"):
            settings = DatasetConfig(reader="tables", path=path, columns=columns)
            data = load_dataset(settings, small_pipelines.quiet)
            assert sum(batch.num_rows for batch in data.interactions()) == 9
        assert data.name == "shop"
        storage.rm("/bucket", recursive=True)

    @pytest.mark.parametrize("place", ["student.warm_start", "export.path"])
    def test_other_paths_must_be_local(self, tmp_path, place):
        with pytest.raises(ConfigError, match="may be a URL") as caught:
            small_pipelines.load(tmp_path, f"{place}=s3://bucket/runs")
        assert place.rpartition(".")[2] in str(caught.value)

    def test_tables_may_have_other_file_names_and_no_header(self, tmp_path):
        (tmp_path / "ratings.dat").write_text("1::7::5::100\n2::8::3::101\n")
        (tmp_path / "movies.dat").write_text("7::Up (2009)::Drama\n8::It::War\n")
        document = {
            "reader": "tables",
            "path": tmp_path,
            "columns": {"query": "user", "item": "movie", "time": "when"},
            "interactions": {
                "file": "ratings.dat",
                "columns": ["user", "movie", "stars", "when"],
            },
            "items": {"file": "movies", "columns": ["movie", "title", "genre"]},
        }
        settings = small_pipelines.config(
            dataset=document,
            candidate={"movie": {"kind": "id"}, "title": {"kind": "text"}},
        )
        options = reading_options(settings)
        data = load_dataset(settings.dataset, small_pipelines.quiet, options=options)
        assert data.items.column("title").to_pylist() == ["Up (2009)", "It"]
        (batch,) = data.interactions()
        assert batch.to_pydict() == {
            "user": ["1", "2"],
            "movie": ["7", "8"],
            "when": [100, 101],
        }

    def test_data_without_times_needs_the_split_that_draws(self, tmp_path):
        text = "user_id,item_id\n" + "".join(f"{k % 3},{k}\n" for k in range(9))
        (tmp_path / "interactions.csv").write_text(text)
        document = {"reader": "tables", "path": tmp_path}

        def loaded(**sections):
            settings = small_pipelines.config(dataset=document, **sections)
            return load_dataset(
                settings.dataset,
                small_pipelines.quiet,
                options=reading_options(settings),
            )

        with pytest.raises(DataError, match=r"`split.by` = \"leave_random_out\""):
            loaded()
        data = loaded(split={"by": "leave_random_out"})
        assert data.columns.time is None
        assert sum(batch.num_rows for batch in data.interactions()) == 9

    def test_a_folder_that_does_not_exist_is_an_error(self, tmp_path):
        settings = DatasetConfig(reader="recbole", path=tmp_path / "no")
        with pytest.raises(DataError, match="no"):
            load_dataset(settings, small_pipelines.quiet)

    def test_a_download_is_reported_and_read_from_its_folder(
        self, tmp_path, monkeypatch
    ):
        def fetched(name, progress):
            progress("Downloading", 3, 10)
            (tmp_path / "ratings.csv").write_text(
                "userId,movieId,rating,timestamp\n1,2,3.5,10\n1,3,4.0,11\n"
            )
            (tmp_path / "movies.csv").write_text(
                "movieId,title,genres\n2,Two (1999),Drama\n3,Three (2001),Comedy\n"
            )
            return tmp_path

        monkeypatch.setattr(
            "recdistill.pipeline.preparation.dataset_loading.fetch", fetched
        )
        calls = []
        settings = DatasetConfig(reader="movielens", fetch="ml-latest-small")
        data = load_dataset(settings, lambda *call: calls.append(call))
        assert calls == [("Downloading", 3, 10)]
        assert sum(batch.num_rows for batch in data.interactions()) == 2
