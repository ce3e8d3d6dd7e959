"""`recdistill data fetch`."""

from tests.cli.command_line import assert_is_one_paragraph, call


def test_fetched_data_are_named_by_their_folder(tmp_path, monkeypatch):
    def fetched(name, to, progress):
        progress("Downloading ml-100k", 1, 2)
        assert (name, to) == ("ml-100k", tmp_path)
        return tmp_path / "ml-100k"

    monkeypatch.setattr("recdistill.data.fetch", fetched)
    result = call("data", "fetch", "ml-100k", "--to", tmp_path)
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'ml-100k'}\n")
    assert "Downloading ml-100k" in result.stderr


def test_an_unknown_data_set_is_one_paragraph_and_exit_code_2(tmp_path):
    result = call("data", "fetch", "ml-100", "--to", tmp_path)
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "ml-100k")
