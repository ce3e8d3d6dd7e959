"""The search of `recdistill tune`: settings that are best on the validation lists.

Each trial distils a student with other settings from the prepared data and the teacher
of one run, and from its stored scores where the lists are the same. Optuna proposes the
settings (tree-structured Parzen estimators), and stops a trial whose validation is
below the median of the others. The test part is neither read nor needed.

A journal in the run's folder has all trials, so that a search continues where it
stopped. The sampler's seed depends on the number of finished trials only, so a trial
that was killed is run again with the same settings, and an interrupted search finds
what an undisturbed one finds.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow.parquet as pq

from recdistill.atomic import fingerprint, locked_folder
from recdistill.errors import ConfigError, TrainingError
from recdistill.evaluation.intervals import Interval, paired_difference
from recdistill.evaluation.report.tuning_page import render_tuning_page, tuning_verdict
from recdistill.pipeline.artefacts.artefact import Artefact
from recdistill.pipeline.config import Config
from recdistill.pipeline.config.search_space import Choices, Range, SearchSpace
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.steps import STEPS
from recdistill.pipeline.steps.pilot import starts_from_baseline
from recdistill.pipeline.variants.changed_settings import (
    Settings,
    check_space,
    with_settings,
    write_config,
    write_result,
)
from recdistill.pipeline.variants.default_space import (
    configured_settings,
    default_space,
)
from recdistill.pipeline.variants.optuna_study import (
    ask,
    importances_of,
    open_study,
    sampler_of,
)

if TYPE_CHECKING:
    import optuna

FOLDER = "tune"
"""Folder of the search in that of the run."""


@dataclass(frozen=True)
class Trial:
    """A finished trial.

    Attributes:
        number: Its number, counted from 1.
        state: "complete"; "pruned" if it was stopped, because it was worse than the
            median of the others; "failed" if it could not be trained.
        value: The best metric on validation; None if it failed.
        settings: Its settings by dotted key.
        seconds: Its duration.
        epochs: The metric after each part of the training.
        reason: Why it failed.
    """

    number: int
    state: Literal["complete", "pruned", "failed"]
    value: float | None
    settings: Settings
    seconds: float
    epochs: list[float]
    reason: str = ""


@dataclass(frozen=True)
class TuningResult:
    """Result of a search.

    Attributes:
        metric: The metric that decides.
        lists: Number of validation lists.
        trials: All finished trials, in their order.
        wanted: Number of trials of the configuration.
        space: The search space.
        best: The best trial.
        configured: The best trial with the settings of the configuration, if they are
            part of the search space.
        gain: Metric of the best trial minus that of `configured`, on the validation
            lists; None if both are the same.
        importances: Share of each setting in the differences between trials; empty
            if there are too few trials.
        config: The configuration with the best settings.
        folder: Folder of the search.
    """

    metric: str
    lists: int
    trials: list[Trial]
    wanted: int
    space: SearchSpace
    best: Trial
    configured: Trial | None
    gain: Interval | None
    importances: dict[str, float]
    config: Config
    folder: Path


def require_optuna() -> None:
    """Checks that Optuna is installed.

    Raises:
        ConfigError: If it is not.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "`recdistill tune` needs Optuna, which is not installed. Install it with "
            "`pip install 'recdistill[tune]'`."
        ) from error


def tune(
    pipeline: Pipeline, announce: Callable[[Trial, Trial], None] = lambda *_: None
) -> TuningResult:
    """Searches the settings that are best on validation.

    Args:
        pipeline: The pipeline, which may not read the test part. Steps that the trials
            share are run first.
        announce: Called with each finished trial and the best one so far.

    Raises:
        ConfigError: If the search space is not valid.
        GateError: If the teacher is not good enough to distil.
        TrainingError: If no trial could be trained.
    """
    check_space(pipeline.config, pipeline.config.tune.space, "tune.search")
    for step in ("score", "baseline"):
        pipeline.run(step)
    STEPS["distill"].before(pipeline.context)
    folder = pipeline.workspace.root / FOLDER
    folder.mkdir(exist_ok=True)
    with locked_folder(folder):
        search = _Search(pipeline, folder)
        search.run(announce)
        return search.result()


class _Search:
    """A study of Optuna and the trainings of its trials."""

    def __init__(self, pipeline: Pipeline, folder: Path) -> None:
        self._pipeline, self._folder = pipeline, folder
        self._run, self._settings = pipeline.context, pipeline.config.tune
        self.space = self._settings.space or default_space(self._run)
        self._study = open_study(folder, self._name())
        self._first = configured_settings(self._run, self.space)
        self._used: set[str] = set()

    def _name(self) -> str:
        """Name of the study: a hash of all that makes trials comparable."""
        config = self._run.config
        return fingerprint(
            {
                "space": {key: vars(each) for key, each in self.space.items()},
                "needs": {k: each.key for k, each in self._run.artefacts.items()},
                "student": self._run.student_inputs,
                "from_baseline": starts_from_baseline(config),
                "distill": config.distill.model_dump(mode="json", exclude={"gate"}),
                "lists": config.lists.model_dump(mode="json"),
                "seed": config.seed,
                **self._run.validation_inputs,
            }
        )[:16]

    # Trials.

    def run(self, announce: Callable[[Trial, Trial], None]) -> None:
        """Runs trials until their number or the time is reached."""
        started, limit = time.monotonic(), self._settings.timeout or float("inf")
        while len(trials := self.trials()) < self._settings.trials:
            if trials and time.monotonic() - started >= limit:
                return
            self._next(len(trials))
            finished = self.trials()
            announce(finished[-1], _best(finished) or finished[-1])
            self._remove_weights()

    def _next(self, number: int) -> None:
        """Runs the trial of this number, counted from 0."""
        import optuna

        self._study.sampler = sampler_of(self._run.config.seed, number)
        first = self._first[number] if number < len(self._first) else {}
        trial, settings = ask(self._study, self.space, first)
        trial.set_user_attr("settings", settings)
        self._used.clear()
        started, epochs = time.perf_counter(), list[float]()

        def observe(_: str, step: int, values: Mapping[str, float]) -> None:
            if "validation" in values:
                epochs.append(values["validation"])
                trial.report(values["validation"], len(epochs))
                if trial.should_prune():
                    raise optuna.TrialPruned

        state, value = optuna.trial.TrialState.PRUNED, None
        try:
            # The gate was entered once; it does not stop a trial.
            passed = {"distill.gate": "warn"}
            config = with_settings(self._run.config, {**settings, **passed})
            artefact = self._train(config, number, observe)
        except optuna.TrialPruned:
            pass
        except (TrainingError, ConfigError) as error:
            trial.set_user_attr("reason", str(error))
        else:
            state, value = optuna.trial.TrialState.COMPLETE, artefact.record["valid"]
            trial.set_user_attr("artefact", artefact.path.name)
        trial.set_user_attr("epochs", epochs)
        trial.set_user_attr("seconds", round(time.perf_counter() - started, 3))
        self._study.tell(trial, value, state)

    def _train(
        self,
        config: Config,
        number: int,
        observe: Callable[[str, int, Mapping[str, float]], None],
    ) -> Artefact:
        """Distils the student of a trial; returns the artefact of `distill`."""
        kept = {"prepare", "teacher", "baseline", "score"}
        if config.lists != self._run.config.lists:
            kept.discard("score")
        retrieves = config.lists.size == "retrieved" and "score" not in kept
        if retrieves or starts_from_baseline(config):
            # It is then the baseline with the settings of this trial.
            kept.discard("baseline")
        activity, observed = f"Trial {number + 1} of {self._settings.trials:,}", False
        variant = self._pipeline.variant(
            config,
            self._trials,
            sorted(kept),
            lambda _, *state: self._run.progress(activity, *state),
            lambda *point: observe(*point) if observed else None,
        )
        # Earlier trials may have trained these, so trials are compared from here on.
        for step in ("baseline", "assistant"):
            if step in STEPS["distill"].needs(config):
                self._used.add(variant.run(step).path.name)
        observed = True
        if config.lists.has_second_round:
            pilot = variant.run("pilot")
            if pilot.reused:
                for value in _validations(pilot.record):
                    observe("pilot", 0, {"validation": value})
        return variant.run("distill")

    @property
    def _trials(self) -> Path:
        """Folder of the artefacts of the trials."""
        return self._folder / "trials"

    def _remove_weights(self) -> None:
        """Removes what neither the comparison at the end nor the next trial needs."""
        kept = {self._artefact(each) for each in self._compared() if each is not None}
        kept |= self._used
        storage = self._pipeline.workspace.storage
        for step in ("baseline", "assistant", "pilot", "closure", "distill"):
            for path in self._trials.glob(f"{step}-*"):
                if path.name not in kept:
                    if storage is not None:
                        storage.discard(path)
                    shutil.rmtree(path)

    # Results.

    def _finished(self) -> list[optuna.trial.FrozenTrial]:
        from optuna.trial import TrialState

        states = (TrialState.COMPLETE, TrialState.PRUNED)
        found: list[optuna.trial.FrozenTrial] = self._study.get_trials(
            deepcopy=False, states=states
        )
        return found

    def trials(self) -> list[Trial]:
        """The finished trials in their order."""
        return [_trial(place, each) for place, each in enumerate(self._finished())]

    def _artefact(self, trial: Trial) -> str:
        attributes = self._finished()[trial.number - 1].user_attrs
        return str(attributes.get("artefact", ""))

    def _compared(self) -> tuple[Trial | None, Trial | None]:
        """The best trial, and the best one with the configured settings."""
        trials = self.trials()
        complete = [len(point) == len(self.space) for point in self._first]
        first = trials[: len(self._first)] if all(complete) else []
        return _best(trials), _best(first)

    def result(self) -> TuningResult:
        """The result of the search.

        Raises:
            TrainingError: If no trial could be trained.
        """
        trials, (best, configured) = self.trials(), self._compared()
        if best is None:
            raise TrainingError(
                f"None of {len(trials):,} trials could be trained to its end. The "
                f"last one: {trials[-1].reason or trials[-1].state}. Narrow "
                "`tune.search`, or raise `tune.trials`."
            )
        validation = self._run.validation
        return TuningResult(
            metric=validation.metrics[0],
            lists=sum(map(len, validation.lists)),
            trials=trials,
            wanted=self._settings.trials,
            space=self.space,
            best=best,
            configured=configured,
            gain=self._gain(best, configured),
            importances=importances_of(self._study),
            config=self._best_config(best),
            folder=self._folder,
        )

    def _gain(self, best: Trial, configured: Trial | None) -> Interval | None:
        """The difference between two trials on the validation lists."""
        if configured is None or configured == best:
            return None
        files = [
            self._trials / self._artefact(trial) / "valid.parquet"
            for trial in (best, configured)
        ]
        if not all(file.is_file() for file in files):
            return None
        ours, others = map(pq.read_table, files)
        metric, config = self._run.validation.metrics[0], self._run.config
        samples, seed = config.evaluate.bootstrap, config.seed
        found = paired_difference(ours, others, [metric], samples=samples, seed=seed)
        return found[metric]

    def _best_config(self, best: Trial) -> Config:
        """The configuration with the settings of the best trial.

        The learning rates of the configuration are kept beside the one that was found,
        because the baseline is trained with the same rates.
        """
        config, settings = self._pipeline.config, dict(best.settings)
        key = "student.learning_rates"
        if isinstance(rate := settings.get(key), float):
            rates = {*config.student.learning_rates, float(f"{rate:.4g}")}
            settings[key] = sorted(rates)
        settings = {
            k: float(f"{v:.4g}") if isinstance(v, float) else v
            for k, v in settings.items()
        }
        tuned = with_settings(config, settings)
        return tuned.model_copy(update={"name": f"{config.name}_tuned"})


def _validations(record: Mapping[str, Any]) -> list[float]:
    """The validations of a finished training step, as they were observed."""
    found = (value for trial in record["trials"] for value in trial["history"])
    return [value for value in found if value is not None]


def _best(trials: list[Trial]) -> Trial | None:
    """The complete trial with the highest value, the first one if there are several."""
    complete = [each for each in trials if each.state == "complete"]
    return max(complete, key=lambda each: each.value or 0.0, default=None)


def _trial(place: int, found: optuna.trial.FrozenTrial) -> Trial:
    attributes = found.user_attrs
    epochs, reason = attributes.get("epochs", []), attributes.get("reason", "")
    complete = found.state.name == "COMPLETE"
    state: Any = "complete" if complete else "pruned"
    value = found.value if complete else max(epochs, default=None)
    return Trial(
        number=place + 1,
        state="failed" if reason else state,
        value=None if reason else value,
        settings=attributes["settings"],
        seconds=attributes.get("seconds", 0.0),
        epochs=epochs,
        reason=reason,
    )


def write_search(result: TuningResult) -> dict[str, Any]:
    """Writes `tuning.json`, `tuning.html` and `best.toml` into the search's folder.

    Args:
        result: The result of a search.

    Returns:
        The document of the search, which is also in `tuning.json`.
    """
    files = {
        "best": result.folder / "best.toml",
        "page": result.folder / "tuning.html",
        "document": result.folder / "tuning.json",
    }
    gain = result.gain
    search = {
        "name": result.config.name.removesuffix("_tuned"),
        "metric": result.metric,
        "lists": result.lists,
        "best": result.best.number,
        "configured": result.configured and result.configured.number,
        "gain": gain.to_json() if gain and gain.value is not None else None,
        "importances": result.importances,
        "space": {key: _allowed(each) for key, each in result.space.items()},
        "trials": [vars(trial) for trial in result.trials],
        "wanted": result.wanted,
        "files": {name: str(path) for name, path in files.items()},
    }
    comment = f"{tuning_verdict(search)} Written by `recdistill tune`."
    write_config(result.config, files["best"], comment)
    write_result(files, render_tuning_page(search), search)
    return search


def _allowed(each: Choices | Range) -> dict[str, Any]:
    if isinstance(each, Choices):
        return {"choices": list(each.values)}
    scale = "log" if each.is_logarithmic else "linear"
    return {"low": each.low, "high": each.high, "scale": scale}
