"""Training of a teacher's members: each finishes once, and folds never see a query."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.data.collation import Collator
from recdistill.data.shard_reading import read_lists
from recdistill.distillation.score_transforms import transformed
from recdistill.errors import TrainingError
from recdistill.pipeline.member_training import MemberTraining, shards_without
from recdistill.pipeline.model_building import TeacherBuilder
from recdistill.pipeline.prepared_data import Prepared
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.teacher_opening import ExternalTeachers
from recdistill.pipeline.trainer import Trainer
from recdistill.pipeline.weights_file import WEIGHTS
from tests import small_pipelines
from tests.pipeline.logs import run

pytestmark = pytest.mark.slow

FOLDS = 2
SEQUENCE = f"{{kind='sequence', dim=4, blocks=1, steps=2, folds={FOLDS}}}"
TEACHER = (
    "teacher={kind='ensemble', weights=[2, 1], "
    f"members=[{SEQUENCE}, {{kind='linear', l2=20}}]}}"
)
SMALL = ("evaluate.valid_lists=20", "lists.contexts=60")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Step records, names of the training runs, and the files of a stopped attempt."""
    folder = tmp_path_factory.mktemp("folds")
    done, begun, files = {}, [], {}
    original = Trainer.teacher

    def training(self, model, settings, shards=None, part=""):
        begun.append(part)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return original(self, model, settings, shards, part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "teacher", training)
        config = small_pipelines.load(folder, TEACHER, *SMALL)
        with pytest.raises(KeyboardInterrupt):
            Pipeline(config).run("score")
        for path in (folder / "runs" / "tiny").glob(f".partial-teacher*/**/{WEIGHTS}"):
            files[path.parent.name] = path.read_bytes()
        Pipeline(config, announce=done.__setitem__).run("score")
    return config, done, begun, files


def test_a_stopped_step_continues_with_the_training_run_that_it_had_begun(finished):
    _, done, begun, files = finished
    first, second = f"without fold 1 of {FOLDS}", f"without fold 2 of {FOLDS}"
    assert begun == ["", first, second, second]
    folder = done["teacher"].path
    assert len(files) == 2
    kept = folder / "folds" / "member-0-without-0" / WEIGHTS
    assert kept.read_bytes() == files["member-0-without-0"]
    assert not [*folder.glob("member-*")], "What only a stopped attempt needs is gone."
    assert not [*folder.glob("folds/*/lists")]
    record = done["teacher"].record
    assert [each["model"] for each in record["trained"]] == ["sequence_ranker"]
    assert len(record["folds"]) == FOLDS
    # Two steps on all lists are one step on half of them.
    assert record["folds"][-1]["epoch_steps"] == 1
    assert len(record["folds"][-1]["history"]) == 1


def test_training_lists_have_scores_of_the_fold_that_has_not_seen_their_query(finished):
    config, done, _, _ = finished
    prepared, folder = Prepared(done["prepare"].path), done["teacher"].path
    builder = TeacherBuilder(
        config, prepared, ExternalTeachers(prepared, lambda: None), fit=False
    )
    whole = builder.build()
    whole.load_weights(folder / WEIGHTS)
    folds = []
    for fold in range(FOLDS):
        model = builder.member(config.teacher.members[0])
        model.load_weights(folder / "folds" / f"member-0-without-{fold}" / WEIGHTS)
        folds.append(model)
    stored = read_lists(sorted(done["score"].path.glob("scores-*.parquet"))[0])
    collate = Collator(prepared.catalogue_size, training_rows=prepared.training_rows)
    differ = 0
    for row in range(0, 60, 3):
        own = stored.take(np.array([row]))
        x, _, _ = collate(own, np.random.default_rng(0))
        fold = int(prepared.training_rows.take(own.query_row).values.sum()) % FOLDS
        members = [folds[fold], whole.members[1]]
        parts = [transformed(each(x), x["mask"], "z_score") for each in members]
        want = np.where(x["mask"], (2 * parts[0] + parts[1]) / 3, 0)
        np.testing.assert_allclose(own.teacher_scores, want, atol=3e-3)
        other = transformed(folds[1 - fold](x), x["mask"], "z_score")
        differ += not np.allclose(other, parts[0], atol=3e-3)
    assert differ > 15


def test_the_lists_of_a_fold_are_those_of_the_other_queries(finished, tmp_path):
    prepared = Prepared(finished[1]["prepare"].path)
    left_out = np.arange(len(prepared.training_rows)) % 3 == 1
    files = shards_without(prepared.shards("train"), left_out, tmp_path / "lists")
    got, want = (
        [row for path in paths for row in pq.read_table(path).to_pylist()]
        for paths in (files, prepared.shards("train"))
    )
    assert got == [row for row in want if row["query_row"] % 3 != 1]
    assert 0 < len(got) < len(want)


def test_a_fold_with_all_training_lists_is_an_error(tmp_path):
    # All queries have the same training items, and therefore the same fold.
    log = [(f"u{user}", f"i{item}", item) for user in range(8) for item in range(6)]
    items = pa.table({"item_id": [f"i{item}" for item in range(6)]})
    prepared, _ = run(small_pipelines.dataset(log, items), tmp_path / "p")
    settings = {"kind": "sequence", "dim": 4, "folds": 2}
    config = small_pipelines.config(teacher=settings)
    builder = TeacherBuilder(
        config, prepared, ExternalTeachers(prepared, lambda: None), fit=True
    )
    context = SimpleNamespace(config=config, prepared=prepared, teacher_trainer=None)
    training = MemberTraining(context, builder, tmp_path)
    with pytest.raises(TrainingError, match="lists are of queries in fold"):
        training.cross_fit(config.teacher, 0, 0)
