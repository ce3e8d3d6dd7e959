"""Bad inputs: each is answered with one paragraph and exit code 2, and nothing else.

The cases run in this process and import neither TensorFlow nor Keras, so that there can
be hundreds of them.
"""

import os

import pytest

from tests import small_pipelines
from tests.cli.command_line import assert_is_one_paragraph, call, in_folder

pytestmark = pytest.mark.slow

INTEGERS = [
    ("seed", 0, 2**32 - 1),
    ("dataset.synthetic.queries", 1, 2**31 - 1),
    ("dataset.synthetic.items", 1, 2**31 - 1),
    ("dataset.synthetic.interactions", 1, 2**31 - 1),
    ("dataset.synthetic.seed", 0, 2**32 - 1),
    ("query.history.length", 1, 2**31 - 1),
    ("candidate.vector.size", 1, 2**31 - 1),
    ("candidate.affinity.max_items", 1, 2**31 - 1),
    ("lists.contexts", 1, 2**31 - 1),
    ("lists.retriever_top", 1, 2**31 - 1),
    ("lists.tail", 1, 2**31 - 1),
    ("lists.per_query", 1, 2**31 - 1),
    ("student.dim", 2, 2**31 - 1),
    ("student.embedding_dim", 1, 2**31 - 1),
    ("student.steps", 1, 2**31 - 1),
    ("student.batch_size", 1, 2**31 - 1),
    ("evaluate.valid_lists", 1, 2**31 - 1),
    ("evaluate.bootstrap", 1, 1_000_000),
    ("export.top_k", 1, 2**31 - 1),
    ("export.parity_rows", 1, 2**31 - 1),
]
NUMBERS = [
    ("split.valid", "1.0"),
    ("split.test", "1.0"),
    ("student.dropout", "1.0"),
    ("student.l2", "-0.5"),
    ("distill.weight", "1.5"),
    ("distill.temperature", "0"),
    ("distill.teacher_temperature", "0"),
    ("export.target_recall", "1.01"),
    ("candidate.affinity.l2", "0"),
    ("candidate.affinity.decay", "1.5"),
    ("candidate.affinity.floor", "-0.1"),
]
ARRAYS = [
    ("student.hidden", "1.5"),
    ("student.hidden", "0"),
    ("student.hidden", "4294967296"),
    ("student.decays", "0.0"),
    ("student.decays", "1.5"),
    ("student.decays", "1e-320"),
    ("student.learning_rates", "0.0"),
    ("student.learning_rates", "-0.1"),
    ("student.learning_rates", "1e39"),
    ("student.learning_rates", "nan"),
    ("teacher.weights", "0.0"),
    ("teacher.weights", "1e300"),
    ("evaluate.latency_candidates", "0"),
    ("evaluate.latency_candidates", "1000000001"),
    ("export.warm_up_batches", "0"),
    ("export.warm_up_batches", "4097"),
    ("export.warm_up_batches", "1000000000"),
    ("evaluate.metrics", "'ndcg'"),
    ("evaluate.metrics", "'ndcg@0'"),
    ("evaluate.metrics", "'ndcg@-1'"),
    ("evaluate.metrics", "'ndcg@1e9'"),
    ("evaluate.metrics", "'ndcg@99999999999'"),
    ("evaluate.metrics", "'ndcg@\N{ARABIC-INDIC DIGIT ONE}'"),
    ("evaluate.metrics", "''"),
    ("evaluate.metrics", "3"),
]
CHOICES = [
    "dataset.reader",
    "split.by",
    "lists.size",
    "lists.scores_dtype",
    "teacher.kind",
    "teacher.normalize",
    "distill.loss",
    "distill.scores",
    "distill.gate",
    "export.index",
    "export.storage",
    "query.segment.kind",
    "candidate.category.kind",
]
FEATURE_NAMES = [
    *("a/b", "a\\\\b", "a\\nb", "größe", "名前", "a b", " a", "a ", "a.b", "a-b"),
    *("a:0", "1st", "_a", "", "self", "training", "mask", "%s", "a\\u0000", "a\\tb"),
    *("k", "exclude_ids", "allow_ids", "candidate_ids", "history_length", "item_id"),
]
OTHER = [
    "=3",
    "a",
    ".=3",
    "seed.a=3",
    "name=''",
    "name='a/b'",
    "name='..'",
    "name='-x'",
    "name='a b'",
    "name='größe'",
    'name="a\\nb"',
    'name="a\\u0000b"',
    'workdir="a\\u0000b"',
    'export.path="a\\u0000b"',
    "export.path=[]",
    "workdir={}",
    'dataset.path="a\\u0000b"',
    "dataset.path='somewhere'",
    "dataset.fetch='ml-100k'",
    "dataset.keep='rating >= 4'",
    "dataset.delimiter=''",
    "dataset.time_format=''",
    "dataset.columns=['a']",
    "dataset.columns={colour='a'}",
    "dataset.columns={list='a'}",
    "dataset.reader='tables'",
    "dataset={reader='tables', path='x', fetch='ml-100k'}",
    "dataset={}",
    "dataset=3",
    "query={}",
    "query=3",
    "query=[]",
    "query.segment=3",
    "query.segment={}",
    "query.segment={kind=[]}",
    "query.segment={kind='history'}",
    'query.segment={kind="category", column="a\\u0000"}',
    "query.segment={kind='category', optional='perhaps'}",
    "query.segment={kind='vector'}",
    "candidate={category={kind='category'}}",
    "candidate.affinity.teacher_only=false",
    "candidate.tags.separator=''",
    "candidate.tags_length={kind='number'}",
    "split={valid=0.5, test=0.5}",
    "teacher=3",
    "teacher={}",
    "teacher={kind='linear', heads=2}",
    "teacher={kind='reference', dim=7, heads=2}",
    "teacher={kind='reference', blocks=1000000000}",
    "teacher={kind='reference', epochs=100000000000}",
    "teacher={kind='reference', learning_rate=1e39}",
    "teacher={kind='reference', dropout=1.0}",
    "teacher={kind='keras'}",
    'teacher={kind="keras", path="a\\u0000"}',
    "teacher={kind='keras', path='m.keras', batch_size=0}",
    "teacher={kind='keras', path='m.keras', inputs={a='colour'}}",
    "teacher={kind='callable', function='f'}",
    "teacher={kind='callable', function='a:b:c'}",
    "teacher={kind='callable', function='import os'}",
    "teacher={kind='tf_keras'}",
    "teacher={kind='remote', address='host:1', model='m'}",
    "teacher={kind='remote', address='http://h:1', model=''}",
    "teacher={kind='remote', address='http://h:1', model='m', deadline_s=0}",
    "teacher={kind='remote', address='http://h:1', model='m', deadline_s=inf}",
    "teacher={kind='remote', address='http://h:1', model='m', version=-1}",
    f"teacher={{kind='remote', address='http://h:1', model='m', version={2**63}}}",
    "teacher={kind='remote', address='http://h:1', model='m', retries=-1}",
    "teacher={kind='scores', columns={query='q'}}",
    "teacher={kind='scores', path='s.csv', columns={time='t'}}",
    "teacher={kind='ensemble', members=[]}",
    "teacher.members=[3]",
    "teacher.members=[{kind='ensemble'}]",
    "teacher.weights=[1.0]",
    "student=3",
    "student.dims=3",
    "student.factory='f'",
    "student={factory='a:b', dim=4}",
    "student.learning_rates=[]",
    "student.a.b.c=3",
    "distill.loss=[{name='ListwiseKLDivergence', weight=0}]",
    "distill.loss=[{name='KL'}]",
    "distill.temperature='auto'",
    "evaluate.metrics=[]",
    "export.warm_up_batches=[]",
    f"export.warm_up_batches={[1] * 200}",
    "export.on_device='perhaps'",
    "seed=1979-05-27",
    "seed=07:32:00",
    f"seed={'9' * 4_000}",
    f"seed={'9' * 5_000}",
    f"student={'[' * 3_000}{']' * 3_000}",
    f"{'a.' * 3_000}a=1",
    f"query={'{a=' * 60}3{'}' * 60}",
]


def _settings():
    for key, low, high in INTEGERS:
        for value in (low - 1, high + 1, 10**30, "1.5", "nan", "true", "'many'", "[]"):
            yield f"{key}={value}"
    for key, beyond in NUMBERS:
        for value in (beyond, "nan", "inf", "-inf", "1e300", "1e-320", "true", "'x'"):
            yield f"{key}={value}"
    for key, value in ARRAYS:
        yield f"{key}=[{value}]"
    for key in CHOICES:
        for value in ("'nonsense'", "''", "3", "[]"):
            yield f"{key}={value}"
    for name in FEATURE_NAMES:
        yield f'query={{history={{kind="history"}}, "{name}"={{kind="category"}}}}'
    yield from OTHER


SETTINGS = list(_settings())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bad")


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda text: text[:60])
def test_a_bad_setting_is_refused_before_any_work(folder, setting):
    result = call("run", *in_folder(folder), "--set", setting)
    assert result.exit_code == 2, result.output
    assert_is_one_paragraph(result, "")
    assert len(result.stderr) < 1_500
    assert [path.name for path in folder.iterdir()] == ["tiny.toml"]


def test_there_are_hundreds_of_bad_settings():
    assert len(set(SETTINGS)) == len(SETTINGS) > 350


VALID = small_pipelines.CONFIG.encode()
FILES = {
    "empty": b"",
    "not UTF-8": b"\xff\xfe" + VALID,
    "UTF-16": small_pipelines.CONFIG.encode("utf-16"),
    "latin-1": "name = 'größe'".encode("latin-1"),
    "NUL": b"\0" * 100,
    "NUL inside": VALID.replace(b"tiny", b"ti\0ny"),
    "a control character": VALID.replace(b"tiny", b"ti\x01ny"),
    "truncated": VALID[: len(VALID) // 2],
    "cut in a word": VALID[:-5],
    "a repeated key": VALID + b"\ntop_k = 6\n",
    "a repeated section": VALID + b"\n[export]\n",
    "a section that is a value": b"dataset = 3\n" + VALID,
    "JSON": b'{"name": "tiny"}',
    "an unclosed text": b'name = "tiny',
    "an unclosed array": b"seed = [1, 2",
    "deep arrays": b"seed = " + b"[" * 100_000,
    "deep tables": b"[" + b"a." * 5_000 + b"a]\nb = 1\n",
    "deep inline tables": b"a = " + b"{a = " * 5_000,
    "a number of 10,000 digits": b"seed = " + b"9" * 10_000,
    "a float of 10,000 digits": b"seed = 1" + b"0" * 10_000 + b".0",
    "a date that does not exist": b"seed = 2024-02-31",
    "a section of an array": VALID.replace(b"[query]", b"[[query]]"),
    "Parquet": b"PAR1" + bytes(100) + b"PAR1",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("command", ["run", "prepare", "doctor", "latency"])
def test_a_file_that_is_no_configuration_is_refused(tmp_path, name, command):
    path = tmp_path / "tiny.toml"
    path.write_bytes(FILES[name])
    result = call(command, path)
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "tiny.toml")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("command", ["run", "doctor", "latency"])
def test_a_pipe_a_folder_and_a_missing_file_are_no_configuration(tmp_path, command):
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    for name in ("pipe", "folder", "loop", "missing"):
        result = call(command, tmp_path / f"{name}.toml")
        assert result.exit_code == 2
        assert_is_one_paragraph(result, f"{name}.toml")


OPTIONS = [
    *(("latency", "x", "--rows", value) for value in (0, -1, 10**9)),
    *(("latency", "x", "--candidates", value) for value in (0, -1, 10**12)),
    *(("latency", "x", "--threads", value) for value in (0, -1, 10**9)),
    *(("latency", "x", "--seconds", v) for v in (0, -1, "nan", "inf", "1e300")),
    *(("latency", "x", "--core-price", v) for v in (-0.01, "nan", "inf", "1e300")),
    *(("serving-config", "x", "--budget-ms", v) for v in (0, -1, "nan", "inf")),
    *(("serving-config", "x", "--threads", value) for value in (0, -1, 10**9)),
    *(("serving-config", "x", "--candidates", value) for value in (0, -1, 10**12)),
    *(("serving-config", "x", "--seconds", v) for v in (0, -1, "nan", "inf")),
    *(("serve", "x", "--port", value) for value in (-1, 65_536, 10**20)),
    *(("serve", "x", "--rest-port", value) for value in (-1, 65_536, 10**20)),
    *(("serve", "x", "--poll-seconds", v) for v in (0, -1, "nan", "inf")),
    *(("serve", "x", "--grpc-threads", value) for value in (-1, 10**9)),
    *(("serve", "x", "--rest-threads", value) for value in (-1, 10**9)),
    *(("serve", "x", "--max-message-mib", value) for value in (0, -1, 2_048, 10**9)),
    ("latency", "x", "--set", "student.dim=8"),
    ("doctor", "x.toml", "--list-column", "list_id"),
    ("doctor", "x.toml", "--score-column", "score"),
    ("serve", "x", "--image", "tensorflow/serving"),
    ("serve", "x", "--engine", "nonsense"),
    ("serve", "x", "--engine", ""),
    *(("load-test", "grpc://h:1", "--rate", v) for v in (0, -1, "nan", "inf", 1e300)),
    *(("load-test", "grpc://h:1", "--clients", value) for value in (0, -1, 10**9)),
    *(("load-test", "grpc://h:1", "--seconds", v) for v in (0, -1, "nan", "inf")),
    *(("load-test", "grpc://h:1", "--batch-size", value) for value in (0, -1, 10**9)),
    *(("load-test", "grpc://h:1", "--k", value) for value in (0, -1, 10**9)),
    *(("load-test", "grpc://h:1", "--processes", value) for value in (0, -1, 10**9)),
    *(("load-test", "grpc://h:1", "--version", value) for value in (-1, 2**63)),
]
TIMES = ["", "10", "ms", "-1s", "0s", "nans", "infs", "1e3s", "1..2s", "1 day"]
TOO_LONG = ["99999999999999s", "2000min", "9" * 400 + "s"]


@pytest.mark.parametrize("arguments", OPTIONS, ids=str)
def test_a_bad_option_is_refused(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    export = ["--export", "x"] if arguments[0] == "load-test" else []
    result = call(*arguments, *export)
    assert result.exit_code == 2, result.output
    assert_is_one_paragraph(result, f"`{arguments[2]}`")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--deadline", "--p99-budget"])
@pytest.mark.parametrize("time", [*TIMES, *TOO_LONG])
def test_a_bad_time_is_refused(option, time):
    result = call("load-test", "grpc://h:1", "--export", "x", f"{option}={time}")
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "A time must look like 10ms or 1s")
