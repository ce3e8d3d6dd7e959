"""The study of Optuna behind `recdistill tune`: its journal, sampler and importances.

Optuna is imported by the functions, because it is an extra.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recdistill.atomic import fingerprint
from recdistill.pipeline.config.search_space import Choices, SearchSpace
from recdistill.pipeline.variants.changed_settings import Settings

if TYPE_CHECKING:
    import optuna

RANDOM_TRIALS, SEEN_EPOCHS = 8, 2
"""Trials drawn at random first, and validations after which a trial may stop."""

ENOUGH_TRIALS = 8
"""Complete trials from which importances are computed."""


def open_study(folder: Path, name: str) -> optuna.Study:
    """The study of this name in the journal of a folder, without unfinished trials."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = folder / "journal.jsonl"
    _end_at_a_whole_line(journal)
    with _without_experimental_warnings():
        backend = JournalFileBackend(str(journal), _LockedAlready())
        storage = optuna.storages.JournalStorage(backend)
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(RANDOM_TRIALS // 2, SEEN_EPOCHS),
    )
    state = optuna.trial.TrialState
    for trial in study.get_trials(states=[state.RUNNING]):
        study.tell(trial.number, state=state.FAIL)
    while study.get_trials(states=[state.WAITING]):
        study.tell(study.ask(), state=state.FAIL)
    return study


class _LockedAlready:
    """Lock of a journal whose folder is locked: Optuna's own would survive a kill."""

    def acquire(self) -> bool:
        """Does nothing."""
        return True

    def release(self) -> None:
        """Does nothing."""


def _end_at_a_whole_line(journal: Path) -> None:
    """Removes the beginning of a line at the end, which a killed process left."""
    if not journal.is_file():
        return
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with journal.open("r+b") as file:
            file.truncate(whole)


def sampler_of(seed: int, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of a trial, which depends on the finished trials only."""
    import optuna

    with _without_experimental_warnings():
        return optuna.samplers.TPESampler(
            seed=int(fingerprint([seed, number])[:8], 16),
            n_startup_trials=RANDOM_TRIALS,
            multivariate=True,
        )


def ask(
    study: optuna.Study, space: SearchSpace, wanted: Settings
) -> tuple[optuna.Trial, dict[str, Any]]:
    """The next trial and its settings: the wanted ones, others from the sampler."""
    if wanted:
        study.enqueue_trial(
            {
                key: _text(value) if isinstance(space[key], Choices) else value
                for key, value in wanted.items()
            }
        )
    trial, settings = study.ask(), {}
    for key, allowed in space.items():
        if isinstance(allowed, Choices):
            choices = [_text(value) for value in allowed.values]
            settings[key] = json.loads(trial.suggest_categorical(key, choices))
        elif allowed.is_whole:
            settings[key] = trial.suggest_int(
                key, int(allowed.low), int(allowed.high), log=allowed.is_logarithmic
            )
        else:
            settings[key] = trial.suggest_float(
                key, allowed.low, allowed.high, log=allowed.is_logarithmic
            )
    return trial, settings


def _text(value: Any) -> str:
    """A choice as Optuna stores it."""
    return json.dumps(value)


def importances_of(study: optuna.Study) -> dict[str, float]:
    """How much the best quarter differs from all complete trials, by setting.

    Returns:
        Shares that add up to 1, the largest first (PED-ANOVA); empty with fewer than
        `ENOUGH_TRIALS` complete trials.
    """
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    complete = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    searched = [k for k, v in complete[0].distributions.items() if not v.single()]
    if len(complete) < ENOUGH_TRIALS or not searched:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = PedAnovaImportanceEvaluator(target_quantile=0.25)
        found = get_param_importances(study, evaluator=evaluator, params=searched)
    return {key: float(found[key]) for key in sorted(found, key=lambda k: -found[k])}


@contextlib.contextmanager
def _without_experimental_warnings() -> Iterator[None]:
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
