"""The search for options and the learning-rate range test."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import resource
import signal
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from elman import tasks
from elman.datasets.reading import BadRows
from elman.errors import InputError
from elman.files import write_atomically
from elman.tasks.options import ClassificationOptions, LanguageModelOptions
from elman.training import search as searching
from elman.training.journal import Journal
from elman.training.lock import Lock
from elman.training.range_test import LEAST, MOST, range_test
from elman.training.search import JOURNAL, _bounded, search
from test_task import Adding, Options
from test_tasks import SMALL, data_of, write_waves
from tiny_runs import elman

pytestmark = pytest.mark.usefixtures("no_pictures")

QUICK = ("--epochs", 1, "--batch-size", 8, "--hidden-size", 4, "--num-layers", 1)


def test_the_range_test_finds_a_rate_that_trains() -> None:
    found = range_test(Adding())
    assert found.rates[0] == LEAST
    assert all(a < b for a, b in zip(found.rates, found.rates[1:], strict=False))
    assert found.rates[-1] <= MOST
    assert found.losses[-1] > 1.2 * min(found.losses) or len(found.rates) == 120
    assert 1e-4 < found.suggested < 0.3
    assert found.suggested == pytest.approx(found.rates[found.losses.index(min(found.losses))] / 5)
    torch.manual_seed(3)
    task = Adding()
    task.options = Options(learning_rate=found.suggested, epochs=20.0)
    assert found.losses[0] == pytest.approx(float(next(iter(task.batches(0, 0))).loss().detach()), rel=1e-5)


def test_the_range_test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_waves(tmp_path / "waves.jsonl", 40, 0)
    status, out, err = elman("train", "classify", file, "--find-lr", *QUICK)
    assert (status, err) == (0, "")
    *rows, last = out.splitlines()
    assert len(rows) >= 5
    assert all(re.fullmatch(r"\S+ +\d+\.\d{4}", row) for row in rows)
    suggested = re.fullmatch(r"suggested    --learning-rate (\S+)", last)
    assert suggested is not None
    assert 1e-5 <= float(suggested[1]) <= 0.3
    assert [path.name for path in tmp_path.iterdir()] == ["waves.jsonl"]  # it leaves nothing


class Scored(Adding):
    """A task whose score is that of its learning rate: the best is 0.01."""

    def __init__(self, options: Any) -> None:
        super().__init__(count=8)
        self.options = options

    def evaluate(self) -> dict[str, float]:
        return {"validation_squares": abs(float(torch.tensor(self.options.learning_rate).log10()) + 2)}


def test_the_best_of_a_search_is_the_best(tmp_path: Path) -> None:
    options = ClassificationOptions(epochs=12.0)
    fixed = {"hidden_size", "num_layers", "dropout", "cell"}
    results = search(lambda drawn: Scored(drawn), options, tmp_path / "tune", 12, fixed)
    assert len(results) == 12
    assert all(set(each.options) == {"learning_rate"} for each in results)
    assert all(5e-4 <= each.options["learning_rate"] <= 2e-2 for each in results)
    (best,) = [each for each in results if each.best]
    scores = [each.score for each in results if each.score is not None]
    assert best.score == min(scores)
    assert any(each.score is None for each in results)  # some were stopped early
    config = json.loads((best.directory / "config.json").read_text())
    assert config["options"]["learning_rate"] == best.options["learning_rate"]
    assert best.score == pytest.approx(abs(float(torch.tensor(best.options["learning_rate"]).log10()) + 2))


class Tied(Scored):
    """All of its scores are the same, as the error rates of models that have learned little; its losses are not."""

    score, higher_is_better = "reward", True

    def evaluate(self) -> dict[str, float]:
        return {"reward": 1.0, "validation_squares": 100 * super().evaluate()["validation_squares"]}


def test_of_equal_scores_the_one_with_the_lowest_loss_is_the_best(tmp_path: Path) -> None:
    options, fixed = ClassificationOptions(epochs=2.0), {"hidden_size", "num_layers", "dropout", "cell"}
    results = search(Tied, options, tmp_path, 5, fixed)
    assert {each.score for each in results if each.score is not None} == {1.0}
    (best,) = [each for each in results if each.best]
    far = {each.number: abs(np.log10(each.options["learning_rate"]) + 2) for each in results if each.score is not None}
    assert len(far) >= 4
    assert far[best.number] == min(far.values()) < 0.9 * far[0]
    assert [_bounded(loss) for loss in (0.0, 1.0, np.inf, np.nan)] == [0, 0.5, 1, 0]


class Rewarded(Scored):
    """More of its score is better."""

    score, higher_is_better = "reward", True

    def evaluate(self) -> dict[str, float]:
        return {"reward": 1 - super().evaluate()["validation_squares"]}


def test_the_best_of_a_search_is_the_one_with_the_most_where_more_is_better(tmp_path: Path) -> None:
    options = ClassificationOptions(epochs=2.0)
    results = search(Rewarded, options, tmp_path, 4, {"hidden_size", "num_layers", "dropout", "cell"})
    (best,) = [each for each in results if each.best]
    scores = [each.score for each in results if each.score is not None]
    assert len(set(scores)) == 4  # none is stopped before there are four
    assert best.score == max(scores)
    assert best.score == pytest.approx(1 - abs(float(torch.tensor(best.options["learning_rate"]).log10()) + 2))


def test_a_search_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    options, made = ClassificationOptions(epochs=2.0), []

    def make(drawn: Any) -> Scored:
        made.append(drawn)
        if len(made) == 5:
            raise KeyboardInterrupt
        return Scored(drawn)

    with pytest.raises(KeyboardInterrupt):
        search(make, options, tmp_path, 6)
    results = search(make, options, tmp_path, 6)
    assert len(results) == 6
    assert len({each.options["learning_rate"] for each in results}) == 6
    assert search(make, options, tmp_path, 6) == results  # nothing is left to do


def test_a_draw_that_cannot_be_trained_is_one_of_many(tmp_path: Path) -> None:
    count = 0

    def make(drawn: Any) -> Scored:
        nonlocal count
        task, count = Scored(drawn), count + 1
        if count == 3:
            with torch.no_grad():
                next(task.model.parameters()).fill_(float("nan"))
        return task

    results = search(make, ClassificationOptions(epochs=2.0), tmp_path, 3)
    assert [each.score is None for each in results] == [False, True, False]


def test_a_training_that_cannot_be_written_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        if path.name == "metrics.csv":
            raise InputError(f"cannot write {path}: No space left on device; make room")
        write_atomically(path, content)

    monkeypatch.setattr("elman.training.run.write_atomically", full)
    with pytest.raises(InputError, match="No space left on device"):
        search(lambda drawn: Scored(drawn), ClassificationOptions(epochs=1.0), tmp_path, 3)
    monkeypatch.undo()
    results = search(lambda drawn: Scored(drawn), ClassificationOptions(epochs=1.0), tmp_path, 3)
    assert all(each.score is not None for each in results)


@pytest.mark.parametrize("missing", [1, 30, "the whole line but a byte"])
def test_a_search_whose_journal_was_cut_off_goes_on(tmp_path: Path, missing: int | str) -> None:
    """As a crash leaves it. What is added is whole, too: each later search reads it."""
    options = ClassificationOptions(epochs=1.0)
    first = search(Scored, options, tmp_path, 2)
    path = tmp_path / JOURNAL
    *others, last = path.read_bytes().splitlines(keepends=True)
    cut = last[: -missing if isinstance(missing, int) else 1]
    path.write_bytes(b"".join(others) + cut)
    found = search(Scored, options, tmp_path, 3)
    assert len(found) == 3
    assert found[0] == first[0]  # the end of the second was not noted, so that training is made again
    assert path.read_bytes().startswith(b"".join(others))
    assert all(json.loads(line) for line in path.read_text().splitlines())
    assert search(Scored, options, tmp_path, 3) == found


def test_a_full_disk_takes_nothing_from_a_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / JOURNAL)
    journal.append_logs([{"first": 1}])
    whole = (tmp_path / JOURNAL).read_bytes()
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 8, before[1]))
        with pytest.raises(
            InputError, match=r"cannot write .*study\.log: .*; what was there before is intact; make room"
        ):
            journal.append_logs([{"second": "more than eight bytes"}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / JOURNAL).read_bytes() == whole
    journal.append_logs([{"third": 3}, {"fourth": 4}])
    assert [*journal.read_logs(0)] == [{"first": 1}, {"third": 3}, {"fourth": 4}]


def test_a_full_disk_takes_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = os.write

    def full(file: int, content: bytes) -> int:
        if content == str(os.getpid()).encode():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(file, content)

    monkeypatch.setattr(os, "write", full)
    lock = Lock(tmp_path / "other")
    with pytest.raises(OSError, match="No space left on device"):
        lock.take()
    with pytest.raises(InputError, match=r"cannot write .*lock: No space left on device; .* make room"):
        search(Scored, ClassificationOptions(epochs=1.0), tmp_path / "search", 1)
    monkeypatch.undo()
    assert lock.take() is None
    lock.give_back()
    assert len(search(Scored, ClassificationOptions(epochs=1.0), tmp_path / "search", 1)) == 1


def test_a_journal_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*; make room or choose another place"):
        search(Scored, ClassificationOptions(epochs=1.0), tmp_path / "file", 2)


def test_searches_that_begin_together_draw_differently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process makes its trainings when this one has begun, and before it makes one."""
    options, done = ClassificationOptions(epochs=1.0), searching._done

    def meanwhile(study: Any) -> Any:
        monkeypatch.setattr(searching, "_done", done)
        assert len(search(lambda drawn: Scored(drawn), options, tmp_path, 2)) == 2
        return done(study)

    monkeypatch.setattr(searching, "_done", meanwhile)
    results = search(lambda drawn: Scored(drawn), options, tmp_path, 4)
    assert len(results) == 4
    assert len({each.options["learning_rate"] for each in results}) == 4
    assert len({each.options["dropout"] for each in results}) == 4


class Other:
    """Another process, which has begun a training in the directory of a search."""

    def __init__(self, directory: Path) -> None:
        self.study = optuna.load_study(
            study_name=None, storage=JournalStorage(JournalFileBackend(str(directory / JOURNAL)))
        )
        self.trial = self.study.ask()
        self.lock = (directory / f"trial-{self.trial.number:03}.lock").open("w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)

    def end(self, score: float | None) -> None:
        """score: that of the training; None if the process was killed."""
        if score is not None:
            self.study.tell(self.trial, score)
        self.lock.close()


@pytest.mark.parametrize("score", [1e-3, None], ids=["ends", "is killed"])
def test_the_training_of_another_process_counts_while_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: float | None
) -> None:
    monkeypatch.setattr(searching.time, "sleep", lambda seconds: None)
    others, waits = list[Other](), list[int]()

    def make(drawn: Any) -> Scored:
        if (tmp_path / "trial-000.lock").exists() and not others:  # the first training has begun
            others.append(Other(tmp_path))
        return Scored(drawn)

    def wait() -> None:
        waits.append(len(waits))
        if len(waits) == 3:
            others[0].end(score)

    results = search(make, ClassificationOptions(epochs=1.0), tmp_path, 3, waiting=wait)
    assert len(waits) == 3
    assert [each.number for each in results] == ([0, 2, 3] if score is None else [0, 1, 2])
    assert {path.name for path in tmp_path.glob("*lock")} == {"trial-001.lock"}  # which the other has left


def test_one_process_at_a_time_begins_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one is about to, and has the last training."""
    options, sleeps = ClassificationOptions(epochs=1.0), list[float]()
    search(lambda drawn: Scored(drawn), options, tmp_path, 1)
    begins = (tmp_path / "lock").open("w")
    fcntl.flock(begins, fcntl.LOCK_EX)

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        if len(sleeps) == 2:
            other = Other(tmp_path)
            begins.close()
            other.end(1.0)

    monkeypatch.setattr(searching.time, "sleep", sleep)
    assert [each.number for each in search(lambda drawn: Scored(drawn), options, tmp_path, 2)] == [0, 1]
    assert len(sleeps) >= 2


def test_the_same_search_draws_the_same(tmp_path: Path) -> None:
    """Also where it is interrupted between two trainings."""
    options = ClassificationOptions(epochs=1.0, seed=2**40)
    whole = search(lambda drawn: Scored(drawn), options, tmp_path / "a", 8)
    for trials in (3, 8):
        parts = search(lambda drawn: Scored(drawn), options, tmp_path / "b", trials)
    assert [each.options for each in whole] == [each.options for each in parts]
    assert [each.score for each in whole] == [each.score for each in parts]


OTHER_SEARCHES: dict[str, tuple[tuple[Any, ...], str]] = {
    "other data": (("classify", "{other}", *QUICK), "was begun with other sequences; put the old sequences back, or give another"),
    "another task": (("tag", "{tagged}", "--epochs", 1), "holds a search of the task classify, not tag; give another"),
    "another option": (("classify", "{file}", *QUICK, "--noise", 0), "was begun with --noise 0.3, and this one is with --noise 0.0; give the same options, or another"),
    "fixed, not searched": (("classify", "{file}", *QUICK, "--dropout", 0.5), "was begun without --dropout, and this one is with --dropout 0.5"),
    "searched, not fixed": (("classify", "{file}", *QUICK[:-2]), "was begun with --num-layers 1, and this one is without --num-layers"),
    "a switch": (("classify", "{file}", *QUICK, "--balanced"), "was begun without --balanced, and this one is with --balanced"),
}  # fmt: skip


def studies_of(directory: Path) -> list[Any]:
    return optuna.get_all_study_summaries(JournalStorage(JournalFileBackend(str(directory / JOURNAL))))


def test_a_directory_holds_one_search(tmp_path: Path) -> None:
    file, tune = write_waves(tmp_path / "waves.jsonl", 40, 0), tmp_path / "tune"
    places = {"file": file, "other": write_waves(tmp_path / "other.jsonl", 40, 1), "tagged": data_of("tag", tmp_path)}
    begun = elman("tune", "classify", file, *QUICK, "--trials", 1, "--directory", tune)
    assert begun.status == 0
    for arguments, said in OTHER_SEARCHES.values():
        command = [part.format(**places) if isinstance(part, str) else part for part in arguments]
        status, out, err = elman("tune", *command, "--trials", 1, "--directory", tune)
        assert (status, out) == (2, "")
        assert str(tune) in err
        assert said in err
        assert err.endswith("another --directory\n")
    assert [study.study_name for study in studies_of(tune)] == ["classify"]  # the others have left no trace
    moved = file.rename(tmp_path / "moved.jsonl")  # the same data, elsewhere
    assert elman("tune", "classify", moved, *QUICK, "--trials", 1, "--directory", tune, "--threads", 2).out == begun.out


def test_a_search_of_an_earlier_version_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ClassificationOptions(epochs=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(searching, "_check_same", lambda *_: None)
        search(lambda drawn: Scored(drawn), options, tmp_path, 1)
    for noise in (0.1, 0.2):
        assert len(search(lambda drawn: Scored(drawn), replace(options, noise=noise), tmp_path, 2)) == 2


def test_everything_given_leaves_nothing_to_search(tmp_path: Path) -> None:
    every = {"learning_rate", "hidden_size", "num_layers", "dropout", "cell"}
    with pytest.raises(InputError, match="every option that could be searched is given"):
        search(lambda drawn: Scored(drawn), LanguageModelOptions(epochs=1.0), tmp_path / "tune", 1, every)
    assert not (tmp_path / "tune").exists()


def test_a_search_that_no_training_can_follow(tmp_path: Path) -> None:
    """It notes nothing of itself, so that the directory is free for one with other options."""
    with pytest.raises(InputError, match="--precision bf16 is for GPUs"):
        search(lambda drawn: Scored(drawn), ClassificationOptions(epochs=1.0, precision="bf16"), tmp_path / "tune", 1)
    assert not (tmp_path / "tune").exists()


@pytest.mark.usefixtures("pictures")
def test_tuning_on_the_command_line(tmp_path: Path) -> None:
    file = write_waves(tmp_path / "waves.jsonl", 40, 0)
    command = ("tune", "classify", file, "--trials", 3, "--directory", tmp_path / "tune", *QUICK)
    status, out, err = elman(*command)
    assert status == 0, err
    lines = out.splitlines()
    assert len(lines) == 3
    assert all("--learning-rate" in line and "--cell" in line and "--hidden-size" not in line for line in lines)
    best = re.search(r"^the best run is (\S+); picture in (\S+);", err, re.MULTILINE)
    assert best is not None
    assert Path(best[2]).read_bytes().startswith(b"\x89PNG")
    assert next(line for line in lines if line.startswith("best ")).split()[2] == str(int(best[1][-3:]))
    assert elman("evaluate", best[1], file).status == 0
    assert elman(*command).out == out
    assert len(elman(*command[:4], 4, *command[5:]).out.splitlines()) == 4


# What a search shares among its trainings

OF_DATA = {"held_out": 0.3, "min_count": 100, "split": "0.6,0.2,0.2"}  # options that say something of the data


def assert_same(a: Any, b: Any) -> None:
    """Two tasks have the same model, data, batches and scores, to the bit."""
    for name in ("options", "digest", "steps_per_epoch", "name", "measure", "score"):
        assert getattr(a, name) == getattr(b, name)
    assert a.about() == b.about()
    found, expected = a.model.state_dict(), b.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)
    for task in (a, b):
        torch.manual_seed(5)
        task.losses = [float(batch.loss().detach()) for batch in task.batches(0, 0)]
    assert a.losses == b.losses
    assert a.evaluate() == b.evaluate()


@pytest.mark.parametrize("name", tasks.MODULES)
def test_what_is_searched_says_nothing_of_the_data(tmp_path: Path, name: str) -> None:
    """A task made anew is the one that reading again would make: for other options this is not so."""
    module, path = tasks.module(name), data_of(name, tmp_path)

    def begun(options: Any) -> Any:
        return module.begin(path, options, "cpu", BadRows())

    values = {str(flag)[2:].replace("-", "_"): v for flag, v in zip(SMALL[name][::2], SMALL[name][1::2], strict=True)}
    options = module.Options(epochs=1.0, **values)
    task = begun(options)
    searched = [field for field in fields(options) if field.metadata["search"]]
    assert searched
    for field in searched:
        space = field.metadata["search"]
        for value in {space[0], space[-1]} - {getattr(options, field.name)}:
            other = replace(options, **{field.name: value})
            assert_same(task.anew(other), begun(other))
    assert_same(task, begun(options))  # which the others have left alone
    for option in OF_DATA.keys() & {field.name for field in fields(options)}:
        other = replace(options, **{option: OF_DATA[option]})
        with pytest.raises(AssertionError):
            assert_same(task.anew(other), begun(other))


@pytest.mark.parametrize("name", tasks.MODULES)
def test_a_search_reads_its_data_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    module, path = tasks.module(name), data_of(name, tmp_path)
    begin = module.begin

    def begin_and_delete(*arguments: Any) -> Any:
        task = begin(*arguments)
        path.unlink()
        return task

    monkeypatch.setattr(module, "begin", begin_and_delete)
    outcome = elman("tune", name, path, "--trials", 3, "--epochs", 1, "--directory", tmp_path / "tune", *SMALL[name])
    assert outcome.status == 0, outcome.err
    assert len(outcome.out.splitlines()) == 3


def test_n_grams_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from elman.tasks import language_model

    count, counted = 0, language_model.witten_bell

    def counting(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        return counted(*arguments)

    monkeypatch.setattr(language_model, "witten_bell", counting)
    path = data_of("lm", tmp_path)
    command = ("tune", "lm", path, "--trials", 2, "--epochs", 1, "--directory", tmp_path / "tune", *SMALL["lm"])
    assert elman(*command).status == 0
    assert count == 1


def test_a_drawn_model_beyond_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from elman.tasks.classification import Classification

    def anew(self: Any, options: Any) -> Any:
        raise MemoryError("out of memory")

    monkeypatch.setattr(Classification, "anew", anew)
    command = ("tune", "classify", data_of("classify", tmp_path), "--directory", tmp_path / "tune", *QUICK)
    status, out, err = elman(*command)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"elman: a model with --hidden-size 4, .* does not fit into memory; make it smaller\n", err)


def test_a_forget_bias_and_a_cell_without_a_forget_gate(tmp_path: Path) -> None:
    """A search draws both; such a training is stopped before it begins."""
    cells = []

    def make(drawn: Any) -> Scored:
        cells.append(drawn.cell)
        return Scored(drawn)

    results = search(make, LanguageModelOptions(epochs=2.0, forget_bias=1.0), tmp_path, 12)
    drawn = {each.options["cell"]: each.score for each in results}
    assert drawn["gru"] is None
    assert "gru" not in cells
    assert len(set(cells)) >= 2


@pytest.mark.parametrize(
    ("arguments", "mention"),
    [
        (["--trials", 0], "--trials must be 1 or more, got 0"),
        (["--noise", -1], "--noise must lie between 0 and 10, got -1.0"),
        (["--cell", "lstn"], "did you mean 'lstm'"),
    ],
)
def test_a_mistake_in_a_search(tmp_path: Path, arguments: list[Any], mention: str) -> None:
    status, out, err = elman("tune", "classify", "--directory", tmp_path / "tune", *arguments)
    assert (status, out) == (2, "")
    assert mention in err
    assert not (tmp_path / "tune").exists()
