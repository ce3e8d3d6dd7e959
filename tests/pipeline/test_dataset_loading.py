"""Data sets that a configuration names."""

import pytest

from recdistill.errors import DataError
from recdistill.pipeline.config import DatasetConfig
from recdistill.pipeline.dataset_loading import load_dataset
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

        monkeypatch.setattr("recdistill.pipeline.dataset_loading.fetch", fetched)
        calls = []
        settings = DatasetConfig(reader="movielens", fetch="ml-latest-small")
        data = load_dataset(settings, lambda *call: calls.append(call))
        assert calls == [("Downloading", 3, 10)]
        assert sum(batch.num_rows for batch in data.interactions()) == 2
