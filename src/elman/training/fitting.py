"""Training from Python in one call."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import elman
from elman.errors import InputError
from elman.training.loop import Report, Training
from elman.training.run import GIVEN, Run
from elman.training.task import Task
from elman.training.team import ALONE, Team, joined

Of = TypeVar("Of", bound=Task)

# In config.json, the run whose model a training started from; as the name of a baseline, the score of that model.
START = "start"


def begin(
    task: Of, directory: str | Path, *, overwrite: bool = False, team: Team = ALONE, given: Collection[Path] = ()
) -> tuple[Training[Of], dict[str, Any]]:
    """Begins a run: writes config.json, the task's own files and a first checkpoint.

    given: files in the directory that have data of this run, and are a part of it.

    Returns the training, whose `steps()` train the model, and the content of config.json. Raises InputError if the
    directory already holds a run, unless `overwrite` is true, or if it holds any other files.
    """
    run = Run(Path(directory), team.first)
    check_free(run, overwrite, team, given)
    training = Training(run, task, team)  # whatever it refuses, it refuses before a run is overwritten
    config: dict[str, Any] = {
        "elman": elman.__version__,
        "task": task.name,
        "options": asdict(task.options),
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "baselines": {},
        **task.about(),
    }
    if given:
        config[GIVEN] = [path.name for path in given]
    start: Path | None = getattr(task, "start", None)
    if start is not None:  # a model that learns nothing new from its new data is as good as before
        config |= {START: str(start.resolve()), "baselines": {START: training.score(), **config["baselines"]}}
    run.create(config)
    with run.locked():
        if team.first:
            task.write(run.directory)
        training.save()
    return training, config


def check_free(run: Run, overwrite: bool, team: Team, given: Collection[Path] = ()) -> None:
    """Raises InputError in every process of the team if the directory holds what must not be overwritten."""
    check_in_all(lambda: run.check_free(overwrite, given), team)


def check_in_all(check: Callable[[], None], team: Team) -> None:
    """Lets the first process check something, and raises in every process the InputError that it meets."""
    problem = None
    if team.first:
        try:
            check()
        except InputError as error:
            problem = str(error)
    if problem := team.told(problem):
        raise InputError(problem)


def fit(
    task: Task,
    directory: str | Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    given: Collection[Path] = (),
    show: Callable[[Report], object] | None = None,
) -> list[dict[str, str]]:
    """Trains a task until its budget of epochs or minutes is used up. The model then has its best parameters.

    directory: where the run is kept: config.json, metrics.csv, the best parameters, and a checkpoint.
    overwrite: whether to replace a run in the directory. resume: whether to resume this run from its last checkpoint.
    given: files in the directory that have data of this run. show: a function that is called after every step with a `Report`.

    If `torchrun` has started several processes and each of them calls this function, they train together.

    Returns the rows of metrics.csv. Raises InputError if the directory cannot be used, if the data of a resumed run
    have changed, or if the loss is no longer finite.
    """
    with joined(str(next(task.model.parameters()).device)) as (team, _):
        if resume:
            training = Training(Run(Path(directory), team.first), task, team)
            training.restore()
        else:
            training, _ = begin(task, directory, overwrite=overwrite, team=team, given=given)
        for report in training.steps():
            if show is not None:
                show(report)
        team.any(False)  # the first process has written everything
        training.run.fill(task.model)
        return training.run.metrics()
