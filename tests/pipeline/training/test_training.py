"""Training keeps the best checkpoint, and equal seeds give equal weights."""

import json
import math
from types import SimpleNamespace

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from recdistill.data.collation import Collator
from recdistill.data.shard_reading import in_order
from recdistill.distillation.distiller import Distiller
from recdistill.errors import TrainingError
from recdistill.pipeline.config import DistillConfig, ListsConfig, StudentConfig
from recdistill.pipeline.models.model_building import TeacherBuilder, build_student
from recdistill.pipeline.models.scorers import compiled
from recdistill.pipeline.models.teacher_opening import ExternalTeachers
from recdistill.pipeline.models.weights_file import seed_folder
from recdistill.pipeline.ranking.validation import Validation
from recdistill.pipeline.scores.score_store import examine_stored, stored_candidates
from recdistill.pipeline.scores.score_writing import ScoreWriter
from recdistill.pipeline.training import (
    step_compilation,
    training_checkpoints,
    training_curves,
)
from recdistill.pipeline.training import trainer as trainer_module
from recdistill.pipeline.training.soft_targets import choose
from recdistill.pipeline.training.trainer import TEACHER_VALIDATIONS, Trainer
from recdistill.pipeline.training.training import TrainingPlan, _key, train
from recdistill.pipeline.training.training_batches import (
    training_batches,
    with_few_untrained,
)
from recdistill.pipeline.training.training_checkpoints import begin_training, kept_in
from recdistill.pipeline.training.training_curves import (
    MeasuredAdamW,
    gradient_norm,
    measured_optimizer,
    unobserved,
)
from tests import small_pipelines
from tests.pipeline.logs import random_log, run
from tests.pipeline.score_stores import (
    hashes_of,
    prepare_small,
    retrieved,
    write,
    write_with,
)
from tests.pipeline.tiny_runs import weights

pytestmark = pytest.mark.slow

METRICS = ("ndcg@10", "mrr")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Users of four groups, who choose the twelve items of their group, each once."""
    log = [
        (f"u{user}", f"i{user % 4 + 4 * ((user + 5 * k) % 12)}", k)
        for user in range(24)
        for k in range(12)
    ]
    return run(small_pipelines.dataset(log), tmp_path_factory.mktemp("prepared") / "p")[
        0
    ]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return prepare_small(tmp_path_factory.mktemp("small") / "p")


@pytest.fixture
def student(prepared):
    return new_student(prepared)


def new_student(prepared, seed=5):
    keras.utils.set_random_seed(seed)
    settings = StudentConfig(dim=4, embedding_dim=4, hidden=(8,), dropout=0.2)
    return build_student(settings, prepared)


def fit(
    prepared,
    student,
    validation,
    progress=small_pipelines.quiet,
    seed=5,
    observe=unobserved,
    **changes,
):
    plan = {"steps": 12, "epochs": 6, "patience": 6, "learning_rate": 0.01} | changes
    collate = Collator(prepared.catalogue_size, tail=6)
    dataset = training_batches(prepared.shards("train"), collate, 16, seed)
    distiller = Distiller(None, student, student_loss_weight=1.0)
    plan = TrainingPlan(**plan)
    fitted = train(
        distiller, dataset.skip, validation, plan, progress, "Training", observe
    )
    return distiller, fitted


class Scripted:
    """A validation that returns these values and stores the weights at each call."""

    def __init__(self, student, *values):
        self.student, self.values, self.judged = student, list(values), []
        self.metrics = ["ndcg@10"]

    def __len__(self):
        return 4

    def during_training(self):
        return self

    def __call__(self, score):
        self.judged.append(self.student.get_weights())
        return self.values[len(self.judged) - 1]


def assert_equal_weights(one, other):
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


def test_the_best_checkpoint_is_kept_and_training_stops_early(prepared, student):
    # The second 0.5 is no new best.
    validation = Scripted(student, 0.1, 0.5, 0.5, 0.4)
    distiller, fitted = fit(prepared, student, validation, patience=2)
    assert fitted.history == [0.1, 0.5, 0.5, 0.4]
    assert (fitted.best, fitted.best_epoch) == (0.5, 2)
    assert fitted.learning_rate == 0.01
    assert_equal_weights(student.get_weights(), validation.judged[1])
    assert any((a != b).any() for a, b in zip(*validation.judged[1:3], strict=True))
    assert int(distiller.optimizer.iterations) == 4 * 2


def test_a_killed_training_goes_on_after_its_last_validation(
    prepared, tmp_path, monkeypatch
):
    monkeypatch.setattr(training_checkpoints, "SECONDS_BETWEEN_FILES", 0.0)
    values = [0.1, 0.5, 0.3, 0.4, 0.6, 0.2]
    whole, points, told = new_student(prepared), [], []
    scripted = Scripted(whole, *values)
    _, want = fit(
        prepared, whole, scripted, observe=lambda *point: points.append(point)
    )

    class Killed(Scripted):
        def __call__(self, score):
            if len(self.judged) == 3:
                raise KeyboardInterrupt
            return super().__call__(score)

    first, second = new_student(prepared), new_student(prepared)
    with pytest.raises(KeyboardInterrupt), kept_in(tmp_path / "t"):
        fit(prepared, first, Killed(first, *values))
    rest = Scripted(second, *values[3:])
    with kept_in(tmp_path / "t") as earlier:
        _, got = fit(prepared, second, rest, observe=lambda *point: told.append(point))
    assert earlier > 0
    # What observes the training is told what came before, in the order of each kind.
    for judged in (True, False):
        want_told = [each for each in points if ("validation" in each[1]) is judged]
        assert [each for each in told if each in want_told] == want_told
    assert len(told) == len(points)
    assert (len(rest.judged), got) == (3, want)
    assert_equal_weights(second.get_weights(), whole.get_weights())
    assert not (tmp_path / "t").exists()


def test_a_checkpoint_belongs_to_one_of_two_trainings_that_begin_alike(prepared):
    plan = TrainingPlan(0.01, steps=12, epochs=6, patience=6)
    one, other = (SimpleNamespace(student=new_student(prepared)) for _ in range(2))
    assert _key(one, plan, ["teacher", 1]) == _key(other, plan, ["teacher", 1])
    assert _key(one, plan, ["teacher", 1]) != _key(other, plan, ["teacher", 2])


def test_a_full_disk_keeps_the_last_checkpoint_and_does_not_end_the_training(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(training_checkpoints, "SECONDS_BETWEEN_FILES", 0.0)
    with pytest.raises(KeyboardInterrupt), kept_in(tmp_path / "t"):
        _, keep = begin_training("key")
        keep(lambda: {"epoch": 1})
        monkeypatch.setattr(training_checkpoints.np, "savez", no_space)
        keep(lambda: {"epoch": 2})
        raise KeyboardInterrupt
    with kept_in(tmp_path / "t"):
        assert begin_training("key")[0] == {"epoch": 1}


def no_space(*_, **__):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (MemoryError(), True),
        (OSError(28, "No space left on device"), True),
        (tf.errors.ResourceExhaustedError(None, None, "OOM"), True),
        (TrainingError("wrong"), False),
    ],
)
def test_a_checkpoint_stays_if_the_machine_ended_the_training(tmp_path, error, kept):
    with pytest.raises(type(error)), kept_in(tmp_path / "t"):
        raise error
    assert (tmp_path / "t").exists() is kept


@pytest.mark.parametrize("content", [b"PK half a file", b"", b"PK\x03\x04\xff"])
def test_a_damaged_checkpoint_is_not_used(tmp_path, content):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "key.npz").write_bytes(content)
    with kept_in(tmp_path / "t"):
        assert begin_training("key")[0] == {}


def test_the_curve_has_the_losses_the_gradient_and_the_learning_rate(
    prepared, monkeypatch
):
    monkeypatch.setattr(training_curves, "POINTS", 2)
    settings = {"dim": 4, "embedding_dim": 4, "dropout": 0.0, "id_dropout": 0.0}
    student = build_student(StudentConfig(hidden=(8,), **settings), prepared)
    collate = Collator(prepared.catalogue_size, tail=6)
    (batch,) = training_batches(prepared.shards("train"), collate, 16, 5).take(1)
    distiller = Distiller(None, student, student_loss_weight=1.0)
    rate, reports = 1e-12, []  # the weights stay as they are
    fitted = train(
        distiller,
        tf.data.Dataset.from_tensors(batch).repeat().skip,
        Scripted(student, 0.1, 0.2),
        TrainingPlan(rate, steps=8, epochs=2, patience=2),
        small_pipelines.quiet,
        "Training",
        lambda step, values: reports.append((step, "validation" in values)),
    )
    with tf.GradientTape() as tape:
        x, y, weight = batch
        loss = distiller.compute_loss(x, y, sample_weight=weight)
    gradients = tape.gradient(loss, student.trainable_variables)
    squares = sum((np.array(tf.convert_to_tensor(g)) ** 2).sum() for g in gradients)
    curve, steps = fitted.curve, [2, 4, 6, 8]
    assert (fitted.epoch_steps, curve["step"]) == (4, steps)
    np.testing.assert_allclose(curve["gradient_norm"], np.sqrt(squares), rtol=1e-4)
    np.testing.assert_allclose(curve["loss"], float(loss), rtol=1e-4)
    assert curve["relevance_loss"] == curve["loss"]
    decay = [rate * (1 + np.cos(np.pi * step / 8)) / 2 for step in steps]
    np.testing.assert_allclose(curve["learning_rate"], decay, rtol=1e-4, atol=1e-18)
    points = [(2, False), (4, False), (4, True), (6, False), (8, False), (8, True)]
    assert reports == points


def test_the_gradient_norm_adds_the_rows_of_a_table_first_and_never_all_its_rows():
    # 3 TiB, if all rows were in memory
    shape = [10**12, 1]
    rows = tf.IndexedSlices(tf.constant([[1.0], [3.0]]), [2, 2], shape)
    assert float(gradient_norm([rows, tf.constant([[3.0]]), None])) == 5.0


class CountingDistiller(Distiller):
    """Counts the calls of `compute_loss` from Python."""

    calls = 0

    def compute_loss(self, *args, **kwargs):
        self.calls += 1
        return super().compute_loss(*args, **kwargs)


def whole_catalogue_training(prepared, *, xla, steps=6):
    """A student without randomness, trained on lists of the whole catalogue."""
    settings = {"dim": 4, "embedding_dim": 4, "dropout": 0.0, "id_dropout": 0.0}
    keras.utils.set_random_seed(5)
    student = build_student(StudentConfig(hidden=(8,), **settings), prepared)
    collate = Collator(prepared.catalogue_size, shared=True)
    dataset = training_batches(prepared.shards("train"), collate, 16, 5)
    # A query without a history must not make the gradient infinite.
    dataset = dataset.map(lambda x, y, w: (without_first_history(x), y, w))
    plan = TrainingPlan(0.01, steps, epochs=2, patience=2)
    distiller = CountingDistiller(None, student, student_loss_weight=1.0)
    progress, validation = small_pipelines.quiet, Scripted(student, 0.1, 0.2)
    train(distiller, dataset.skip, validation, plan, progress, "Training", xla=xla)
    return distiller


def without_first_history(x):
    history = x["query"]["history"]
    emptied = tf.concat([tf.zeros_like(history[:1]), history[1:]], axis=0)
    return {**x, "query": {**x["query"], "history": emptied}}


def test_a_step_compiled_with_xla_is_traced_once_and_gives_the_same_weights(prepared):
    runs = [whole_catalogue_training(prepared, xla=xla) for xla in (True, True, False)]
    first, again, plain = (run.student.get_weights() for run in runs)
    assert_equal_weights(first, again)
    for one, other in zip(first, plain, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)  # of 0.06
    assert [run.jit_compile for run in runs] == [True, True, False]
    assert [run.calls for run in runs] == [1, 1, 1]  # Each trace calls it once.


@pytest.mark.parametrize("fewer, compiled", [(0, True), (1, False)])
def test_the_step_is_compiled_if_the_stored_lists_of_a_batch_hold_nearly_all_items(
    small, tmp_path, monkeypatch, fewer, compiled
):
    monkeypatch.setattr(step_compilation, "STEPS_FOR_XLA", 4)
    used = []

    def spy(*args, xla):
        used.append(xla)
        return train(*args, xla=xla)

    monkeypatch.setattr(trainer_module, "train", spy)
    write(small, tmp_path / "store")
    files = sorted((tmp_path / "store").glob("scores-*.parquet"))
    listed = stored_candidates(files[:1]) / pq.read_metadata(files[0]).num_rows
    lists = math.ceil(3 * small.catalogue_size / listed) - fewer
    record = distilled(small, tmp_path, files, lists)
    assert used == [compiled]
    first = weights(tmp_path)
    distilled(small, tmp_path, files, lists)
    again = weights(tmp_path)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    monkeypatch.setattr(step_compilation, "STEPS_FOR_XLA", 5)
    plain = distilled(small, tmp_path, files, lists)
    assert used == [compiled, compiled, False]
    losses = [each["trials"][0]["curve"]["loss"] for each in (record, plain)]
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_a_compiled_step_can_compare_the_embeddings_of_an_assistant(
    small, tmp_path, monkeypatch
):
    """The assistant runs within the step and searches for distinct candidates."""
    write(small, tmp_path / "store")
    files = sorted((tmp_path / "store").glob("scores-*.parquet"))
    terms = [{"name": "ListwiseKLDivergence"}, {"name": "RelationalDistance"}]
    distill = {"assistant": {"dim": 8}, "loss": terms}
    losses = []
    for least in (4, 5):
        monkeypatch.setattr(step_compilation, "STEPS_FOR_XLA", least)
        record = distilled(small, tmp_path, files, 12, distill, new_student(small))
        losses.append(record["trials"][0]["curve"]["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-3)


def distilled(prepared, folder, files, batch_size, distill=None, assistant=None):
    """The record of a student that is distilled on a store."""
    settings = {"dim": 4, "embedding_dim": 4, "hidden": [8], "steps": 4}
    settings |= {"batch_size": batch_size, "learning_rates": [0.01]}
    config = small_pipelines.config(
        student={**settings, "id_dropout": 0.0},
        lists=retrieved().model_dump(),
        distill=distill or {},
    )
    validation = Validation.sample(prepared, METRICS, 50, seed=1)
    quiet = small_pipelines.quiet
    trainer = Trainer(config, prepared, validation, quiet, quiet)
    targets = choose(
        config.distill, examine_stored(files[0].parent, prepared.catalogue_size)
    )
    return trainer.distil(folder, files, targets, "Distilling", assistant=assistant)


def test_only_the_rows_of_large_tables_that_are_in_the_gradient_change(monkeypatch):
    monkeypatch.setattr(training_curves, "ROWS_OF_A_LARGE_TABLE", 4)
    model = keras.Sequential([keras.layers.Embedding(4, 1, name="items")])
    model.build((1, 2))
    table = model.layers[0].embeddings
    table.assign([[1.0], [2.0], [3.0], [4.0]])
    optimizer = measured_optimizer(model, 0.1, weight_decay=0.5, epoch_steps=1)
    gradient = tf.IndexedSlices(tf.constant([[2.0], [2.0]]), [2, 2], [4, 1])
    optimizer.apply([gradient], [table])
    # A step of Adam is the learning rate at first; 0.1 x 0.5 of the row decays.
    np.testing.assert_allclose(table[:, 0], [1.0, 2.0, 3.0 - 0.1 - 0.15, 4.0], 1e-6)
    assert float(optimizer.gradient_norm) == 4.0
    monkeypatch.setattr(training_curves, "ROWS_OF_A_LARGE_TABLE", 5)
    assert type(measured_optimizer(model, 0.1, 0.5, 1)) is MeasuredAdamW


def test_weight_decay_computes_the_learning_rate_once_in_a_step():
    calls = []

    class Schedule(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            calls.append(step)
            return tf.constant(0.1)

    weights = [keras.Variable([value], name=f"w{value}") for value in (1.0, 2.0, 4.0)]
    optimizer = MeasuredAdamW(Schedule(), weight_decay=0.5, epoch_steps=1)
    optimizer.apply([tf.constant([0.0])] * 3, weights)
    # A gradient of zero changes nothing; 0.1 x 0.5 of each weight decays.
    np.testing.assert_allclose(tf.concat(weights, 0), [0.95, 1.9, 3.8], 1e-6)
    assert len(calls) == 1
    optimizer.apply([tf.constant([0.0])] * 3, weights)
    assert len(calls) == 2  # The next step has the rate of the next step.


def test_a_new_best_resets_the_patience(prepared, student):
    values = 0.1, 0.0, 0.2, 0.1, 0.3, 0.2
    validation = Scripted(student, *values)
    distiller, fitted = fit(prepared, student, validation, patience=2)
    assert fitted.history == list(values)
    assert fitted.best_epoch == 5
    assert_equal_weights(student.get_weights(), validation.judged[4])
    assert int(distiller.optimizer.iterations) == 12


def test_nan_is_never_the_best(prepared, student):
    values = np.nan, 0.2, np.nan
    _, fitted = fit(prepared, student, Scripted(student, *values), epochs=3, patience=3)
    assert (fitted.best, fitted.best_epoch) == (0.2, 2)


def test_nan_after_every_epoch_is_an_error(prepared, student):
    validation = Scripted(student, np.nan)
    with pytest.raises(TrainingError, match=r"Training diverged .* rate 0\.01: "):
        fit(prepared, student, validation, epochs=1)


def trained_with(prepared, folder, *rates, seeds=1):
    """The record of a student's training, and the warnings."""
    settings = {"dim": 4, "embedding_dim": 4, "hidden": [8], "steps": 12}
    settings |= {"learning_rates": rates, "seeds": seeds}
    config = small_pipelines.config(student=settings)
    warnings = []
    validation = Validation.sample(prepared, METRICS, 50, seed=1)
    trainer = Trainer(
        config, prepared, validation, small_pipelines.quiet, warnings.append
    )
    collate = Collator(prepared.catalogue_size, tail=6)
    record = trainer.student(
        folder,
        lambda student: Distiller(None, student, student_loss_weight=1.0),
        lambda seed, delivered: trainer.batches(
            prepared.shards("train"), collate, seed=seed, delivered=delivered
        ),
        "Training",
    )
    return record, warnings


def test_a_learning_rate_that_diverges_is_left_out_with_a_warning(prepared, tmp_path):
    record, warnings = trained_with(prepared, tmp_path, 0.01, 1e30)
    assert [trial["diverged"] for trial in record["trials"]] == [False, True]
    assert record["trials"][1]["history"] == [None]
    assert len(record["trials"][1]["curve"]["loss"]) == 2  # The steps of one epoch.
    assert record["valid"] == record["trials"][0]["best"] > 0.0
    (warning,) = warnings
    assert warning.startswith("Training, 2 of 2 diverged with learning rate 1e+30: ")
    json.dumps(record, allow_nan=False)


def test_each_seed_has_its_student_and_the_best_on_validation_is_kept(
    prepared, tmp_path
):
    record, warnings = trained_with(prepared, tmp_path, 1e30, 0.01, seeds=3)
    values = {each["seed"]: each["valid"] for each in record["seeds"]}
    first = record["trials"][1]["best"]
    assert list(values) == [1, 2, 3] and values[1] == first
    assert len(set(values.values())) > 1
    assert record["valid"] == max(values.values()) == values[record["seed"]]
    assert len(record["trials"]) == 2 and len(warnings) == 1
    stored = {seed: weights(seed_folder(tmp_path, seed)) for seed in values}
    best = weights(tmp_path)
    for seed, found in stored.items():
        same = all(np.array_equal(best[name], found[name]) for name in best)
        assert same == (seed == record["seed"])


def test_training_stops_if_every_learning_rate_diverges(prepared, tmp_path):
    with pytest.raises(TrainingError, match=r"diverged .* rate 1e\+31: "):
        trained_with(prepared, tmp_path, 1e30, 1e31)
    assert not list(tmp_path.iterdir())


def test_two_trainings_with_one_seed_give_equal_weights(prepared):
    tf.config.experimental.enable_op_determinism()
    validation = Validation.sample(prepared, METRICS, 50, seed=1)
    weights, histories = [], []
    for seed in (5, 5, 6):
        student = new_student(prepared, seed)
        _, fitted = fit(prepared, student, validation, epochs=2, seed=seed)
        weights.append(student.get_weights())
        histories.append(fitted.history)
    assert_equal_weights(weights[0], weights[1])
    assert histories[0] == histories[1]
    assert any((a != b).any() for a, b in zip(weights[0], weights[2], strict=True))


def test_training_improves_the_student(prepared, student):
    validation = Validation.sample(prepared, METRICS, 1_000, seed=1)
    before = validation(compiled(student))
    _, fitted = fit(prepared, student, validation, steps=120, epochs=4)
    assert fitted.best > before
    assert validation(compiled(student)) == pytest.approx(fitted.best)


def test_few_items_without_training_interactions_are_negatives():
    trained = np.array([True] * 50 + [False] * 50)
    mask = np.ones((4, 100), bool)
    mask[:, 0] = False
    x = {"candidate_index": np.arange(100), "mask": mask}
    labelled = np.arange(100) < [[30], [60], [90], [100]]
    batch = x, {"labels": np.zeros((4, 100)), "mask": mask & labelled}, np.ones(4)
    dataset = tf.data.Dataset.from_tensors(batch).repeat(40)
    batches = [*with_few_untrained(dataset, trained, 0.25, seed=1)]
    masks = np.stack([x["mask"].numpy() for x, _, _ in batches])
    of_relevance = [y["mask"].numpy() for _, y, _ in batches]
    np.testing.assert_array_equal(of_relevance, masks & labelled)
    assert masks[:, :, 1:50].all()
    assert not masks[:, :, 0].any()
    assert masks[:, :, 50:].mean() == pytest.approx(0.25, abs=0.03)
    assert (masks[0] != masks[1]).any()
    again = [*with_few_untrained(dataset, trained, 0.25, seed=1)]
    np.testing.assert_array_equal(again[7][0]["mask"], masks[7])
    rest = [*with_few_untrained(dataset.skip(30), trained, 0.25, seed=1, delivered=30)]
    np.testing.assert_array_equal(rest[3][0]["mask"], masks[33])


def test_batches_before_an_interruption_are_not_made_again(prepared, monkeypatch):
    collate, made = Collator(prepared.catalogue_size, tail=6), []

    def counting(self, *arguments):
        made.append(arguments)
        return whole(self, *arguments)

    whole = Collator.__call__
    monkeypatch.setattr(Collator, "__call__", counting)
    shards = prepared.shards("train")
    *_, wanted = training_batches(shards, collate, 16, 5).take(30)
    made.clear()
    (found,) = training_batches(shards, collate, 16, 5, delivered=29).take(1)
    assert len(made) < 15  # Some are made ahead.
    for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(wanted), strict=True):
        np.testing.assert_array_equal(one, other)


def test_progress_is_reported(prepared, student):
    calls = []
    fit(
        prepared,
        student,
        Scripted(student, 0.1, 0.2),
        lambda *call: calls.append(call),
        steps=60,
        epochs=2,
    )
    first, second = "ndcg@10 0.1000 on validation", "ndcg@10 0.2000 on validation"
    assert calls == [
        ("Training", 20, 60),
        ("Training", 30, 60, first),
        ("Training", 40, 60),
        ("Training", 60, 60),
        ("Training", 60, 60, second),
    ]


@pytest.mark.parametrize("transform", ["z_score", "none"])
def test_stored_scores_are_transformed_within_each_list_as_configured(
    prepared, tmp_path, transform
):
    def teacher(x):
        scores = np.arange(x["mask"].size, dtype="float32").reshape(x["mask"].shape)
        return scores % 17

    lists = ListsConfig(size="catalogue")
    hashes = hashes_of(prepared)
    write_with(ScoreWriter(teacher, prepared, lists, 1, hashes), tmp_path)
    collate = Collator(prepared.catalogue_size, with_teacher=True)
    files = sorted(tmp_path.glob("scores-*.parquet"))
    plain = next(iter(training_batches(files, collate, 16, seed=1)))
    config = DistillConfig(scores=transform, teacher_temperature=2.0)
    targets = choose(config, examine_stored(tmp_path, prepared.catalogue_size))
    got = next(iter(training_batches(files, collate, 16, 1, targets)))
    scores, mask = plain[0]["teacher_scores"].numpy(), plain[0]["mask"].numpy()
    if transform == "z_score":
        real = np.where(mask, scores, np.nan).astype("float64")
        mean, deviation = (f(real, 1, keepdims=True) for f in (np.nanmean, np.nanstd))
        scores = np.where(mask, (real - mean) / deviation, 0.0)
    np.testing.assert_allclose(
        np.where(mask, got[0]["teacher_scores"], 0.0),
        np.where(mask, scores / 2.0, 0.0),
        rtol=1e-4,
        atol=1e-5,
    )
    np.testing.assert_array_equal(got[0]["mask"], mask)


def test_a_ranker_of_an_ensemble_can_leave_out_affinities(tmp_path):
    log = random_log(4, rows=300, users=20, items=12, moments=50)
    candidate = {"item_id": {"kind": "id"}, "affinity": {"kind": "affinity", "l2": 5.0}}
    prepared = run(small_pipelines.dataset(log), tmp_path / "p", candidate=candidate)[0]
    ranker = {"kind": "reference", "dim": 4, "heads": 1}
    members = [ranker, {**ranker, "affinities": False}]
    config = small_pipelines.config(
        candidate=candidate, teacher={"kind": "ensemble", "members": members}
    )
    external = ExternalTeachers(prepared, lambda: None)
    teacher = TeacherBuilder(config, prepared, external, fit=True).build()
    with_them, without = teacher.members
    assert [len(each.affinities) for each in (with_them, without)] == [1, 0]
    lists = next(in_order(prepared.shards("train"), 8))
    x, _, _ = Collator(prepared.catalogue_size)(lists, np.random.default_rng(0))
    before = without(x).numpy(), with_them(x).numpy()
    with_them.pair_weights.set_weights([np.ones((2, 1), "float32")])
    np.testing.assert_array_equal(without(x), before[0])
    assert not np.allclose(with_them(x), before[1])


def test_a_sequence_ranker_learns_which_items_a_query_feature_goes_with(tmp_path):
    rng = np.random.default_rng(0)
    place = rng.integers(2, size=400)  # Six items are chosen at home, six at work.
    log = pa.table(
        {
            "user_id": [f"u{k % 20}" for k in range(400)],
            "item_id": [f"i{k}" for k in rng.integers(6, size=400) + 6 * place],
            "timestamp": np.arange(400),
            "place": np.where(place, "work", "home"),
        }
    )
    settings = {
        "query": {**small_pipelines.HISTORY, "place": {"kind": "category"}},
        "lists": {"seen": "include"},
        "teacher": {
            **{"kind": "sequence", "dim": 8, "attention_length": 3, "steps": 100},
            **{"dropout": 0.0, "learning_rate": 0.02},
        },
    }
    prepared, _ = run(small_pipelines.dataset(log), tmp_path / "p", **settings)
    config = small_pipelines.config(**settings)
    external = ExternalTeachers(prepared, lambda: None)
    model = TeacherBuilder(config, prepared, external, fit=True).build()
    validation = Scripted(model, *np.linspace(0.1, 0.9, TEACHER_VALIDATIONS))
    quiet = small_pipelines.quiet
    Trainer(config, prepared, validation, quiet, quiet).teacher(model, config.teacher)
    lists = next(in_order(prepared.shards("test"), 100))
    x, y, _ = Collator(prepared.catalogue_size)(lists, np.random.default_rng(0))
    best = model(x).numpy().argmax(axis=1)
    chosen = np.asarray(y["labels"]).argmax(axis=1)
    of_work = np.isin(prepared.item_ids, [f"i{k}" for k in range(6, 12)])
    np.testing.assert_array_equal(of_work[best], of_work[chosen])
