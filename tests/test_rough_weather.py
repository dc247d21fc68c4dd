"""Signals at any moment, two processes for one run, and directories that vanish."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from elman import stopping
from elman.errors import InputError
from elman.files import check_writable, write_atomically
from elman.tasks import tagging
from elman.training.lock import Lock
from elman.training.loop import Training
from elman.training.run import Run
from forks import Child, Forks
from tiny_runs import elman, finished, process, prose

SIZES = ("--hidden-size", 8, "--embedding-size", 4, "--batch-size", 4, "--window", 8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    d = tmp_path_factory.mktemp("weather")
    (d / "text.txt").write_text(prose(1500))
    (d / "tagged.txt").write_text("the\tDET\ncat\tNOUN\n\n" * 30)
    assert elman("train", "lm", d / "text.txt", "--epochs", 1, *SIZES, "--run", d / "run").status == 0
    tagger = ("--epochs", 1, "--hidden-size", 4, "--num-layers", 1, "--run", d / "tagger")
    assert elman("train", "tag", d / "tagged.txt", *tagger).status == 0
    return SimpleNamespace(directory=d, text=d / "text.txt", run=d / "run", tagger=d / "tagger")


# Signals


def handles_signals(child: subprocess.Popen[str]) -> bool:
    """Whether elman has begun: before, the signal reaches Python itself, while it starts."""
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{child.pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux to see when elman begins")
def test_control_c_at_any_moment(made: SimpleNamespace, tmp_path: Path):
    """While modules are imported, data are read, steps are made: status 130, no traceback, and files are whole."""
    draw = random.Random(0)
    commands = [
        ("train", "lm", made.text, "--epochs", 1000, *SIZES, "--run"),
        ("evaluate", made.run, made.text),
        ("sample", made.run, "--length", 10**6, "--seed", 1),
        ("predict", made.tagger, made.directory / "tagged.txt"),
    ]
    with contextlib.ExitStack() as stack:
        moments = list[tuple[float, subprocess.Popen[str], int]]()
        for number in range(8):
            command = commands[number % 4]
            if command[0] == "train":
                command = (*command, tmp_path / str(number))
            child = stack.enter_context(process("-m", "elman", *command, stdout=subprocess.DEVNULL))
            while not handles_signals(child):
                time.sleep(0.001)
            which = signal.SIGTERM if number >= 6 else signal.SIGINT
            moments.append((time.monotonic() + draw.random() * 3, child, which))
        for moment, child, which in sorted(moments, key=lambda each: each[0]):
            time.sleep(max(0.0, moment - time.monotonic()))
            ended = child.poll()
            child.send_signal(which)
            _, err = child.communicate(timeout=60)
            # While Python itself ends, the signal ends it directly: the shell says the same status of that.
            assert child.returncode in ((128 + which, -which) if ended is None else (0,)), err
            assert not re.search("Traceback|Error|Exception|elman: ", err), err
    assert not list(tmp_path.rglob(".*"))


def test_a_program_that_ends_at_once_leaves_no_temporary_file(tmp_path: Path):
    code = """
import os, signal
from pathlib import Path
from elman import stopping
from elman.files import write_atomically
stopping.at_once()
def pieces():
    yield b"half"
    assert list(Path(".").iterdir()) != []
    os.kill(os.getpid(), signal.SIGTERM)
    yield b"a file"
write_atomically(Path("a.csv"), pieces())
"""
    assert finished("-c", code, cwd=tmp_path) == (143, "", "")
    assert list(tmp_path.iterdir()) == []
    write_atomically(tmp_path / "a.csv", b"whole")
    assert not stopping.unfinished


@pytest.mark.filterwarnings("ignore")  # Optuna's own
@pytest.mark.parametrize("step", [0, 2])
def test_a_search_that_is_told_to_end(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
):
    at_step(monkeypatch, step, lambda training: signal.raise_signal(signal.SIGTERM))
    search = ("tune", "lm", made.text, "--epochs", 1, "--trials", 2, "--directory", tmp_path / "search")
    again = f"elman tune lm ... --directory {tmp_path / 'search'}"
    told = f"interrupted; continue with the same command and its directory: {again}\n"
    assert elman(*search, *SIZES) == (143, "", told)


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, does: Callable[[Training[Any]], object]) -> None:
    """Lets something happen in each training after a step: 0 is while its first checkpoint is written."""
    save, count = Training.save, Training._count

    def saved(self: Training[Any]) -> None:
        save(self)
        if step == self.place.step == 0:
            does(self)

    def counted(self: Training[Any], loss: float, advance: int) -> None:
        count(self, loss, advance)
        if step == self.place.step:
            does(self)

    monkeypatch.setattr(Training, "save", saved)
    monkeypatch.setattr(Training, "_count", counted)


@pytest.mark.parametrize("task", ["lm", "tag", "classify", "forecast"])
def test_every_task_saves_when_it_is_told_to_end(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
):
    """Before the first step, and in the midst of one; what it then goes on with is what it would have been."""
    rows = "".join(f'{{"values": [{k % 2}, {k % 3}], "label": "{"ab"[k % 2]}"}}\n' for k in range(40))
    (tmp_path / "waves.jsonl").write_text(rows)
    (tmp_path / "series.csv").write_text("y\n" + "".join(f"{t % 4}\n" for t in range(200)))
    given: list[object] = {
        "lm": [made.text, *SIZES],
        "tag": [made.directory / "tagged.txt", "--hidden-size", 4, "--num-layers", 1, "--batch-size", 2],
        "classify": [tmp_path / "waves.jsonl", "--hidden-size", 4, "--batch-size", 4],
        "forecast": [tmp_path / "series.csv", "--hidden-size", 4, "--lookback", 8, "--segment", 4, "--horizon", 4, "--period", 4, "--batch-size", 32],
    }[task]  # fmt: skip
    monkeypatch.setattr("elman.charts.save", lambda *given: None)  # which takes longer than the training
    begun, run = ("train", task, *given, "--epochs", 2, "--run"), tmp_path / "run"
    expected = elman(*begun, tmp_path / "expected").out
    for step in (0, 3):
        with monkeypatch.context() as patch:
            at_step(patch, step, lambda training: signal.raise_signal(signal.SIGTERM))
            status, out, err = elman(*begun, run) if step == 0 else elman("train", task, "--resume", run)
        assert (status, out) == (143, "")
        assert f"interrupted at step {step}, everything is saved; resume with: elman train {task} --resume {run}" in err
    assert elman("train", task, "--resume", run).out == expected


# Two processes for one run


def test_a_run_is_trained_by_one_process(made: SimpleNamespace, tmp_path: Path, forks: Forks):
    run = tmp_path / "run"
    command = "train", "lm", made.text, "--minutes", 10, *SIZES, "--run", run
    with forks.begin(Child("from elman.__main__ import main; main()", tuple(map(str, command)))) as child:
        while not (run / "checkpoint" / "state.safetensors").exists():
            assert child.poll() is None
            time.sleep(0.01)
        shutil.copy(made.run / "model.safetensors", run)  # as after a first evaluation
        trained = f"elman: {run} is being trained by process {child.pid}; stop it first"
        before = (run / "config.json").read_bytes()
        assert elman("train", "lm", "--resume", run) == (2, "", f"{trained}\n")
        again = ("train", "lm", made.text, *SIZES, "--run", run)
        for arguments in (again, (*again, "--overwrite")):
            assert elman(*arguments) == (2, "", f"{trained}, or give another --run\n")
        assert (run / "config.json").read_bytes() == before
        assert elman("sample", run, "--length", 5, "--seed", 1).status == 0
        assert elman("evaluate", run, made.text).status == 0
        child.send_signal(signal.SIGKILL)
        child.end()
    assert (run / "lock").read_text() == str(child.pid)  # what kill -9 left
    assert elman("train", "lm", "--resume", run, "--epochs", 1).status == 0
    assert not (run / "lock").exists()


@contextlib.contextmanager
def locked_by_another(path: Path) -> Iterator[None]:
    """The lock as another process has it: through an open file of its own."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("4711")
        file.flush()
        yield


def test_two_that_begin_at_the_same_time(made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Both have found the directory free; the second one to write is refused, and the run of the first is whole."""
    run = shutil.copytree(made.run, tmp_path / "run")
    before = (run / "config.json").read_bytes()
    monkeypatch.setattr(Run, "check_untrained", lambda self, otherwise="": None)
    with locked_by_another(run / "lock"):
        outcome = elman("train", "lm", made.text, "--epochs", 1, *SIZES, "--run", run, "--overwrite")
        assert outcome == (2, "", f"elman: {run} is being trained by process 4711; stop it first\n")
    assert (run / "config.json").read_bytes() == before


def test_a_lock_taken_twice_is_given_back_twice(tmp_path: Path):
    path = tmp_path / "lock"
    lock, same = Lock(path), Lock(path)
    assert lock.take() is None
    assert same.take() is None  # by the same process
    assert path.read_text() == str(os.getpid())
    with path.open() as other:
        for _ in range(2):
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
            assert lock.holder() is None
            lock.give_back()
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert list(tmp_path.iterdir()) == []
    with locked_by_another(path):
        assert lock.holder() == lock.take() == "4711"
    assert lock.holder() is None
    assert lock.take() is None
    lock.give_back()


def test_a_lock_file_that_was_removed_meanwhile_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its last holder removes the file; who had opened it before would lock a file that nobody else sees."""
    flock, path, calls = fcntl.flock, tmp_path / "lock", list[int]()

    def late(file: int, how: int) -> None:
        if not calls:
            path.unlink()
        calls.append(file)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    lock = Lock(path)
    assert lock.take() is None
    assert len(calls) == 2
    assert path.read_text() == str(os.getpid())
    lock.give_back()


def test_a_run_on_windows(made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It opens no directory, removes no open file, and has no locks of this kind."""
    opened = os.open

    def refusing(path: Any, flags: int, mode: int = 0o777) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", refusing)
    monkeypatch.setattr("elman.files.WINDOWS", True)
    monkeypatch.setattr("elman.training.lock.fcntl", None)
    assert elman("train", "lm", made.text, "--epochs", 1, *SIZES, "--run", tmp_path / "run").status == 0
    lock = Lock(tmp_path / "lock")
    assert lock.take() is None
    assert lock.holder() is None
    lock.give_back()
    assert not (tmp_path / "lock").exists()


# Places that cannot be written to


def test_a_run_that_is_removed_while_it_is_trained(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    at_step(monkeypatch, 2, lambda training: shutil.rmtree(training.run.directory))
    run = tmp_path / "run"
    status, out, err = elman("train", "lm", made.text, "--epochs", 1, *SIZES, "--run", run)
    assert (status, out) == (2, "")
    assert err.splitlines()[-1] == f"elman: {run} was removed while it was trained; train again"
    assert "Traceback" not in err
    assert not run.exists()


def test_an_output_is_checked_before_the_work(made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tagging, "load", lambda *given: pytest.fail("the work has begun"))
    (tmp_path / "a.csv").mkdir()
    told = {
        "none/a.csv": f"cannot write {tmp_path}/none/a.csv: No such file or directory; make the directory {tmp_path}/none, or choose another place",
        "a.csv": f"cannot write {tmp_path}/a.csv: it is a directory, which no file may replace; choose another name",
        "a.xls": f"{tmp_path}/a.xls: these predictions are not written as .xls; choose one of",
        "a": f"{tmp_path}/a: these predictions need a name with an ending; choose one of",
    }
    for name, sentence in told.items():
        outcome = elman("predict", made.tagger, made.directory / "tagged.txt", "--output", tmp_path / name)
        assert (outcome.status, outcome.out) == (2, "")
        assert outcome.err.startswith(f"elman: {sentence}")


def test_a_directory_that_is_not_ones_own(made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere
    with pytest.raises(InputError, match=f"cannot write {tmp_path}/a.csv: Permission denied; choose another place"):
        check_writable(tmp_path / "a.csv")
    for given in (
        ["train", "lm", "/no/such/text", "--run", tmp_path / "new" / "run"],
        ["tune", "lm", "/no/such/text", "--directory", tmp_path / "new" / "run"],
    ):
        outcome = elman(*given)
        assert outcome.err == (
            f"elman: cannot write into {tmp_path}/new/run: Permission denied; choose another directory\n"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_is_missing_is_named(forks: Forks) -> None:
    code = "import sys; sys.modules['typer'] = None; from elman.__main__ import main; main()"
    (done,) = forks.run(Child(code))
    assert done.returncode == 2
    assert done.stderr == "elman: the commands need typer, which is not installed; run: pip install 'elman[train]'\n"
