"""Data larger than memory: the arrays that move to a file, and the tasks that learn from them."""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.datasets import series, store
from elman.datasets.store import Rows, Store
from elman.errors import InputError
from forks import Child, Forks
from test_tasks import SMALL, write_sentences, write_series, write_waves
from tiny_runs import elman, metrics, prose


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nearly everything lies in files. Returns where these are made."""
    monkeypatch.setattr(store, "LIMIT", 1000)
    monkeypatch.setattr(store, "BUFFER", 300)
    (tmp_path / "files").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "files"))
    return tmp_path / "files"


PARTS = st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=200), max_size=30)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64"])
def test_what_was_appended_comes_back(small: Path, dtype: str):
    @given(PARTS)
    def check(parts: list[list[int]]) -> None:
        arrays = [np.array(part, np.int64).astype(dtype) for part in parts]
        kept, rows = Store(dtype), Rows(dtype)
        for each in arrays:
            kept.append(each)
            rows.append(each)
        expected = np.concatenate([np.empty(0, dtype), *arrays])
        found = kept.array()
        assert found.dtype == dtype
        assert found.tolist() == expected.tolist()
        assert (kept._file is not None) == (expected.nbytes > 1000)
        assert len(rows) == len(arrays)
        assert rows.lengths.tolist() == [len(each) for each in arrays]
        assert [row.tolist() for row in rows] == [each.tolist() for each in arrays]
        assert list(small.iterdir()) == []  # the files have no names

    check()


def test_rows_of_several_channels_and_in_parts(small: Path):
    random = np.random.default_rng(0)
    rows, arrays = Rows(np.float32), [random.normal(size=(n, 3)).astype(np.float32) for n in (5, 0, 400, 1)]
    for each in arrays:
        rows.join(np.array_split(each, 3))
    for k, each in enumerate(arrays):
        assert (rows[k] == each).all()
        assert rows[k].shape == each.shape
    assert np.shares_memory(rows[2], rows.steps)


def test_where_files_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TMPDIR", "/somewhere")
    assert store.directory() == Path("/somewhere")
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setattr(store, "USUAL", tmp_path)
    assert store.directory() == tmp_path
    monkeypatch.setattr(store, "USUAL", tmp_path / "not there")
    assert store.directory() == Path(tempfile.gettempdir())


def test_a_system_may_write_less_than_it_is_given(small: Path, monkeypatch: pytest.MonkeyPatch):
    class Slow:
        def __init__(self, file: Any):
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, content: memoryview) -> int:
            return self.file.write(content[:7])

    whole = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **given: Slow(whole(**given)))
    kept = Store(np.int64)
    for k in range(5):
        kept.append(np.arange(100 * k, 100 * k + 100))
    assert kept.array().tolist() == list(range(500))


# Tasks


def write_texts(path: Path, count: int) -> Path:
    random = np.random.default_rng(0)
    words = ["play", "some", "jazz", "the", "news", "now", "rain", "sun"]
    rows = []
    for k in range(count):
        drawn = [*random.choice(words, random.integers(0, 6)), f"w{random.integers(40)}", ("song", "sky")[k % 2]]
        rows.append({"text": " ".join(map(str, drawn)), "label": ("music", "weather")[k % 2]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


CASES = ("lm", "tag", "tag, other sentences", "classify", "classify, texts", "forecast", "forecast, gaps")


def command_of(case: str, d: Path) -> tuple[object, ...]:
    if case == "lm":
        (d / "text.txt").write_text(prose(6000))
        return ("lm", d / "text.txt", "--unit", "words", "--hidden-size", 8, "--batch-size", 4, "--window", 8)
    if case.startswith("tag"):
        other = ("--validation", write_sentences(d / "other.txt", 60, 1, bio=True)) if "other" in case else ()
        return ("tag", write_sentences(d / "tagged.txt", 300, 0, bio=bool(other)), *other, *SMALL["tag"])
    if case == "classify":
        return ("classify", write_waves(d / "waves.jsonl", 80, 0), *SMALL["classify"])
    if case == "classify, texts":
        return ("classify", write_texts(d / "texts.jsonl", 200), "--text", "text", *SMALL["classify"])
    header, *lines = write_series(d / "series.csv", ahead=0).read_text().splitlines()
    gaps = ("--fill-gaps",) if "gaps" in case else ()
    if gaps:  # and rows of the two series by turns
        lines = [line for line in lines if line.split(",")[1] not in ("3", "50", "51")]
        lines = [line.rpartition(",")[0] + "," if k % 7 == 3 else line for k, line in enumerate(lines)]  # and numbers
        lines.sort(key=lambda line: int(line.split(",")[1]))
    (d / "series.csv").write_text("\n".join([header, *lines]) + "\n")
    columns = ("--group", "group", "--time", "hour", "--known", "push")
    return ("forecast", d / "series.csv", *columns, *gaps, *SMALL["forecast"])


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("case", CASES)
def test_training_from_files_is_training_from_memory(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch, case: str
):
    """To the bit, and so is a run that goes on from another's checkpoint."""
    command = ("train", *command_of(case, tmp_path), "--epochs", 1)
    monkeypatch.setattr(series, "BLOCK", 7)
    with monkeypatch.context() as patch:
        patch.setattr(store, "LIMIT", 1 << 30)
        inside = elman(*command, "--run", tmp_path / "inside")
        assert inside.status == 0, inside.err
    made = list[str]()
    whole = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **given: (made.append(given["dir"]), whole(**given))[1])
    outside = elman(*command, "--run", tmp_path / "outside")
    assert outside.status == 0, outside.err
    assert set(made) == {small}
    assert outside.out == inside.out
    assert metrics(tmp_path / "outside") == metrics(tmp_path / "inside")
    for path in [tmp_path / "inside" / "model.safetensors", *(tmp_path / "inside").glob("*.json")]:
        assert path.read_bytes() == (tmp_path / "outside" / path.name).read_bytes()
    assert elman("train", command[1], "--resume", tmp_path / "inside").out == inside.out
    kind, data = command[1], str(command[2])
    if kind != "lm":
        evaluated = elman("evaluate", tmp_path / "outside", data)
        monkeypatch.setattr(store, "LIMIT", 1 << 30)
        assert evaluated == elman("evaluate", tmp_path / "outside", data)


@pytest.mark.parametrize("case", CASES)
def test_a_full_disk_ends_with_one_sentence(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch, case: str):
    command = ("train", *command_of(case, tmp_path), "--epochs", 1)
    room = 2000

    class Full:
        def __init__(self, **given: Any):
            self.written = 0

        def write(self, content: memoryview) -> int:
            self.written += len(content)
            if self.written > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return len(content)

        def close(self) -> None: ...

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    status, out, err = elman(*command, "--run", tmp_path / "run")
    assert (status, out) == (2, "")
    message = f"cannot keep the data in {small}: No space left on device; set TMPDIR to a directory with enough space"
    assert err == f"elman: {message}\n"
    assert not (tmp_path / "run").exists()


def test_a_directory_that_is_not_there_ends_with_one_sentence(small: Path):
    small.rmdir()
    with pytest.raises(InputError, match=re.escape(f"in {small}: No such file or directory; set TMPDIR")):
        Store(np.int64).append(np.arange(1000))


# Memory

# Trains on a few data, so that everything is imported and warm, then on many. Prints how much more memory these took.
PEAK = """
import sys, threading, time
from pathlib import Path
import numpy as np, polars as pl
from elman import tasks
from elman.datasets import store, tables
from elman.datasets.reading import BadRows
from elman.tasks import ngram, separate
from elman.training import fit

store.LIMIT, ngram.LIMIT, separate.SHUFFLED = 1 << 20, 10_000, 1 << 16
kind, *files, directory = sys.argv[1:]
module = tasks.module(kind)
options = {
    "lm": dict(unit="bytes", embedding_size=4, batch_size=4, window=8, validation=files[0]),
    "forecast": dict(lookback=24, segment=24, horizon=24, split="0.6,0.4,0"),
}[kind]

def pieces(path, **given):  # polars' own reader holds some hundred megabytes, however many the file has
    for k in range(int(path.read_text())):
        rows = np.random.default_rng(k).normal(size=(tables.ROWS, 2))
        yield pl.DataFrame({"x": rows[:, 0], "y": rows[:, 1], tables.LINE: np.arange(tables.ROWS)})

if kind == "forecast":
    tables.pieces = pieces

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))

def watch():
    while True:
        seen.append(held())
        time.sleep(0.002)

for name in files:
    before, seen = held(), [0]
    if name == files[-1]:
        threading.Thread(target=watch, daemon=True).start()
    given = module.Options(**options, hidden_size=4, epochs=1e-9, evaluations=1)
    task = module.begin(Path(name), given, "cpu", BadRows())
    fit(task, Path(directory) / Path(name).stem)
    del task
print(max(seen) - before)
"""


@pytest.mark.parametrize("kind", ["lm", "forecast"])
def test_memory_is_bounded(tmp_path: Path, forks: Forks, kind: str):
    """Of what is the process's own: pages of files are the system's, which takes them back when it needs room."""
    few, many = tmp_path / "few", tmp_path / "many"
    if kind == "lm":
        few.write_text(prose(19_999) + "\n")
        many.write_text((prose(99_999) + "\n") * 1200)
    else:
        few.write_text("1")
        many.write_text("120")  # pieces of 50,000 rows of 16 bytes
    data = 120_000_000 if kind == "lm" else 120 * 50_000 * 16
    (done,) = forks.run(Child(PEAK, (kind, str(few), str(many), str(tmp_path / "runs"))), timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < data / 4
