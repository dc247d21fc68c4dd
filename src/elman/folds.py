"""What becomes of the parts of data that models did not see, and what these say together: a cross-validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

from elman.errors import InputError
from elman.tasks.options import SequenceOptions
from elman.training.options import said

OF_NO_EFFECT = ("threads",)  # options that may differ between the trainings
MINUTES = 1.0  # of each training, if nothing is said of it


class Fold(NamedTuple):
    """What became of the part that a model did not see."""

    name: str
    told: str  # its scores in words
    score: str  # what the score that counts is called
    higher_is_better: bool
    unit: float  # what a score of 1 is in the unit of the data; 1 where it has none
    model: float  # the score
    baselines: Mapping[str, float]
    rows: list[
        tuple[int, dict[str, Any]]
    ]  # about each label, after the place of its sequence in the file; if asked for

    @property
    def line(self) -> str:
        return f"{f'fold {self.name}':<11} {self.told}"


def of(directory: Path, options: SequenceOptions) -> Any:
    """Returns the run of a fold in the directory of all."""
    from elman.training.run import Run

    assert options.fold is not None
    return Run(directory / f"fold-{options.fold.partition('/')[0]}")


def check_count(folds: int) -> None:
    """Raises InputError if there are too few folds to leave one out."""
    if folds < 2:
        raise InputError(f"--folds must be 2 or more, got {folds}")


def goes_on(run: Any, file: Path, options: SequenceOptions) -> bool:
    """Returns whether a run was begun before, so that it goes on. Raises InputError if that was with other data or options."""
    from elman.training.run import CHECKPOINT, MODEL

    # A run that was killed before its first checkpoint has nothing to go on with.
    if not run.exists or not (run.has(CHECKPOINT) or run.has(MODEL)):
        return False
    _check_same(run, file, options)
    return True


def _check_same(run: Any, file: Path, options: SequenceOptions) -> None:
    from elman import tasks
    from elman.training.record import data_of

    kept, config = run.options(type(options), tasks.module(options.task).CONFIG)
    if data_of(config) != file.resolve():
        raise InputError(f"{run.directory} was begun with {data_of(config)} and not {file}; give another --directory")
    before, now = asdict(kept), asdict(options.of_data(file))
    for name in (field.name for field in fields(options) if field.name not in OF_NO_EFFECT):
        if before[name] != now[name]:
            raise InputError(
                f"{run.directory} was begun {said(name, before[name])}, and this one is {said(name, now[name])}; give the same options, or another --directory"
            )


def judged(task: Any, rows: bool) -> Fold:
    """Returns how well a task's model, with its best parameters, predicts the part that it did not see. rows: whether these are wanted."""
    scores, baselines = task.tested()
    return Fold(
        str(task.options.fold),
        task.result({name: repr(value) for name, value in scores.items()}),
        task.score_unit,
        task.higher_is_better,
        task.unit_of_score,
        scores[task.score],
        baselines,
        list(task.examples()) if rows else [],
    )


def together(found: Sequence[Fold]) -> Iterator[str]:
    """Yields the mean of all parts in words, beside the baselines."""
    first, n = found[0], len(found)
    scores = [each.model for each in found]
    yield f"{'mean':<11} {_mean(scores)} {first.score}, from {min(scores):.4f} to {max(scores):.4f}"
    for name in first.baselines:
        own = [each.baselines[name] for each in found]
        better = sum((a > b) == first.higher_is_better and a != b for a, b in zip(scores, own, strict=True))
        yield f"{name:<11} {_mean(own)} {first.score}: the model is better in {better} of {n} folds"
    if any(each.unit != 1.0 for each in found):
        in_unit = [each.model * each.unit for each in found]
        yield f"{'in unit':<11} {sum(in_unit) / n:.6g} {first.score}, from {min(in_unit):.6g} to {max(in_unit):.6g}"


def _mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.4f}"


def rows_of(found: Sequence[Fold]) -> Iterator[dict[str, Any]]:
    """Yields the rows about all labels, in the order of the file."""
    every = [(place, row | {"fold": each.name}) for each in found for place, row in each.rows]
    return (row for _, row in sorted(every, key=lambda pair: pair[0]))
