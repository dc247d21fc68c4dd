"""Thirty mistakes on the command line, and the sentences that `elman` answers with, found by making them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from tiny_runs import elman, prose

# What is typed after `elman`. Files and runs are made by `_files_and_runs`.
MISTAKES = (
    # words
    "tarin lm novel.txt",
    "train lmm novel.txt",
    "train lm novel.txt --hiden-size 64",
    "train lm novel.txt --hidden-size many",
    "sample",
    # values of options
    "train lm novel.txt --cell lstn",
    "train lm novel.txt --cell projected_lstm",
    "train lm novel.txt --unit letters",
    "train lm novel.txt --hidden-size 0",
    "train lm novel.txt --learning-rate inf",
    "train lm novel.txt --dropout 1",
    "train lm novel.txt --threads 100000",
    "train lm novel.txt --window 5000",
    "sample runs/novel --temperature -1",
    'sample runs/novel --prompt "Café" --seed 1',
    # options that do not go together
    "train lm novel.txt --validation dev.txt --held-out 0.2",
    "train forecast load.csv --lookback 100 --segment 24",
    "train lm --resume runs/novel --cell gru",
    # files
    "train lm nowhere.txt",
    "train lm latin.txt",
    "train forecast novel.txt",
    "train forecast load.csv --time day --columns load",
    "train tag words.txt",
    "train classify load.csv",
    "predict runs/waves wide.jsonl",
    "predict runs/waves new.jsonl --output labels.xls",
    # runs
    "train lm novel.txt --run runs/novel",
    "train lm --resume runs/busy",
    "sample runs/waves",
)


def section() -> str:
    """Returns a section of Markdown: a table with each mistake and its sentence."""
    rows = [
        "## On the command line",
        "",
        "A mistake ends a command with status 2 and one sentence on standard error.",
        "",
        "| what was typed | what it is told |",
        "| --- | --- |",
    ]
    with _somewhere_else():
        for typed in MISTAKES:
            outcome = elman(*shlex.split(typed))
            if outcome.status != 2 or outcome.out or outcome.err.count("\n") != 1:
                raise AssertionError(f"elman {typed}: {outcome}")
            rows.append(f"| {_code(f'elman {typed}')} | {_code(outcome.err.strip())} |")
    return "\n".join(rows) + "\n"


@contextlib.contextmanager
def _somewhere_else() -> Iterator[None]:
    """Goes to a directory with the files and runs, on a machine with eight cores: sentences are the same everywhere."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as directory, mock.patch("os.cpu_count", return_value=8):
        os.chdir(directory)
        try:
            _files_and_runs()
            with Path("runs/busy/lock").open("w") as lock:  # as another process has it
                fcntl.flock(lock, fcntl.LOCK_EX)
                print(4711, end="", file=lock, flush=True)
                yield
        finally:
            os.chdir(before)


def _files_and_runs() -> None:
    waves = "".join(f'{{"values": [[{k % 2}, 1], [{k % 3}, 2]], "label": "{"ab"[k % 2]}"}}\n' for k in range(20))
    days = ["2026-01-01", "2026-01-03", "2026-01-02"]
    contents = {
        "novel.txt": prose(1500),
        "dev.txt": prose(300, seed=1),
        "load.csv": "day,load\n" + "".join(f"{day},{k}\n" for k, day in enumerate(days)),
        "words.txt": "the\ncat\n\n",
        "waves.jsonl": waves,
        "new.jsonl": waves,
        "wide.jsonl": '{"values": [[1, 2, 3]]}\n',
    }
    for name, content in contents.items():
        Path(name).write_text(content, encoding="utf-8")
    Path("latin.txt").write_bytes("Café\n".encode("latin-1"))
    quick = ("--epochs", 0.1, "--evaluations", 1, "--hidden-size", 4, "--batch-size", 4)
    for name, given in {
        "novel": ("lm", "novel.txt", "--window", 8),
        "busy": ("lm", "novel.txt", "--window", 8),
        "waves": ("classify", "waves.jsonl"),
    }.items():
        with mock.patch("elman.charts.save"):  # which takes longer than all the rest
            done = elman("train", *given, *quick, "--run", f"runs/{name}")
        if done.status:
            raise AssertionError(done.err)


def _code(text: str) -> str:
    """Returns a text as code in a table."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}".replace("|", "\\|")
