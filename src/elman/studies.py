"""Many trainings from Python in one call: what `elman cross-validate` and `elman tune` do, also for data that a program holds.

    found = elman.cross_validate("classify", frame, "runs/folds", folds=5, sequence="id", label="kind")
    print(found)

judges by all of a frame: each of five models by the part that it does not see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elman import beginning, tasks
from elman import folds as folds_of
from elman.datasets.given import Data, as_file, is_path
from elman.errors import InputError
from elman.files import check_directory
from elman.folds import Fold
from elman.models import Model, check_show, check_task, from_python, load, options_of
from elman.tasks.options import SequenceOptions
from elman.training.fitting import fit
from elman.training.team import started_together

if TYPE_CHECKING:
    from elman.training.loop import Report
    from elman.training.options import Options


@dataclass(frozen=True)
class CrossValidation:
    """How well models predict the parts of the data that they did not see. As a text, it is what `elman cross-validate` prints.

    score: what the score that counts is called.
    scores: that of each model, of its part.
    baselines: those of each part, by what the baselines are called.
    models: the models, the first of which did not see the first part.
    examples: a row for each label in the order of the data, with its "fold", if they were asked for.
    remarks: what there is to say of the data of trainings that were begun now, such as rows that were left out.
    """

    score: str
    scores: list[float]
    baselines: dict[str, list[float]]
    models: list[Model]
    examples: list[dict[str, Any]] | None
    remarks: list[str]
    text: str

    def __str__(self) -> str:
        return self.text


def cross_validate(
    task: str,
    data: Data,
    directory: str | Path,
    *,
    folds: int = 5,
    validation: Data | None = None,
    device: str = "auto",
    examples: bool = False,
    show: Callable[[Report], object] | None = None,
    **options: Any,
) -> CrossValidation:
    """Judges by all of the data: trains a model for each part, on the others, and judges it by the part that it did not see.

    task: "classify", "multilabel", "regress", "transcribe" or "translate".
    data: as for `elman.train`.
    directory: of the runs. Data that are no file are kept there, too. A call that was interrupted goes on if it is made again.
    folds: how many parts there are, and trainings.
    validation: data that say when to stop, in place of a share of the other parts.
    device, show: as for `elman.train`.
    examples: whether to return a row for each label, too.
    options: those of the command, such as group="person"; a minute for each training if neither minutes nor epochs is given.

    Random numbers of torch are seeded. Raises InputError for data or an option that is wrong.
    """
    with _studying(task, directory, "a cross-validation") as (place, in_words, keep):
        check_show(show)
        _check_count("folds", folds)
        module = tasks.module(task)
        if not issubclass(module.Options, SequenceOptions):
            known = [name for name in tasks.MODULES if issubclass(tasks.module(name).Options, SequenceOptions)]
            raise InputError(f"there is no cross-validation for {task!r}; choose one of {', '.join(known)}")
        folds_of.check_count(folds)
        if "fold" in options:
            raise InputError("fold is for one training, and a cross-validation makes all of them; leave it out")
        file = keep(data, "data")
        if validation is not None:
            options["validation"] = str(keep(validation, "validation").resolve())
        made, chosen = _made(module.Options, options, file), beginning.device(device)
        found, remarks = list[Fold](), list[str]()
        for each in (replace(made, fold=f"{k}/{folds}") for k in range(1, folds + 1)):
            run = folds_of.of(place, each)
            again = folds_of.goes_on(run, file, each)
            if again:
                task_of = module.resume(run, file, each.of_data(file), chosen)
            else:
                task_of, remarks = beginning.make_task(file, each, chosen)
            fit(task_of, run.directory, overwrite=run.exists, resume=again, show=show)
            found.append(folds_of.judged(task_of, examples))
        text = "\n".join([*(each.line for each in found), *folds_of.together(found)])
        return CrossValidation(
            found[0].score,
            [each.model for each in found],
            {name: [each.baselines[name] for each in found] for name in found[0].baselines},
            [load(place / f"fold-{k}", device) for k in range(1, folds + 1)],
            list(folds_of.rows_of(found)) if examples else None,
            [*map(in_words, remarks)],
            in_words(text),
        )


@dataclass(frozen=True)
class Trial:
    """One training of a search.

    options: those that were searched, and the values that this training had.
    score: its best; None if it was stopped early.
    path: its run.
    """

    options: dict[str, Any]
    score: float | None
    path: Path


@dataclass(frozen=True)
class Search:
    """What a search for good options has found.

    model: the best one, as `elman.load` returns it.
    best: its training.
    trials: all trainings.
    score: what the score is called.
    remarks: what there is to say of the data, such as rows that were left out.
    """

    model: Model
    best: Trial
    trials: list[Trial]
    score: str
    remarks: list[str]


def tune(
    task: str,
    data: Data | None,
    directory: str | Path,
    *,
    trials: int = 20,
    validation: Data | None = None,
    device: str = "auto",
    show: Callable[[int, Report], object] | None = None,
    **options: Any,
) -> Search:
    """Searches for good options by many short trainings, of which the worse ones are stopped early.

    The learning rate, hidden size, number of layers, dropout and cell are searched, unless they are given.

    task: any that `elman.train` knows.
    data, validation, device: as for `elman.train`.
    directory: of the runs. Data that are no file are kept there, too. A search that was interrupted goes on if it is called again.
    trials: trainings in all, those of earlier searches in the directory among them.
    show: a function that is called after every step with the number of the training and a `Report`.
    options: those of the command, which are then not searched; a minute for each training if neither minutes nor epochs is given.

    Random numbers of torch are seeded. Raises InputError for data or an option that is wrong, or if no training came to its end.
    """
    with _studying(task, directory, "a search") as (place, in_words, keep):
        from elman.training.search import search

        check_show(show)
        _check_count("trials", trials)
        if trials < 1:
            raise InputError(f"trials must be 1 or more, got {trials}")
        file = None if data is None else keep(data, "data")
        if validation is not None:
            options["validation"] = str(keep(validation, "validation").resolve())
        made = _made(tasks.module(task).Options, options, file)
        first, remarks = beginning.make_task(file, made, beginning.device(device))

        def make(drawn: Options) -> Any:
            with beginning.in_memory(drawn):
                return first.anew(drawn)

        found = search(make, first.options, place, trials, options.keys(), show)
        every = {each.number: Trial(each.options, each.score, each.directory) for each in found}
        best = next((every[each.number] for each in found if each.best), None)
        if best is None:
            raise InputError(f"no training of {place} came to its end; give more trials, or a lower learning_rate")
        model = load(best.path, device)
        return Search(model, best, list(every.values()), first.score_unit, [*map(in_words, remarks)])


def _check_count(name: str, count: Any) -> None:
    if not isinstance(count, int) or isinstance(count, bool):
        raise InputError(f"{name} is {count!r} but should be int")


def _made(of: type[Options], given: dict[str, Any], file: Path | None) -> Any:
    """Returns the options of each training. Raises InputError if they do not fit each other, or the file."""
    made = options_of(of, given, folds_of.MINUTES)
    made.check()
    beginning.refuse_useless(given.keys(), file, made)
    return made


@contextmanager
def _studying(
    task: str, directory: str | Path, what: str
) -> Iterator[tuple[Path, Callable[[str], str], Callable[[Data, str], Path]]]:
    """Yields the directory, what says a text in words of Python, and what keeps data there and returns their path.

    The same data have the same path, so that trainings that were interrupted find theirs. what: what there is to do, in words.
    """
    if not is_path(directory):
        raise InputError(f"directory is {directory!r}; give the path of a directory")
    place, given, written = Path(directory), dict[Path, str](), list[Path]()

    def keep(data: Data, name: str) -> Path:
        path = as_file(data, place, name, task)
        if is_path(data):
            return path
        kept = path.with_stem(f"{name}-{sha256(path.read_bytes()).hexdigest()[:16]}")
        written.extend([] if kept.exists() else [kept])
        path.replace(kept)
        given[kept] = "the data" if name == "data" else "the validation data"
        return kept

    with from_python(given) as in_words:
        check_task(task)
        if started_together():
            raise InputError(f"{what} runs in one process; start it without torchrun")
        new = not place.exists()
        check_directory(place)
        try:
            yield place, in_words, keep
        except BaseException:
            # Of a call that was refused nothing is left but data that a training was begun with.
            configs = (path for path in place.glob("*/config.json") if path.is_file())
            begun = "".join(path.read_text(encoding="utf-8", errors="replace") for path in configs)
            for path in written:
                if path.name not in begun:
                    path.unlink(missing_ok=True)
            if new:
                with suppress(OSError):
                    place.rmdir()
            raise
