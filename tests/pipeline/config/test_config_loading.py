"""Loading of a configuration: errors name the key, the value and the remedy."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recdistill.errors import ConfigError
from recdistill.pipeline.config import Config, load_config, parse_config
from tests import small_pipelines

PIPELINES = sorted((Path(__file__).parents[3] / "pipelines").glob("*.toml"))


@pytest.fixture
def path(tmp_path):
    return small_pipelines.write_config(tmp_path)


def refusal(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_keys_of_the_file_are_read_and_others_have_defaults(path):
    settings = load_config(path)
    assert settings.name == "tiny"
    assert settings.dataset.synthetic.interactions == 4_000
    assert settings.query["history"].length == 8
    kinds = [member.kind for member in settings.teacher.members]
    assert kinds == ["reference", "linear"]
    assert settings.student.decays == (0.7, 0.97)
    assert settings.split.by == "query_time"


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda path: path.stem)
def test_pipelines_of_the_repository_are_valid(pipeline):
    assert load_config(pipeline).name


def test_there_are_pipelines_to_check():
    assert "movielens_100k" in [path.stem for path in PIPELINES]


@pytest.mark.parametrize(
    ("override", "place", "meant"),
    [
        ("studnt.dim=3", "studnt", "student"),
        ("student.dims=3", "student.dims", "dim"),
        ("dataset.synthetic.querys=3", "dataset.synthetic.querys", "queries"),
        ("query.history.lenght=3", "query.history.lenght", "length"),
        ("query.user_id.optionl=true", "query.user_id.optionl", "optional"),
        ("candidate.affinity.decai=1", "candidate.affinity.decai", "decay"),
        ("candidate.vector.sise=8", "candidate.vector.sise", "size"),
        ("split.tst=0.1", "split.tst", "test"),
        ("lists.tal=3", "lists.tal", "tail"),
        ("teacher.member=[]", "teacher.member", "members"),
        ("distill.temprature=2", "distill.temprature", "temperature"),
        ("evaluate.metric=['mrr']", "evaluate.metric", "metrics"),
        ("export.topk=3", "export.topk", "top_k"),
        (
            'teacher={kind="linear",max_item=3}',
            "teacher.max_item",
            "max_items",
        ),
        (
            'teacher.members=[{kind="reference",dimm=8}]',
            "teacher.members[0].dimm",
            "dim",
        ),
        (
            'teacher.members=[{kind="reference"},{kind="linear",l3=8}]',
            "teacher.members[1].l3",
            "l2",
        ),
    ],
)
def test_a_misspelt_key_is_an_error_with_its_place_and_the_nearest_key(
    path, override, place, meant
):
    problem = f"`{place}` is not a known key (did you mean `{meant}`?)."
    assert refusal(path, override) == f"{path}: {problem}"


def test_an_error_for_an_unknown_key_lists_the_known_keys(path):
    assert refusal(path, "split.xyz=1").endswith("(known: by, valid, test, held_out).")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("student.dim='wide'", "`student.dim` must be a valid integer"),
        ("student.dim=[4]", "Received: [4]"),
        ("student.dim=-1", "`student.dim` must be greater than 1"),
        ("student.hidden=3", "`student.hidden` must be an array. Received: 3"),
        ("evaluate.metrics='mrr'", "`evaluate.metrics` must be an array"),
        ("evaluate.bootstrap=19", "`evaluate.bootstrap` must be greater than or equal"),
        ("student.hidden=[4,0]", "`student.hidden[1]` must be greater than 0"),
        ("student.learning_rates=[]", "`student.learning_rates` must have"),
        ("student.dropout=1.0", "`student.dropout` must be less than 1"),
        ("student.l2=nan", "`student.l2` must be a finite number"),
        ("student.l2=inf", "`student.l2` must be a finite number"),
        ("lists.tail=-5", "`lists.tail` must be greater than 0"),
        ("lists.size='sampld'", "`lists.size` must be 'auto', 'catalogue' or 'retr"),
        ("seed=-1", "`seed` must be greater than or equal to 0"),
        ("query={}", "`query`: Dictionary should have at least 1 item"),
        ("teacher=3", "`teacher` must be a valid dictionary"),
        ("teacher={}", "`teacher.kind` is missing"),
        ("teacher.members=[]", "`teacher.members` must have at least 1"),
        ("teacher.members=[{dim=8}]", "`teacher.members[0].kind` is missing"),
        ("distill.loss='KL'", "`distill.loss` must be 'ListwiseKLDiverg"),
        ("distill.temperature=0", "`distill.temperature` must be greater"),
        ("distill.teacher_temperature=0", "`distill.teacher_temperature` must be gre"),
        ("distill.temperature='auto'", 'is now `teacher_temperature = "auto"`'),
        ("distill.teacher_temperature='warm'", "` must be 'auto'"),
        ("distill.scores='zscore'", "`distill.scores` must be 'none', 'z_sco"),
        ("lists.scores_dtype='int8'", "`lists.scores_dtype` must be 'float16"),
        ("dataset.columns.quer='u'", "`dataset.columns.quer` must be 'query'"),
        ("evaluate.metrics=['ndgc@10']", "Received: 'ndgc@10'; did you mean 'ndcg@10'"),
    ],
)
def test_a_bad_value_is_an_error_that_names_key_and_value(path, override, said):
    assert said in refusal(path, override)


def test_a_key_is_not_blamed_for_another_that_its_default_depends_on(path):
    said = refusal(path, "distill.weight=1.5")
    assert "`distill.weight` must be less than or equal to 1" in said
    assert "final_weight" not in said


def test_a_misspelt_kind_names_the_nearest_one(path):
    assert (
        "`candidate.tags.kind` must be one of 'id', 'category', 'categories', 'number'"
        in refusal(path, "candidate.tags.kind='categry'")
    )
    said = refusal(path, "teacher.members=[{kind='linea'}]")
    kinds = "'reference', 'sequence', 'linear', 'transition', "
    assert f"`teacher.members[0].kind` must be one of {kinds}" in said
    assert said.endswith("Received: 'linea' (did you mean `linear`?).")


KERAS = "teacher={kind='keras', path='a.keras'"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (f"{KERAS}, inputs={{x='segmnt'}}}}", "'segmnt'. Did you mean 'segment'?"),
        (f"{KERAS}, inputs={{x='affinity'}}}}", "Received: 'affinity'"),
        (f"{KERAS}, inputs={{x='mask'}}}}", "Received: 'mask'"),
        ("teacher={kind='tf_keras'}", "`path` or `factory` must be given"),
        (
            "teacher={kind='callable', function='f'}",
            "`teacher.function` must match",
        ),
        (
            "teacher={kind='remote', address='host:1', model='m'}",
            "`teacher.address` must match",
        ),
        ("teacher={kind='scores', columns={item='i'}}", "`columns` requires `path`"),
        ("teacher={kind='lightgbm', path='m', layout='lists'}", "not a known key"),
        ("dataset={reader='tables', path='a', columns={list='l'}}", "'listwise'"),
        ("teacher={kind='ensemble', members=[{kind='ensemble'}]}", "must be one of"),
        ("teacher={kind='linear', folds=2}", "in steps, `reference` and `sequence`."),
        ("teacher={kind='sequence', folds=1}", "`folds` must be 0 or at least 2"),
    ],
)
def test_an_invalid_teacher_is_an_error(path, override, said):
    assert said in refusal(path, override)


@pytest.mark.parametrize(
    "override",
    [
        f"{KERAS}, inputs={{x='segment', n='history_length'}}}}",
        f"{KERAS}, layout='lists', inputs={{x='mask'}}}}",
        "teacher={kind='remote', address='grpc://host:1', model='m'}",
        "teacher={kind='tf_keras', factory='my.models:build'}",
        "teacher={kind='scores', path='s.csv', columns={query='who'}}",
        "teacher={kind='ensemble', normalize='rank', members=[{kind='linear'}, "
        "{kind='lightgbm', path='m.txt'}]}",
    ],
)
def test_external_teachers_can_be_configured(path, override):
    assert load_config(path, [override]).teacher


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("split.valid=0.95", "for training. Received: valid=0.95, test=0.1"),
        (
            'dataset.items.columns=["a", "b"]',
            "`items` requires reader 'tables', 'listwise' or 'frames'",
        ),
        (
            "dataset={reader='tables',path='a',lists={types={x='text'}}}",
            "`lists` has no meaning for reader 'tables', whose table is `interactions`",
        ),
        ("dataset.time_format='%Q'", "`strptime` such as `%d/%m/%Y %H:%M`. Received"),
        ("dataset.time_format=iso", "must be s, ms, us, ns, or a format"),
        ("split.held_out=2", "no meaning for by='query_time'. Use `valid` and `test`"),
        ("teacher.weights=[1.0]", "Received: 1 for 2 members"),
        ("teacher.members=[{kind='reference',dim=9}]", "Received: dim=9, heads=2"),
        ("candidate={tags={kind='categories'}}", "Received: ['tags']"),
        ("query.item_id={kind='id'}", "Received in both: ['item_id']"),
        ("query.past={kind='history'}", "Received: ['history', 'past']"),
        ("query={user_id={kind='id'}}", "'history' for a linear teacher. Received"),
        (
            "query={history={kind='history',teacher_only=true}}",
            "`query` must have a feature that the student reads. Received",
        ),
        (
            "candidate.item_id.teacher_only=true",
            "`student.shared_items` must be false if the item id is `teacher_only`",
        ),
        ("candidate.affinity.teacher_only=false", "Received: teacher_only=false"),
        ("dataset.path='data'", "must not be given for reader 'synthetic'"),
        ("dataset={reader='tables'}", "Received: neither"),
        ("dataset={reader='tables',path='a',fetch='b'}", "Received: ['path', 'fetch']"),
        ("dataset.synthetic.interactions=7_201", "at most queries * items / 2 = 7200"),
        ("dataset.delimiter=';'", "must not be given for reader 'synthetic', which"),
        ("dataset.columns={relevance='stars'}", "`columns` must not be given for"),
        (
            "dataset={reader='tables',path='a',synthetic={seed=9}}",
            "`synthetic` must not be given for reader 'tables'",
        ),
        ("engine.workers=4", "`kind` must be given beside `workers`"),
        ("tracking.experiment=a", "`mlflow` must be given beside `experiment`"),
        ("query.history.column=past", "`column` has no meaning for a history"),
        ("query.history.optional=true", "`optional` has no meaning for a history"),
    ],
)
def test_values_that_contradict_each_other_are_an_error(path, override, said):
    assert said in refusal(path, override)


def test_a_recurrent_encoder_cannot_be_exported_for_devices(path):
    said = refusal(path, "student.encoder=gru", "export.on_device=true")
    assert "that LiteRT can run: none or 'attention'. Received: encoder='gru'" in said


def test_keys_of_a_cluster_may_stay_for_a_run_on_one_machine(path):
    config = load_config(path, ["engine.workers=4", "engine.kind=local"])
    assert (config.engine.kind, config.engine.workers) == ("local", 4)


def test_probabilities_are_stored_as_float32_unless_the_file_says_otherwise(path):
    assert load_config(path).lists.scores_dtype == "float16"
    found = load_config(path).for_probabilities()
    assert found.lists.scores_dtype == "float32"
    found = load_config(path, ["lists.scores_dtype=float16"]).for_probabilities()
    assert found.lists.scores_dtype == "float16"


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "1st", "größe"])
def test_a_name_that_is_not_a_valid_folder_name_is_an_error(path, name):
    assert "`name` must match pattern" in refusal(path, f"name='{name}'")


def test_all_problems_are_in_one_message(path):
    said = refusal(path, "student.dims=3", "lists.tail=0", "teacher.members=[{}]")
    assert said.count(";") == 2
    assert "\n" not in said


def test_missing_sections_are_named(tmp_path):
    said = refusal(small_pipelines.write_config(tmp_path, 'name = "bare"'))
    missing = "dataset", "query", "candidate", "teacher"
    assert said.endswith("; ".join(f"`{each}` is missing" for each in missing) + ".")


def test_a_file_that_is_not_toml_is_an_error_with_its_line(tmp_path):
    said = refusal(small_pipelines.write_config(tmp_path, 'name = "x"\nseed = = 1\n'))
    assert "is not a TOML file" in said
    assert "line 2" in said


def test_a_file_that_is_not_utf_8_is_an_error(tmp_path):
    path = tmp_path / "latin.toml"
    path.write_bytes('name = "größe"'.encode("latin-1"))
    assert "is not a TOML file: 'utf-8' codec" in refusal(path)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    assert refusal(tmp_path / "no.toml").endswith("no.toml: No such file or directory.")
    assert refusal(tmp_path).endswith("Is a directory.")


def test_overrides_are_toml_values_or_strings(path):
    settings = load_config(
        path,
        [
            "student.dim = 64",
            "student.hidden=[8, 4]",
            "distill.temperature=2.5",
            "student.popularity_bias=false",
            "candidate.title={kind='text', buckets=7}",
            "split.by=global_time",  # a section that the file does not have
            "workdir=some/where=else",
        ],
    )
    assert settings.student.dim == 64
    assert settings.student.hidden == (8, 4)
    assert settings.distill.temperature == 2.5
    assert settings.student.popularity_bias is False
    assert settings.candidate["title"].buckets == 7
    assert settings.split.by == "global_time"
    assert settings.workdir == Path("some/where=else")


def test_the_last_override_of_a_key_counts(path):
    assert load_config(path, ["seed=5", "seed=6"]).seed == 6


@pytest.mark.parametrize("override", ["seed", "=3", " =3", ""])
def test_a_malformed_override_is_an_error(path, override):
    said = f"`--set` must look like section.key=value. Received: {override!r}"
    assert refusal(path, override) == said


def test_an_override_inside_a_value_is_an_error(path):
    assert "'name' is a value. Received: 'name.x=3'" in refusal(path, "name.x=3")


@pytest.mark.parametrize("folder", ["a[b]", "a\\b", "x/[y/z"])
def test_exports_are_not_written_where_tensorflow_cannot_load_them(path, folder):
    said = refusal(path, f"export.path='{folder}'")
    assert "`export.path`" in said
    assert "must not contain '[' or a backslash" in said


def test_artefacts_and_exports_cannot_share_a_folder(path):
    said = refusal(path, "workdir=runs", "export.path=./runs")
    assert "`export.path` must be another folder than `workdir`" in said


class TestRandomDocuments:
    """Hypothesis: any document is a configuration or one paragraph."""

    VALUES = st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(max_size=9),
            st.dates(),
            st.sampled_from(["linear", "history", "id", "auto", "synthetic", "tables"]),
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.one_of(st.sampled_from(["kind", "path", "a"]), st.text(max_size=5)),
                inner,
                max_size=3,
            ),
        ),
        max_leaves=6,
    )

    @staticmethod
    def check(document):
        try:
            parse_config(document, source="f.toml")
        except ConfigError as error:
            assert len(str(error).splitlines()) == 1

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(key=st.sampled_from(sorted(Config.model_fields)), value=VALUES)
    def test_of_one_section(self, key, value):
        valid = tomllib.loads(small_pipelines.CONFIG)
        self.check({**valid, key: value})

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(data=st.data())
    def test_of_one_key(self, data):
        document = tomllib.loads(small_pipelines.CONFIG)
        section = data.draw(st.sampled_from(sorted(document)))
        inner = document[section]
        while isinstance(inner, dict) and data.draw(st.booleans()):
            deeper = [each for each in inner.values() if isinstance(each, dict)]
            if not deeper:
                break
            inner = data.draw(st.sampled_from(deeper))
        if isinstance(inner, dict):
            key = data.draw(st.one_of(st.sampled_from(sorted(inner)), st.text()))
            inner[key] = data.draw(self.VALUES)
        self.check(document)

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(override=st.text(max_size=30))
    def test_with_any_override(self, override):
        try:
            parse_config(tomllib.loads(small_pipelines.CONFIG), [override])
        except ConfigError as error:
            assert len(str(error).splitlines()) == 1
