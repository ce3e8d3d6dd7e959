"""fetch: whole and verified or not at all, from a server of our own."""

import hashlib
import importlib
import io
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pytest

from recdistill.data import SOURCES, fetch, read_movielens, read_recbole
from recdistill.data.archives import Archive, download, unpack
from recdistill.errors import FetchError

module = importlib.import_module("recdistill.data.downloads")

RATINGS = b"userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n"
MOVIES = b"movieId,title,genres\n31,Dangerous Minds (1995),Drama\n"
SMALL = {
    "ml-latest-small/ratings.csv": RATINGS,
    "ml-latest-small/movies.csv": MOVIES,
    "ml-latest-small/README.txt": b"terms",
    "ml-latest-small/links.csv": b"not needed",
}


def flags(*genres: int) -> bytes:
    return b"|".join(b"1" if number in genres else b"0" for number in range(19))


ML_100K = {
    "ml-100k/u.data": b"196\t242\t3\t881250949\n186\t267\t5\t891717742\n",
    "ml-100k/u.item": b"".join(
        [
            b"242|Kolya (1996)|24-Jan-1997||http://x/?Kolya%20(1996)|",
            flags(5),
            b"\n113|Horseman on the Roof, The (Hussard sur le toit, Le) (1995)|||x|",
            flags(8),
            b"\n267|unknown||||",
            flags(0),
            b"\n1412|Land Before Time III: The Great Giving (1995) (V)|||x|",
            flags(3, 4),
            b"\n1633|\xc1 k\xf6ldum klaka (Cold Fever) (1994)|||x|",
            flags(5, 8, 15),
            b"\n",
        ]
    ),
    "ml-100k/u.user": b"196|49|M|writer|55105\n186|39|F|executive|00000\n",
}
ATOMIC = {
    "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "196\t242\t3\t881250949\n186\t267\t5\t891717742\n",
    "ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\t"
    "class:token_seq\n"
    "242\tKolya\t1996\tComedy\n"
    "113\tHorseman on the Roof, The (Hussard sur le toit, Le)\t1995\tDrama\n"
    "267\tunkonwn\tunkonwn\tunknown\n"
    "1412\tLand Before Time III: The Great Giving (1995)\tV\tAnimation Children's\n"
    "1633\tÁ köldum klaka (Cold Fever)\t1994\tComedy Drama Sci-Fi\n",
    "ml-100k.user": "user_id:token\tage:token\tgender:token\toccupation:token\t"
    "zip_code:token\n"
    "196\t49\tM\twriter\t55105\n186\t39\tF\texecutive\t00000\n",
}


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content` by path, says how long it is, and may send less or more."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content: dict[str, bytes] = {}
        self.sent: dict[str, bytes] = {}
        self.asked: list[str] = []

    def publish(self, name: str, content: bytes, sent: bytes | None = None) -> Archive:
        self.content[f"/{name}"] = content
        self.sent[f"/{name}"] = content if sent is None else sent
        url = f"http://127.0.0.1:{self.server_port}/{name}"
        return Archive(url, len(content), sha256(content))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path not in self.server.content:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content[self.path])))
        self.end_headers()
        self.wfile.write(self.server.sent[self.path])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def small(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """ml-latest-small, published on our server."""
    archive = server.publish("small.zip", zipped(SMALL))
    monkeypatch.setattr(module, "SOURCES", {"ml-latest-small": archive})
    return server


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Records the calls of pip, which all fail."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        return subprocess.CompletedProcess(command, 1, "", "No module named pip\n")

    monkeypatch.setattr(module.subprocess, "run", run)
    return calls


def pip_that_brings(monkeypatch: pytest.MonkeyPatch, wheel: bytes) -> list[list[str]]:
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        target = Path(command[command.index("--dest") + 1])
        (target / "recbole-1.2.1-py3-none-any.whl").write_bytes(wheel)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module.subprocess, "run", run)
    return calls


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


class TestFetch:
    def test_it_gives_a_folder_that_the_reader_takes(self, small, tmp_path):
        folder = fetch("ml-latest-small", tmp_path)
        assert folder == tmp_path / "ml-latest-small"
        assert names(folder) == ["README.txt", "movies.csv", "ratings.csv"]
        assert read_movielens(folder).items["title"].to_pylist() == ["Dangerous Minds"]

    def test_nothing_but_the_archive_and_the_folder_is_left(self, small, tmp_path):
        fetch("ml-latest-small", tmp_path)
        assert names(tmp_path) == ["ml-latest-small", "ml-latest-small.zip"]

    def test_a_second_run_asks_nobody(self, small, tmp_path):
        first = fetch("ml-latest-small", tmp_path)
        assert fetch("ml-latest-small", tmp_path) == first
        assert small.asked == ["/small.zip"]

    def test_progress_ends_at_the_whole(self, small, tmp_path):
        seen: list[tuple[int, int | None]] = []
        fetch("ml-latest-small", tmp_path, progress=lambda *now: seen.append(now))
        size = module.SOURCES["ml-latest-small"].size
        assert seen[-1] == (size, size)
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)

    def test_the_cache_folder_can_come_from_the_environment(
        self, small, tmp_path, monkeypatch
    ):
        monkeypatch.setenv("RECDISTILL_CACHE", str(tmp_path / "mine"))
        assert fetch("ml-latest-small") == tmp_path / "mine" / "ml-latest-small"

    def test_an_archive_put_there_by_hand_is_used(self, small, tmp_path):
        (tmp_path / "ml-latest-small.zip").write_bytes(zipped(SMALL))
        fetch("ml-latest-small", tmp_path)
        assert small.asked == []

    def test_a_wrong_archive_put_there_by_hand_is_refused(self, small, tmp_path):
        (tmp_path / "ml-latest-small.zip").write_bytes(b"something else")
        with pytest.raises(FetchError, match=f"Received: {sha256(b'something else')}"):
            fetch("ml-latest-small", tmp_path)
        assert names(tmp_path) == ["ml-latest-small.zip"]

    def test_an_unknown_name_lists_the_known_ones(self, tmp_path):
        with pytest.raises(FetchError, match=r"ml-100k, .*ml-32m\. Received: 'ml-2m'"):
            fetch("ml-2m", tmp_path)


class TestWhatGoesWrong:
    def test_a_host_that_does_not_answer(self, monkeypatch, tmp_path):
        nobody = Archive("http://127.0.0.1:9/x.zip", 1, "0" * 64)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(module, "SOURCES", {"ml-1m": nobody})
        with pytest.raises(FetchError) as error:
            fetch("ml-1m", tmp_path)
        assert "http://127.0.0.1:9/x.zip cannot be downloaded" in str(error.value)
        assert f"put it at {tmp_path / 'ml-1m.zip'}" in str(error.value)
        assert names(tmp_path) == []

    def test_a_file_that_is_not_there(self, small, tmp_path):
        small.content.clear()
        with pytest.raises(FetchError, match="cannot be downloaded: Not Found"):
            fetch("ml-latest-small", tmp_path)

    @pytest.mark.parametrize("sent", [0, 1, 100])
    def test_a_download_that_is_cut_off(self, small, tmp_path, sent):
        small.sent["/small.zip"] = small.content["/small.zip"][:sent]
        with pytest.raises(FetchError, match=r"must send|cannot be downloaded"):
            fetch("ml-latest-small", tmp_path)
        assert names(tmp_path) == []

    def test_content_of_the_right_length_and_the_wrong_hash(self, small, tmp_path):
        content = small.content["/small.zip"]
        small.sent["/small.zip"] = content[:-1] + b"?"
        with pytest.raises(FetchError, match="its SHA-256 must be"):
            fetch("ml-latest-small", tmp_path)
        assert names(tmp_path) == []

    def test_more_than_was_pinned_is_not_kept(self, server, tmp_path):
        content = b"x" * 3_000_000
        url = server.publish("endless", content).url
        with pytest.raises(FetchError, match=r"must send 10 bytes\. Received: more"):
            download(Archive(url, 10, sha256(content)), tmp_path / "target")
        assert names(tmp_path) == []

    def test_an_interrupted_run_leaves_nothing_and_the_next_one_works(
        self, small, tmp_path
    ):
        def interrupt(done: int, total: int | None) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fetch("ml-latest-small", tmp_path, progress=interrupt)
        assert names(tmp_path) == []
        assert fetch("ml-latest-small", tmp_path).is_dir()

    def test_what_a_killed_run_leaves_is_not_taken_for_data(self, small, tmp_path):
        left = tmp_path / ".ml-latest-small-abc.part" / "ml-latest-small"
        left.mkdir(parents=True)
        (left / "ratings.csv").write_bytes(RATINGS[:20])
        folder = fetch("ml-latest-small", tmp_path)
        assert (folder / "ratings.csv").read_bytes() == RATINGS

    def test_a_run_killed_before_unpacking_does_not_download_again(
        self, small, tmp_path, monkeypatch
    ):
        def killed(*_: object) -> None:
            raise SystemExit

        with monkeypatch.context() as patch:
            patch.setattr(module, "unpack", killed)
            with pytest.raises(SystemExit):
                fetch("ml-latest-small", tmp_path)
        assert names(tmp_path) == ["ml-latest-small.zip"]
        fetch("ml-latest-small", tmp_path)
        assert small.asked == ["/small.zip"]

    def test_a_process_that_was_faster_is_accepted(self, small, tmp_path, monkeypatch):
        original = module.move_into_place

        def late(folder: Path, target: Path) -> None:
            target.mkdir()
            (target / "ratings.csv").write_bytes(RATINGS)
            original(folder, target)

        monkeypatch.setattr(module, "move_into_place", late)
        folder = fetch("ml-latest-small", tmp_path)
        assert names(folder) == ["ratings.csv"]
        assert names(tmp_path) == ["ml-latest-small", "ml-latest-small.zip"]


class TestUnpack:
    def refuse(self, tmp_path: Path, raw: bytes, said: str, limit: int = 1_000) -> None:
        archive, target = tmp_path / "a.zip", tmp_path / "out" / "deep"
        archive.write_bytes(raw)
        target.mkdir(parents=True)
        with pytest.raises(FetchError, match=said):
            unpack(archive, {"good": "good"}, target, limit)
        assert names(target) == [] and names(tmp_path / "out") == ["deep"]

    @pytest.mark.parametrize(
        "name",
        ["../evil", "a/../../evil", "/etc/evil", "..\\evil", "C:\\evil", "\\\\host\\x"],
    )
    def test_names_that_lead_outside(self, tmp_path, name):
        raw = zipped({"good": b"1", name: b"2"})
        self.refuse(tmp_path, raw, "plain files below .*which is outside")

    def test_links(self, tmp_path):
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("good", b"1")
            archive.writestr(link, b"/etc/passwd")
        self.refuse(tmp_path, buffer.getvalue(), "'link', which is a link")

    def test_a_bomb(self, tmp_path):
        raw = zipped({"good": b"\0" * 1_000_000})
        assert len(raw) < 2_000
        self.refuse(tmp_path, raw, "at most 1000 bytes. Received: 1000000")

    def test_a_missing_member(self, tmp_path):
        self.refuse(tmp_path, zipped({"other": b"1"}), "has no member 'good'")

    def test_something_that_is_no_archive(self, tmp_path):
        self.refuse(tmp_path, b"<html>moved</html>", "a.zip is damaged")

    def test_wanted_members_get_their_names_and_the_others_stay(self, tmp_path):
        archive = tmp_path / "a.zip"
        archive.write_bytes(zipped({"x/one": b"1", "x/two": b"2"}))
        target = tmp_path / "out"
        target.mkdir()
        unpack(archive, {"x/one": "uno"}, target, 10)
        assert names(target) == ["uno"]
        assert (target / "uno").read_bytes() == b"1"


class TestMovieLens100K:
    @pytest.fixture
    def wheel(self, monkeypatch: pytest.MonkeyPatch) -> bytes:
        folder = "recbole/dataset_example/ml-100k"
        raw = zipped({f"{folder}/{name}": t.encode() for name, t in ATOMIC.items()})
        monkeypatch.setattr(module, "_WHEEL_SHA256", sha256(raw))
        return raw

    def test_grouplens_files_become_atomic_files(
        self, server, monkeypatch, no_pip, tmp_path
    ):
        archive = server.publish("100k.zip", zipped(ML_100K))
        monkeypatch.setattr(module, "SOURCES", {"ml-100k": archive})
        folder = fetch("ml-100k", tmp_path)
        found = {each.name: each.read_text("utf-8") for each in folder.iterdir()}
        assert found == ATOMIC
        assert no_pip == []

    def test_without_grouplens_the_wheel_gives_the_same(
        self, server, monkeypatch, wheel, tmp_path
    ):
        archive = server.publish("100k.zip", zipped(ML_100K))
        monkeypatch.setattr(module, "SOURCES", {"ml-100k": archive})
        first = read_recbole(fetch("ml-100k", tmp_path / "a"))
        server.content.clear()
        calls = pip_that_brings(monkeypatch, wheel)
        second = read_recbole(fetch("ml-100k", tmp_path / "b"))
        assert first.fingerprint == second.fingerprint
        assert first.items.equals(second.items)
        tables = [pa.Table.from_batches(d.interactions()) for d in (first, second)]
        assert tables[0].equals(tables[1])
        assert calls[0][:4] == [sys.executable, "-m", "pip", "download"]
        assert calls[0][-1] == "recbole==1.2.1"
        assert {"--no-deps", "--quiet", "--disable-pip-version-check"} <= set(calls[0])

    def test_the_wheel_is_verified(self, server, monkeypatch, wheel, tmp_path):
        missing = Archive(f"http://127.0.0.1:{server.server_port}/no", 1, "0" * 64)
        monkeypatch.setattr(module, "SOURCES", {"ml-100k": missing})
        pip_that_brings(monkeypatch, wheel + b"?")
        with pytest.raises(FetchError, match=r"Then: recbole.*its SHA-256 must be"):
            fetch("ml-100k", tmp_path)
        assert names(tmp_path) == []

    def test_all_that_was_tried_is_told(self, server, monkeypatch, no_pip, tmp_path):
        missing = Archive(f"http://127.0.0.1:{server.server_port}/no", 1, "0" * 64)
        monkeypatch.setattr(module, "SOURCES", {"ml-100k": missing})
        with pytest.raises(FetchError) as error:
            fetch("ml-100k", tmp_path)
        said = str(error.value)
        assert "/no cannot be downloaded: Not Found" in said
        assert "pip download recbole==1.2.1: No module named pip" in said
        assert f"put it at {tmp_path / 'ml-100k.zip'}" in said
        assert len(no_pip) == 1
        assert names(tmp_path) == []

    def test_a_pip_that_hangs_is_given_up(self, server, monkeypatch, tmp_path):
        def hang(command: list[str], **options: float) -> None:
            raise subprocess.TimeoutExpired(command, options["timeout"])

        missing = Archive(f"http://127.0.0.1:{server.server_port}/no", 1, "0" * 64)
        monkeypatch.setattr(module, "SOURCES", {"ml-100k": missing})
        monkeypatch.setattr(module.subprocess, "run", hang)
        with pytest.raises(FetchError, match="no answer in 300 seconds"):
            fetch("ml-100k", tmp_path)


def test_every_source_is_pinned_and_from_its_publisher():
    assert list(SOURCES) == ["ml-100k", "ml-latest-small", "ml-1m", "ml-25m", "ml-32m"]
    for name, archive in SOURCES.items():
        assert archive.url == (
            f"https://files.grouplens.org/datasets/movielens/{name}.zip"
        )
        assert len(bytes.fromhex(archive.sha256)) == 32
        assert archive.size > 900_000
    assert len({archive.sha256 for archive in SOURCES.values()}) == len(SOURCES)


def test_every_source_knows_the_files_to_unpack():
    assert set(module._FILES) == set(SOURCES)
