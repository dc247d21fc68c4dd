"""The search for good options: many short trainings, of which the worse ones are stopped early."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from elman.errors import InputError
from elman.files import told
from elman.training.fitting import begin
from elman.training.journal import Journal
from elman.training.lock import Lock
from elman.training.loop import Diverged, Report
from elman.training.options import Options, check_precision, said
from elman.training.task import Task

JOURNAL = "study.log"
NOTE = "search"  # the name under which a study notes what it is of
OF_NO_EFFECT = ("threads", "validation")  # options whose values may differ: the digest of the data tells files apart
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
SCORE = "score"  # the name under which a training notes its own
TIE = 1e-7  # what a loss adds to a score at most


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
    waiting: Callable[[], object] | None = None,
) -> list[Result]:
    """Trains until `directory` holds `trials` trainings, and returns them. Each is a run, in a directory of its own.

    make: makes a task for given options, a new one each time. fixed: the names of options that are not searched.
    waiting: is called once a second while the last trainings are those of other processes.
    A search that was stopped goes on if it is called again, and several processes may search in one directory: they
    share a journal, and each training draws by its own number. Which training is stopped early is said by the median of
    the others at the same evaluation, and of equal scores the one with the lower loss is better; values are drawn by the tree-structured Parzen estimator (J. Bergstra et al.,
    Algorithms for hyper-parameter optimization, 2011).

    Raises InputError if the directory holds a search of other data, or with other fixed options, or cannot be written into.
    """
    task = make(options)
    check_precision(options.precision, next(task.model.parameters()).device.type)
    searched = [field for field in fields(options) if field.metadata["search"] and field.name not in fixed]
    if not searched:
        raise InputError("every option that could be searched is given; leave one of them out")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = JournalStorage(Journal(directory / JOURNAL))
    _check_task(storage, task, directory)
    study = optuna.create_study(
        storage=storage,
        study_name=task.name,
        load_if_exists=True,
        direction="maximize" if task.higher_is_better else "minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=options.evaluations // 4),
    )
    _check_same(study, task, options, {field.name for field in searched}, directory)

    def objective(trial: Trial) -> float:
        seed = np.random.SeedSequence([options.seed, trial.number]).generate_state(1)
        study.sampler = optuna.samplers.TPESampler(seed=int(seed[0]), n_startup_trials=6)  # draws from here on
        drawn = replace(options, **{field.name: _drawn(trial, field) for field in searched})
        try:
            drawn.check()
        except InputError as error:  # options that do not go together, such as --forget-bias and a gru
            raise optuna.TrialPruned from error
        training, _ = begin(make(drawn), directory / f"trial-{trial.number:03}", overwrite=True)
        value, place, sign = float("nan"), training.place, -1 if task.higher_is_better else 1
        try:
            for report in training.steps():
                if show is not None:
                    show(trial.number, report)
                if report.row is not None:
                    # As while training, of two with the same score the one with the lower loss is better.
                    value = sign * (place.best + TIE * _bounded(place.best_loss))
                    trial.report(value, place.evaluations)
                    if trial.should_prune() and not training.place.finished:
                        raise optuna.TrialPruned
        except Diverged as error:  # a bad draw, like any other
            raise optuna.TrialPruned from error
        trial.set_user_attr(SCORE, sign * place.best)
        return value

    while len(_done(study)) < trials:
        begun = _begun(study, directory, trials)
        if begun is None:
            if waiting is not None:
                waiting()
            time.sleep(1)
            continue
        trial, lock = begun
        try:
            study.tell(trial, objective(trial))
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
        except BaseException:
            study.tell(trial, state=TrialState.FAIL)
            raise
        finally:
            lock.give_back()
    done = _done(study)
    complete = [trial for trial in done if trial.state == TrialState.COMPLETE]
    best = study.best_trial.number if complete else None
    return [
        Result(
            trial.number,
            directory / f"trial-{trial.number:03}",
            trial.params,
            trial.user_attrs.get(SCORE, trial.value) if trial.state == TrialState.COMPLETE else None,
            trial.number == best,
        )
        for trial in done
    ]


def _bounded(loss: float) -> float:
    """Returns a number between 0 and 1 that rises with a loss."""
    return loss / (1 + loss) if 0 <= loss < np.inf else float(loss > 0)


def _begun(study: optuna.Study, directory: Path, trials: int) -> tuple[Trial, Lock] | None:
    """Begins a training, and returns it with its lock. None if there will be enough without it.

    Of trainings that are under way, those count whose process still runs.
    """
    one_at_a_time = Lock(directory / "lock")
    while _taken(one_at_a_time):
        time.sleep(0.01)
    try:
        under_way = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        alive = [trial for trial in under_way if _lock(directory, trial).holder()]
        if len(_done(study)) + len(alive) >= trials:
            return None
        trial = study.ask()
        lock = _lock(directory, trial)
        _taken(lock)
        return trial, lock
    finally:
        one_at_a_time.give_back()


def _taken(lock: Lock) -> str | None:
    with told(lock.path):
        return lock.take()


def _lock(directory: Path, trial: Trial | FrozenTrial) -> Lock:
    return Lock(directory / f"trial-{trial.number:03}.lock")


def _check_task(storage: JournalStorage, task: Task, where: Path) -> None:
    """Raises InputError if the directory `where` holds a search of another task."""
    for name in optuna.get_all_study_names(storage):
        other = optuna.load_study(storage=storage, study_name=name)
        if name != task.name and NOTE in other.user_attrs:
            raise InputError(f"{where} holds a search of the task {name}, not {task.name}; give another --directory")


def _check_same(study: optuna.Study, task: Task, options: Options, searched: Collection[str], where: Path) -> None:
    """Notes what a new search is of. Raises InputError if the directory `where` holds a search of something else."""
    fixed = {name: value for name, value in vars(options).items() if name not in (*searched, *OF_NO_EFFECT)}
    own = {"data": task.digest, "fixed": fixed, "searched": sorted(searched)}
    noted = study.user_attrs.get(NOTE)
    if noted is None:
        if not study.get_trials(deepcopy=False):  # a search with trainings was begun by a version that noted nothing
            study.set_user_attr(NOTE, own)
        return
    if noted["data"] != task.digest:
        raise InputError(
            f"the search in {where} was begun with other {task.data}; put the old {task.data} back, or give another --directory"
        )
    for name in {**noted["fixed"], **fixed}:
        before, now = (_said(name, each) for each in (noted, own))
        if before and now and before != now:
            raise InputError(
                f"the search in {where} was begun {before}, and this one is {now}; give the same options, or another --directory"
            )


def _said(name: str, noted: dict[str, Any]) -> str | None:
    """Returns how a search was begun by one of its options, None if it knew no such option."""
    value = noted["fixed"].get(name)
    if name not in noted["fixed"] and name not in noted["searched"]:
        return None
    return said(name, value)  # what is searched is not given, either


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
