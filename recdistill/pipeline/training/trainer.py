"""Trainer: trains the teachers and students of a configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf

from recdistill.data.collation import Collator
from recdistill.data.dataset import Progress
from recdistill.data.sequences import training_windows, window_batches
from recdistill.distillation.distiller import Distiller
from recdistill.errors import TrainingError
from recdistill.features.encoders import UNKNOWN
from recdistill.models.ranker import RankingTeacher
from recdistill.models.sequence_ranker import SequenceRanker
from recdistill.pipeline.config import Config
from recdistill.pipeline.config.teacher_section import (
    ReferenceTeacherConfig,
    SequenceTeacherConfig,
)
from recdistill.pipeline.memory import require, require_for_batches
from recdistill.pipeline.models.model_building import (
    build_student,
    load_student,
    parameters,
    reads_affinities,
)
from recdistill.pipeline.models.scorers import compiled
from recdistill.pipeline.models.weights_file import save_weights, seed_folder
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.pipeline.ranking.list_slices import strata
from recdistill.pipeline.ranking.validation import Validation
from recdistill.pipeline.scores.score_store import list_size
from recdistill.pipeline.training.next_item_model import NextItemModel
from recdistill.pipeline.training.soft_targets import (
    SoftTargets,
    distiller_arguments,
    number_of_strata,
)
from recdistill.pipeline.training.step_compilation import list_nearly_all, suits_xla
from recdistill.pipeline.training.training import (
    Batches,
    DivergedError,
    Learner,
    TrainingPlan,
    TrainingResult,
    seconds_to_train,
    train,
)
from recdistill.pipeline.training.training_batches import (
    averaged_with,
    training_batches,
    with_few_untrained,
    with_strata,
)
from recdistill.pipeline.training.training_curves import Observer, unobserved
from recdistill.pipeline.training.warm_start import EarlierRun, EarlierStudent

TAIL_OF_SHOWN = 0.25
"""Uniformly drawn candidates per shown candidate, if lists say what was shown."""

TEACHER_VALIDATIONS = 5
"""Number of validations while a sequence ranker is trained."""

WARM_PATIENCE = 3
"""Validations without improvement after which a student with a warm start stops."""

VALIDATIONS = 10
"""Number of validations while a student is trained."""


SeededBatches: TypeAlias = Callable[[int, int], tf.data.Dataset]
"""Training batches of a seed, after a number that were delivered before."""


@dataclass(frozen=True)
class _Training:
    """What the trainings of a student with several seeds and rates share."""

    distiller: Callable[[keras.Model], Distiller]
    batches: SeededBatches
    steps: int
    start: Path | EarlierStudent | None
    all_listed: bool


class Trainer:
    """Trains rankers and students according to a configuration.

    Args:
        config: The pipeline's configuration.
        prepared: The prepared data.
        validation: Chooses checkpoints and learning rates.
        progress: Callback for progress.
        warn: Callback for warnings.
        observe: Called with the name of a training run, and the points of its curve
            while it trains.
        earlier: The run that students start from; None to start from random weights.
    """

    def __init__(
        self,
        config: Config,
        prepared: Prepared,
        validation: Validation,
        progress: Progress,
        warn: Callable[[str], None],
        observe: Callable[[str, int, Mapping[str, float]], None] | None = None,
        earlier: EarlierRun | None = None,
    ) -> None:
        self._config, self._prepared = config, prepared
        self._validation, self._progress, self._warn = validation, progress, warn
        self._observe, self._earlier = observe, earlier

    def _observer(self, name: str) -> Observer:
        """Passes on the points of the training run of this name."""
        return unobserved if self._observe is None else partial(self._observe, name)

    @property
    def tail(self) -> int | None:
        """Candidates drawn for a list without teacher scores; None for all items.

        If the lists say what was shown, the shown candidates are used, and a few others
        are drawn, so that items that are never shown do not rank high.
        """
        if self._prepared.has_shown_candidates:
            shown = float(self._prepared.observed_sizes.mean())
            return math.ceil(shown * TAIL_OF_SHOWN)
        lists = self._config.lists
        return None if lists.size == "catalogue" else lists.drawn

    def batches(
        self,
        shards: Sequence[Path],
        collate: Collator,
        targets: SoftTargets | None = None,
        seed: int | None = None,
        delivered: int = 0,
    ) -> tf.data.Dataset:
        """Training batches of the student, as in `training_batches`.

        The default seed is that of the configuration.
        """
        settings = self._config.student
        seed = self._config.seed if seed is None else seed
        stored = list_size(shards) if collate.with_teacher else None
        self._require_memory(shards, settings.batch_size, "student.batch_size", stored)
        dataset = training_batches(
            shards, collate, settings.batch_size, seed, targets, delivered
        )
        schema, catalogue = self._prepared.schema, self._prepared.catalogue
        trained = np.asarray(catalogue[schema.item_id]) != UNKNOWN
        features = len(schema.for_student().candidate)
        if not settings.id_dropout or features == 1 or trained.all():
            return dataset
        share = settings.id_dropout
        return with_few_untrained(dataset, trained, share, seed, delivered)

    def _require_memory(
        self, shards: Sequence[Path], size: int, key: str, stored: int | None = None
    ) -> None:
        """Checks the memory for a batch, which never has more lists than there are.

        Args:
            shards: Files of lists.
            size: Number of lists in a batch.
            key: The key of that number.
            stored: Number of stored candidates of a list; None if they are drawn.
        """
        lists = min(size, _lists(shards))
        catalogue = self._prepared.catalogue_size
        candidates = stored or min(self.tail or catalogue, catalogue)
        if stored is None and self.tail is not None:
            # Lists share the drawn candidates, and each adds its own.
            own = float(self._prepared.observed_sizes.mean())
            candidates += math.ceil(lists * own)
        require_for_batches(lists, candidates, key)

    def teacher(
        self,
        model: RankingTeacher | SequenceRanker,
        settings: ReferenceTeacherConfig | SequenceTeacherConfig,
        shards: Sequence[Path] | None = None,
        part: str = "",
    ) -> dict[str, Any]:
        """Trains a teacher.

        Args:
            model: The teacher with its initial weights.
            settings: Its settings.
            shards: Files of lists to train on; None for all training lists. The number
                of passes over the lists does not depend on it.
            part: What these lists are, for the progress display.

        Returns:
            The result of training, JSON-ready.
        """
        shards = self._prepared.shards("train") if shards is None else shards
        name = "_".join([model.name, *part.split()])
        result = train(
            *self._teacher_run(model, settings, shards),
            self._progress,
            " ".join(["Training the teacher", *part.split()]),
            self._observer(name),
            # Members of an ensemble may have the same plan and the same first weights.
            identity=settings.model_dump(mode="json"),
        )
        return {"model": name, **vars(result)}

    def teacher_seconds(
        self,
        model: RankingTeacher | SequenceRanker,
        settings: ReferenceTeacherConfig | SequenceTeacherConfig,
    ) -> float:
        """Estimate of the seconds in which a teacher is trained, from a few steps.

        Args:
            model: The teacher, whose weights change.
            settings: Its settings.
        """
        shards = self._prepared.shards("train")
        return seconds_to_train(*self._teacher_run(model, settings, shards))

    def _teacher_run(
        self,
        model: RankingTeacher | SequenceRanker,
        settings: ReferenceTeacherConfig | SequenceTeacherConfig,
        shards: Sequence[Path],
    ) -> tuple[Learner, Batches, Validation, TrainingPlan]:
        """What the training of a teacher consists of."""
        if isinstance(settings, SequenceTeacherConfig):
            learner, batches, plan = self._sequence_ranker(model, settings, shards)
        else:
            learner, batches, plan = self._ranker(model, settings, shards)
        return learner, batches, self._validation, plan

    def _sequence_ranker(
        self,
        model: SequenceRanker,
        settings: SequenceTeacherConfig,
        shards: Sequence[Path],
    ) -> tuple[Learner, Batches, TrainingPlan]:
        """The training of a sequence ranker on windows over the training items."""
        prepared = self._prepared
        windows = training_windows(
            shards,
            model.model_inputs.history_name,
            [*model.model_inputs.query],
            prepared.item_index,
            settings.attention_length,
            settings.steps * settings.batch_size,
            partial(
                require,
                what="The query features of the windows of the teacher `sequence`",
                remedy="Lower its `steps`, `batch_size` or `attention_length`.",
            ),
        )
        if not (np.count_nonzero(windows.items, axis=1) > 1).any():
            raise TrainingError(
                "A teacher of kind `sequence` needs queries with at least two training "
                "interactions. Received: none"
            )
        size = min(settings.batch_size, len(windows))
        positions = size * settings.attention_length
        require_for_batches(
            positions, model.negatives or model.items, "teacher.batch_size"
        )
        share = _lists(shards) / _lists(prepared.shards("train"))
        steps = max(1, round(share * settings.steps))
        plan = TrainingPlan(
            learning_rate=settings.learning_rate,
            steps=steps,
            epochs=min(TEACHER_VALIDATIONS, steps),
            patience=TEACHER_VALIDATIONS,
            weight_decay=settings.weight_decay,
        )
        dataset = window_batches(windows, size, self._config.seed)
        return NextItemModel(model), dataset.skip, plan

    def _ranker(
        self,
        model: RankingTeacher,
        settings: ReferenceTeacherConfig,
        shards: Sequence[Path],
    ) -> tuple[Learner, Batches, TrainingPlan]:
        """The training of a reference ranker on lists like those of the student."""
        prepared = self._prepared
        training_rows = (
            prepared.training_rows if reads_affinities(settings, prepared) else None
        )
        collate = Collator(
            prepared.catalogue_size,
            self.tail,
            shared=True,
            training_rows=training_rows,
        )
        size = settings.batch_size
        self._require_memory(shards, size, "teacher.batch_size")
        plan = TrainingPlan(
            learning_rate=settings.learning_rate,
            steps=max(1, _lists(shards) // size) * settings.epochs,
            epochs=settings.epochs,
            patience=settings.epochs,
            weight_decay=settings.weight_decay,
        )
        batches = partial(training_batches, shards, collate, size, self._config.seed)
        learner = Distiller(None, model, student_loss_weight=1.0)
        return learner, lambda delivered: batches(delivered=delivered), plan

    def distil(
        self,
        folder: Path,
        files: Sequence[Path],
        targets: SoftTargets,
        label: str,
        steps: int | None = None,
        start: Path | None = None,
        assistant: keras.Model | None = None,
    ) -> dict[str, Any]:
        """Distils the student, as in `student`.

        Args:
            folder: Folder for its weights and its validation metrics.
            files: Files of lists with teacher scores.
            targets: How teacher scores become soft targets.
            label: The activity, for the progress display.
            steps: Number of training steps; by default that of the configuration.
            start: Folder with the student's first weights; None for random ones.
            assistant: A student that was distilled before. The soft targets are the
                mean of the teacher's and its scores; losses on embeddings compare its
                embeddings.
        """
        first: Path | EarlierStudent | None = start
        if start is None and self._earlier is not None:
            first = self._earlier.student("distill")
        settings = self._config.distill
        settings = settings.on_scores if assistant is None else settings
        arguments = distiller_arguments(settings, steps or self._config.student.steps)
        collate = Collator(self._prepared.catalogue_size, self.tail, with_teacher=True)
        count = number_of_strata(arguments["distillation_losses"])
        lists = min(self._config.student.batch_size, _lists(files))

        def batches(seed: int, delivered: int) -> tf.data.Dataset:
            found = self.batches(files, collate, targets, seed, delivered)
            if assistant is not None:
                found = averaged_with(assistant, found)
            if count is None:
                return found
            return with_strata(found, strata(self._prepared.popularity, count))

        return self.student(
            folder,
            lambda student: Distiller(assistant, student, **arguments),
            batches,
            label,
            steps,
            first,
            list_nearly_all(files, lists, self._prepared.catalogue_size),
        )

    def student(
        self,
        folder: Path,
        distiller: Callable[[keras.Model], Distiller],
        batches: SeededBatches,
        label: str,
        steps: int | None = None,
        start: Path | EarlierStudent | None = None,
        all_listed: bool | None = None,
    ) -> dict[str, Any]:
        """Trains with each learning rate and seed, and keeps the student that is best.

        Learning rates are compared with the first seed. One with which training
        diverges is left out, with a warning, and so is a further seed.

        Args:
            folder: Folder for its weights and its validation metrics. With several
                seeds, each has its weights in a folder of its own (`seed_folder`).
            distiller: Makes a Distiller of a student with initial weights.
            batches: The training batches.
            label: The activity, for the progress display.
            steps: Number of training steps; by default that of the configuration.
            start: Folder with the student's first weights, or a student of an earlier
                run; None for random weights.
            all_listed: Whether the batches have nearly all items as candidates. By
                default, whether no candidates are drawn.

        Returns:
            The step's record.

        Raises:
            TrainingError: If training diverges with every learning rate.
        """
        settings, seed = self._config.student, self._config.seed
        listed = self.tail is None if all_listed is None else all_listed
        training = _Training(distiller, batches, steps or settings.steps, start, listed)
        runs = [(seed, rate) for rate in settings.learning_rates]
        runs += [(seed + number, 0.0) for number in range(1, settings.seeds)]
        trials: list[dict[str, Any]] = []
        seeds: dict[int, float] = {}
        best, chosen = -np.inf, runs[0]
        for number, (seed, rate) in enumerate(runs):
            of_seed, rate = not rate, rate or chosen[1]
            count = f", {number + 1} of {len(runs)}" if len(runs) > 1 else ""
            try:
                student, started, result = self._trained(
                    training,
                    f"{label}{count}",
                    seed,
                    rate,
                    f"seed_{seed}" if of_seed else f"learning_rate_{rate:g}",
                )
            except DivergedError as error:
                if number + 1 == len(settings.learning_rates) and not np.isfinite(best):
                    raise
                if not of_seed:
                    diverged = {"best": None, "diverged": True}
                    trials.append({**vars(error.result), **diverged})
                self._warn(str(error))
                continue
            if not of_seed:
                trials.append({**vars(result), "diverged": False})
            if result.best > seeds.get(seed, -np.inf):
                seeds[seed] = result.best
                if settings.seeds > 1:
                    save_weights(student, seed_folder(folder, seed, create=True))
            if result.best > best:
                best, chosen = result.best, (seed, rate)
                save_weights(student, folder)
                rows = self._validation.rows(compiled(student))
                pq.write_table(rows, folder / "valid.parquet")
        record = {"valid": best, "trials": trials, "parameters": parameters(student)}
        if settings.seeds > 1:
            each = [{"seed": seed, "valid": value} for seed, value in seeds.items()]
            record |= {"seed": chosen[0], "seeds": each}
        return {**record, "warm_start": started} if started else record

    def _trained(
        self, training: _Training, label: str, seed: int, rate: float, name: str
    ) -> tuple[keras.Model, dict[str, Any], TrainingResult]:
        """A trained student, what it has from an earlier run, and the result."""
        keras.utils.set_random_seed(seed)
        start, steps = training.start, training.steps
        if isinstance(start, Path) and seed_folder(start, seed).is_dir():
            start = seed_folder(start, seed)
        student, started = self._first_student(start)
        plan = TrainingPlan(
            learning_rate=rate,
            steps=steps,
            epochs=min(VALIDATIONS, steps),
            patience=WARM_PATIENCE if started else VALIDATIONS,
        )
        xla = suits_xla(student, steps, training.all_listed)
        with student.whole_catalogue() if xla else nullcontext():
            result = train(
                training.distiller(student),
                partial(training.batches, seed),
                self._validation,
                plan,
                self._progress,
                label,
                self._observer(name),
                xla=xla,
            )
        return student, started, result

    def _first_student(
        self, start: Path | EarlierStudent | None
    ) -> tuple[keras.Model, dict[str, Any]]:
        """A student with its first weights, and what it has from an earlier run."""
        settings = self._config.student
        if isinstance(start, Path):
            return load_student(settings, self._prepared, start), {}
        student = build_student(settings, self._prepared)
        if start is None:
            return student, {}
        return student, start.copy_to(student, self._prepared.schema, settings)


def _lists(shards: Sequence[Path]) -> int:
    """Number of lists in these files."""
    return sum(pq.read_metadata(path).num_rows for path in shards)
