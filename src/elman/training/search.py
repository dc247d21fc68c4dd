"""The search for good options: many short trainings, of which the worse ones are stopped early."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from elman.errors import InputError
from elman.training.fitting import begin
from elman.training.loop import Report
from elman.training.options import Options
from elman.training.task import Task

JOURNAL = "study.log"
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class Result(NamedTuple):
    """What one training came to."""

    number: int
    directory: Path
    options: dict[str, Any]  # those that were searched
    score: float | None  # None if it was stopped early
    best: bool


def search(
    make: Callable[[Any], Task],
    options: Options,
    directory: Path,
    trials: int,
    fixed: Collection[str] = (),
    show: Callable[[int, Report], object] | None = None,
) -> list[Result]:
    """Trains until `directory` holds `trials` trainings, and returns them. Each is a run, in a directory of its own.

    make: makes a task for given options, a new one each time. fixed: the names of options that are not searched.
    A search that was stopped goes on if it is called again, and several processes may search in one directory: they
    share a journal. Which training is stopped early is said by the median of the others at the same evaluation; values
    are drawn by the tree-structured Parzen estimator (J. Bergstra et al., Algorithms for hyper-parameter optimization,
    2011).
    """
    task = make(options)
    directory.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = JournalStorage(JournalFileBackend(str(directory / JOURNAL)))
    study = optuna.create_study(
        storage=storage,
        study_name=task.name,
        load_if_exists=True,
        direction="maximize" if task.higher_is_better else "minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=options.evaluations // 4),
    )
    study.sampler = optuna.samplers.TPESampler(seed=options.seed + len(study.trials), n_startup_trials=6)
    searched = [field for field in fields(options) if field.metadata["search"] and field.name not in fixed]
    if not searched:
        raise InputError("every option that could be searched is given; leave one of them out")

    def objective(trial: Trial) -> float:
        drawn = replace(options, **{field.name: _drawn(trial, field) for field in searched})
        try:
            drawn.check()
        except InputError as error:  # options that do not go together, such as --forget-bias and a gru
            raise optuna.TrialPruned from error
        training, _ = begin(make(drawn), directory / f"trial-{trial.number:03}", overwrite=True)
        best = float("nan")
        try:
            for report in training.steps():
                if show is not None:
                    show(trial.number, report)
                if report.row is not None:
                    best = training.place.best * (-1 if task.higher_is_better else 1)
                    trial.report(best, training.place.evaluations)
                    if trial.should_prune() and not training.place.finished:
                        raise optuna.TrialPruned
        except InputError as error:  # the loss is no longer a number: a bad draw, like any other
            raise optuna.TrialPruned from error
        return best

    while len(_done(study)) < trials:
        study.optimize(objective, n_trials=1)
    done = _done(study)
    complete = [trial for trial in done if trial.state == TrialState.COMPLETE]
    best = study.best_trial.number if complete else None
    return [
        Result(
            trial.number,
            directory / f"trial-{trial.number:03}",
            trial.params,
            trial.value if trial.state == TrialState.COMPLETE else None,
            trial.number == best,
        )
        for trial in done
    ]


def _done(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=DONE)


def _drawn(trial: Trial, field: Field[Any]) -> Any:
    """Returns a value for an option: numbers whose ends are far apart are drawn by their logarithm."""
    space = field.metadata["search"]
    if isinstance(space[0], str):
        return trial.suggest_categorical(field.name, space)
    low, high = space
    far = low > 0 and high / low > 10
    if isinstance(low, int):
        return trial.suggest_int(field.name, low, high, log=far)
    return trial.suggest_float(field.name, low, high, log=far)
