"""fetch: downloads from a test server are verified and appear atomically."""

import gc
import hashlib
import io
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pytest

from recdistill.data import SOURCES, fetch, read_movielens, read_recbole
from recdistill.data import downloads as module
from recdistill.data.downloads import Archive
from recdistill.errors import FetchError

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

RATINGS = b"userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n"
MOVIES = b"movieId,title,genres\n31,Dangerous Minds (1995),Drama\n"
SMALL = {
    "ml-latest-small/ratings.csv": RATINGS,
    "ml-latest-small/movies.csv": MOVIES,
    "ml-latest-small/README.txt": b"terms",
    "ml-latest-small/links.csv": b"not needed",
}


FILES = ("ratings.csv", "movies.csv", "README.txt")


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


FILES_100K = ("u.data", "u.item", "u.user")


class Server(ThreadingHTTPServer):
    """Declares the length of `content`, by path, and sends `sent`."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content: dict[str, bytes] = {}
        self.sent: dict[str, bytes] = {}
        self.asked: list[str] = []

    def publish(self, name: str, content: bytes, *files: str) -> Archive:
        self.content[f"/{name}.zip"] = self.sent[f"/{name}.zip"] = content
        url = f"http://127.0.0.1:{self.server_port}/{name}.zip"
        return Archive(url, sha256(content), tuple(f"{name}/{each}" for each in files))


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
    # pooch leaves the connection of a failed download to the garbage collector.
    gc.collect()


@pytest.fixture
def small(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """ml-latest-small, published on our server."""
    archive = server.publish("ml-latest-small", zipped(SMALL), *FILES)
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

    def test_the_cache_contains_only_the_archive_and_the_folder(self, small, tmp_path):
        fetch("ml-latest-small", tmp_path)
        assert names(tmp_path) == ["ml-latest-small", "ml-latest-small.zip"]

    def test_a_second_run_downloads_nothing(self, small, tmp_path):
        first = fetch("ml-latest-small", tmp_path)
        assert fetch("ml-latest-small", tmp_path) == first
        assert small.asked == ["/ml-latest-small.zip"]

    def test_progress_ends_at_the_total(self, small, tmp_path):
        seen: list[tuple[str, int, int | None]] = []
        fetch("ml-latest-small", tmp_path, progress=lambda *now: seen.append(now))
        size = len(small.content["/ml-latest-small.zip"])
        assert seen[-1] == ("Downloading ml-latest-small", size, size)
        done = [each for _, each, _ in seen]
        assert done == sorted(done)

    def test_the_cache_folder_can_come_from_the_environment(
        self, small, tmp_path, monkeypatch
    ):
        monkeypatch.setenv("RECDISTILL_CACHE", str(tmp_path / "mine"))
        assert fetch("ml-latest-small") == tmp_path / "mine" / "ml-latest-small"

    def test_an_archive_saved_by_hand_is_used(self, small, tmp_path):
        (tmp_path / "ml-latest-small.zip").write_bytes(zipped(SMALL))
        fetch("ml-latest-small", tmp_path)
        assert small.asked == []

    def test_a_wrong_archive_saved_by_hand_is_refused(self, small, tmp_path):
        (tmp_path / "ml-latest-small.zip").write_bytes(b"something else")
        with pytest.raises(FetchError, match=f"Received: {sha256(b'something else')}"):
            fetch("ml-latest-small", tmp_path)
        assert names(tmp_path) == ["ml-latest-small.zip"]

    def test_an_unknown_name_lists_the_known_ones(self, tmp_path):
        with pytest.raises(FetchError, match=r"ml-100k, .*ml-32m\. Received: 'ml-2m'"):
            fetch("ml-2m", tmp_path)


class TestWhatGoesWrong:
    def test_a_host_that_does_not_answer(self, monkeypatch, tmp_path):
        nobody = Archive("http://127.0.0.1:9/x.zip", "0" * 64, ())
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(module, "SOURCES", {"ml-1m": nobody})
        with pytest.raises(FetchError) as error:
            fetch("ml-1m", tmp_path)
        assert "http://127.0.0.1:9/x.zip cannot be downloaded" in str(error.value)
        assert f"as {tmp_path / 'ml-1m.zip'} and run this again" in str(error.value)
        assert names(tmp_path) == []

    def test_a_file_that_does_not_exist(self, small, tmp_path):
        small.content.clear()
        with pytest.raises(FetchError, match="cannot be downloaded: 404"):
            fetch("ml-latest-small", tmp_path)

    @pytest.mark.parametrize("sent", [0, 1, 100])
    def test_a_download_that_is_cut_off(self, small, tmp_path, sent):
        (path,) = small.content
        small.sent[path] = small.content[path][:sent]
        with pytest.raises(FetchError, match="cannot be downloaded"):
            fetch("ml-latest-small", tmp_path)
        assert names(tmp_path) == []

    def test_content_of_the_right_length_and_the_wrong_hash(self, small, tmp_path):
        content = small.content["/ml-latest-small.zip"]
        small.sent["/ml-latest-small.zip"] = content[:-1] + b"?"
        with pytest.raises(FetchError, match=f"{sha256(content)} but got"):
            fetch("ml-latest-small", tmp_path)
        assert names(tmp_path) == []

    def test_an_interrupted_run_leaves_nothing_and_the_next_one_works(
        self, small, tmp_path
    ):
        def interrupt(label: str, done: int, total: int | None) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fetch("ml-latest-small", tmp_path, progress=interrupt)
        assert names(tmp_path) == []
        assert fetch("ml-latest-small", tmp_path).is_dir()

    def test_remains_of_a_killed_run_are_not_used(self, small, tmp_path):
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
            patch.setattr(module, "_unpack", killed)
            with pytest.raises(SystemExit):
                fetch("ml-latest-small", tmp_path)
        assert names(tmp_path) == ["ml-latest-small.zip"]
        fetch("ml-latest-small", tmp_path)
        assert small.asked == ["/ml-latest-small.zip"]

    def test_the_folder_of_a_faster_process_is_used(self, small, tmp_path, monkeypatch):
        original = module._unpack

        def late(*args: object) -> Path:
            target = tmp_path / "ml-latest-small"
            target.mkdir()
            (target / "ratings.csv").write_bytes(RATINGS)
            return original(*args)

        monkeypatch.setattr(module, "_unpack", late)
        folder = fetch("ml-latest-small", tmp_path)
        assert names(folder) == ["ratings.csv"]
        assert names(tmp_path) == ["ml-latest-small", "ml-latest-small.zip"]


class TestUnpack:
    @pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "..\\evil"])
    def test_only_the_wanted_members_are_written(
        self, server, monkeypatch, tmp_path, name
    ):
        raw = zipped({**SMALL, name: b"2", "ml-latest-small/ratings.csv/../x": b"3"})
        archive = server.publish("ml-latest-small", raw, *FILES)
        monkeypatch.setattr(module, "SOURCES", {"ml-latest-small": archive})
        cache = tmp_path / "deep" / "cache"
        folder = fetch("ml-latest-small", cache)
        assert names(folder) == sorted(FILES)
        assert names(cache) == ["ml-latest-small", "ml-latest-small.zip"]
        assert names(tmp_path) == ["deep"] and names(tmp_path / "deep") == ["cache"]

    def test_a_missing_member_is_named(self, server, monkeypatch, tmp_path):
        archive = server.publish("ml-1m", zipped(SMALL), "ratings.dat")
        monkeypatch.setattr(module, "SOURCES", {"ml-1m": archive})
        with pytest.raises(FetchError, match=r"has no member 'ml-1m/ratings.dat'"):
            fetch("ml-1m", tmp_path)
        assert names(tmp_path) == ["ml-1m.zip"]


class TestMovieLens100K:
    @pytest.fixture
    def wheel(self, monkeypatch: pytest.MonkeyPatch) -> bytes:
        folder = "recbole/dataset_example/ml-100k"
        raw = zipped({f"{folder}/{name}": t.encode() for name, t in ATOMIC.items()})
        pinned = replace(module._WHEEL, sha256=sha256(raw))
        monkeypatch.setattr(module, "_WHEEL", pinned)
        return raw

    def test_grouplens_files_become_atomic_files(
        self, server, monkeypatch, no_pip, tmp_path
    ):
        archive = server.publish("ml-100k", zipped(ML_100K), *FILES_100K)
        monkeypatch.setattr(module, "SOURCES", {"ml-100k": archive})
        folder = fetch("ml-100k", tmp_path)
        found = {each.name: each.read_text("utf-8") for each in folder.iterdir()}
        assert found == ATOMIC
        assert no_pip == []

    def test_without_grouplens_the_wheel_gives_the_same(
        self, server, monkeypatch, wheel, tmp_path
    ):
        archive = server.publish("ml-100k", zipped(ML_100K), *FILES_100K)
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
        missing = Archive(f"http://127.0.0.1:{server.server_port}/no", "0" * 64, ())
        monkeypatch.setattr(module, "SOURCES", {"ml-100k": missing})
        pip_that_brings(monkeypatch, wheel + b"?")
        with pytest.raises(FetchError, match=r"recbole-1.2.1\S+ must have the SHA-256"):
            fetch("ml-100k", tmp_path)
        assert names(tmp_path) == []

    def test_the_error_names_both_sources(self, server, monkeypatch, no_pip, tmp_path):
        missing = Archive(f"http://127.0.0.1:{server.server_port}/no", "0" * 64, ())
        monkeypatch.setattr(module, "SOURCES", {"ml-100k": missing})
        with pytest.raises(FetchError) as error:
            fetch("ml-100k", tmp_path)
        said = str(error.value)
        assert "/no cannot be downloaded: 404" in said
        assert "pip download recbole==1.2.1 failed: No module named pip" in said
        assert f"as {tmp_path / 'ml-100k.zip'} and run this again" in said
        assert len(no_pip) == 1
        assert names(tmp_path) == []

    def test_pip_has_a_timeout(self, server, monkeypatch, tmp_path):
        def hang(command: list[str], **options: float) -> None:
            raise subprocess.TimeoutExpired(command, options["timeout"])

        missing = Archive(f"http://127.0.0.1:{server.server_port}/no", "0" * 64, ())
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
        assert all(each.startswith(f"{name}/") for each in archive.members)
    assert len({archive.sha256 for archive in SOURCES.values()}) == len(SOURCES)
