"""Tiny texts, runs and invocations that several tests share."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
import typer

from elman import charts, tasks
from elman.cli import app, main
from elman.datasets.reading import BadRows
from elman.datasets.text import Corpus, read
from elman.tasks.language_model import LanguageModel, LanguageModelling, Options
from elman.tasks.options import (
    ClassificationOptions,
    ForecastingOptions,
    MultilabelOptions,
    RegressionOptions,
    TaggingOptions,
    TranscriptionOptions,
    TranslationOptions,
)
from elman.tasks.tallies import student
from elman.training import fitting
from elman.training.loop import MODEL, Training
from elman.training.run import Run

typer.main.get_command = cache(typer.main.get_command)  # makes all commands from their functions, again for each call

WORDS = ["the", "of", "and", "to", "in", "a", "is", "that", "it", "was", "for", "on", "are", "as", "with", "they"]
TAGGED = ["the", "of", "and", "to", "in", "cat", "sat"]


def prose(length: int, seed: int = 0) -> str:
    """Words in lines: enough structure for a loss to fall."""
    draw = random.Random(seed)
    lines: list[str] = []
    while sum(map(len, lines)) < length:
        lines.append(" ".join(draw.choices(WORDS, k=draw.randint(4, 9))) + ".\n")
    return "".join(lines)[:length]


def tiny(**changes: Any) -> Options:
    """Options of a network that trains in milliseconds."""
    values: dict[str, Any] = {
        "hidden_size": 8,
        "embedding_size": 4,
        "batch_size": 4,
        "window": 8,
        "dropout": 0.2,
        "learning_rate": 0.02,
        "epochs": 2.0,
    }
    return Options(**values | changes)


def corpus_of(directory: Path, text: str, options: Options) -> Corpus:
    path = directory / "text.txt"
    path.write_bytes(text.encode())
    return read(path, options.unit, options.held_out, options.vocabulary_size)


def begin(directory: Path, corpus: Corpus, options: Options) -> Training[LanguageModelling]:
    """A new run, as `elman train lm` begins it."""
    torch.manual_seed(options.seed)
    run = Run(directory)
    data = {"path": None, "train_tokens": len(corpus.train), "validation_tokens": len(corpus.validation), "excerpt": ""}
    run.create({"elman": "0", "task": "lm", "options": asdict(options), "parameters": 0, "baselines": {}, "data": data})
    corpus.vocabulary.save(directory)
    training = Training(run, LanguageModelling(LanguageModel(corpus.vocabulary.size, options), corpus, options))
    training.save()
    return training


def reopen(directory: Path, corpus: Corpus, options: Options) -> Training[LanguageModelling]:
    """The run as its checkpoint left it, in a process whose own random state is another."""
    torch.manual_seed(987654321)
    training = Training(
        Run(directory), LanguageModelling(LanguageModel(corpus.vocabulary.size, options), corpus, options)
    )
    training.restore()
    return training


def metrics(directory: Path) -> list[dict[str, str]]:
    """metrics.csv without the one column that depends on the clock."""
    with (directory / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@contextlib.contextmanager
def without_pictures() -> Iterator[None]:
    """Pictures are empty files: to draw one takes as long as to train a tiny network. See `no_pictures` in conftest.py."""

    def save(figure: object, path: Path) -> None:
        charts.check_path(path)  # of a folder that is there, for a format that there is
        path.touch()

    with mock.patch.object(charts, "save", save):
        yield


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


def elman(*arguments: object, out: io.TextIOBase | None = None, err: io.StringIO | None = None) -> Outcome:
    """`elman ARGUMENTS` in this process. out, err: what stands for standard output and standard error."""
    out, err = out or io.StringIO(), err or io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["elman", *map(str, arguments)]),
        mock.patch.object(sys, "stdout", out),
        mock.patch.object(sys, "stderr", err),
        pytest.raises(SystemExit) as stopped,
    ):
        main()
    assert isinstance(stopped.value.code, int)
    return Outcome(stopped.value.code, out.getvalue() if isinstance(out, io.StringIO) else "", err.getvalue())


def foreign_options(arguments: Sequence[object], said: str) -> set[str]:
    """The options in a message that its command does not have, and that the user did not give: nobody can follow it."""
    command: Any = typer.main.get_command(app)
    for word in arguments:
        if word not in getattr(command, "commands", {}):
            break
        command = command.commands[word]
    known = {"--help", *(name for parameter in command.params for name in parameter.opts), *map(str, arguments)}
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", said)) - known


@contextlib.contextmanager
def process(*command: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """`python COMMAND` in a process of its own, on one thread; killed if the block leaves it running."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    given: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment, **options}
    child = subprocess.Popen([sys.executable, *map(str, command)], text=True, **given)
    with child:
        try:
            yield child
        finally:
            child.kill()


def finished(*command: object, **options: Any) -> Outcome:
    """What `python COMMAND` came to."""
    with process(*command, **options) as child:
        out, err = child.communicate(timeout=120)
    return Outcome(child.returncode, out, err)


def interval_by_hand(units: Sequence[object], numbers: Sequence[float], share: bool) -> str:
    """The interval of a mean of numbers as `elman evaluate` prints it, found by leaving out one unit after the other."""
    whole = np.mean(numbers)
    bend = (lambda p: np.log(p / (1 - p))) if share else np.log
    back = (lambda y: 1 / (1 + np.exp(-y))) if share else np.exp
    slope = 1 / (whole * (1 - whole)) if share else 1 / whole
    every = list(dict.fromkeys(units))
    left = [np.mean([x for x, of in zip(numbers, units, strict=True) if of != each]) for each in every]
    n = len(every)
    counts = np.array([sum(of == each for of in units) for each in every])
    error = np.sqrt((n - 1) ** 2 / n) * np.std(left, ddof=1)
    half = student(counts.sum() ** 2 / (counts**2).sum() - 1) * error * slope
    return f"({back(bend(whole) - half):.4f} to {back(bend(whole) + half):.4f})"


def scores_of(out: str) -> str:
    """What `elman evaluate` prints, without the intervals of scores."""
    return re.sub(r" \(-?[\d.]+ to -?[\d.]+\)", "", out)


def lines(*each: object) -> str:
    return "".join(f"{line}\n" for line in each)


def of_every_task(d: Path) -> SimpleNamespace:
    """A run of each task but language modelling, of random weights: what is tested holds for any. With their data."""
    draw = np.random.default_rng(0)
    sentences = [draw.choice(TAGGED, draw.integers(1, 12)) for _ in range(40)]
    (d / "tagged.txt").write_text(
        "\n".join(lines(*(f"{w}\t{'DET' if w in TAGGED[:3] else 'X'}" for w in each)) for each in sentences)
    )
    numbers = [
        {"values": draw.normal(size=(int(draw.integers(1, 30)), 2)).round(3).tolist(), "label": "ab"[k % 2]}
        for k in range(40)
    ]
    (d / "numbers.jsonl").write_text(lines(*map(json.dumps, numbers)))
    valued = [row | {"label": round(3 * np.mean(row["values"]) + 40, 3)} for row in numbers]
    (d / "valued.jsonl").write_text(lines(*map(json.dumps, valued)))
    said = [row | {"label": "".join(draw.choice(list("ab c"), len(row["values"]) // 3)).strip()} for row in numbers]
    (d / "spoken.jsonl").write_text(lines(*map(json.dumps, said)))
    of_steps = [
        {"values": row["values"], "label": [None if t % 5 == 4 else t % 3 + k % 2 for t in range(len(row["values"]))]}
        for k, row in enumerate(numbers)
    ]
    (d / "steps.jsonl").write_text(lines(*map(json.dumps, of_steps)))
    several = [row | {"label": [c for c in "ab" if draw.random() < 0.4]} for row in numbers]
    (d / "several.jsonl").write_text(lines(*map(json.dumps, several)))
    written = [{"text": " ".join(draw.choice(TAGGED, draw.integers(1, 9))), "label": "abc"[k % 3]} for k in range(45)]
    (d / "texts.jsonl").write_text(lines(*map(json.dumps, written)))
    turned = [{"text": row["text"], "label": " ".join(w[0] for w in reversed(row["text"].split()))} for row in written]
    (d / "turned.jsonl").write_text(lines(*map(json.dumps, turned)))
    rows = [f"{t},{t % 4},{np.sin(t / 3) + draw.normal() / 9:.4f},{t % 5}" for t in range(120)]
    (d / "series.csv").write_text(lines("t,push,y,z", *rows))
    small: Any = {"hidden_size": 6, "epochs": 1.0}
    forecast: Any = {"time": "t", "period": 4, "lookback": 12, "segment": 3, "split": "0.6,0.2,0.2", **small}
    tag = TaggingOptions(word_size=5, character_size=3, spelling_size=4, num_layers=1, **small)
    texts = ClassificationOptions(text="text", embedding_size=5, **small)
    runs = {
        "tag": ("tagged.txt", tag),
        "numbers": ("numbers.jsonl", ClassificationOptions(num_layers=2, **small)),
        "texts": ("texts.jsonl", texts),
        "several": ("several.jsonl", MultilabelOptions(**small)),
        "regress": ("valued.jsonl", RegressionOptions(quantiles="0.1,0.5,0.9", **small)),
        "labels": ("steps.jsonl", ClassificationOptions(each_step=True, **small)),
        "levels": ("steps.jsonl", RegressionOptions(each_step=True, causal=True, quantiles="0.1,0.9", **small)),
        "spoken": ("spoken.jsonl", TranscriptionOptions(skip_bad=True, **small)),
        "translated": ("turned.jsonl", TranslationOptions(text="text", embedding_size=5, num_layers=2, **small)),
        "forecast": ("series.csv", ForecastingOptions(known="push", horizon=6, quantiles="0.1,0.5,0.9", **forecast)),
        "recursive": ("series.csv", ForecastingOptions(horizon=7, strategy="recursive", **forecast)),
    }
    for name, (file, options) in runs.items():
        task: Any = tasks.module(options.task).begin(d / file, options, "cpu", BadRows())
        training, _ = fitting.begin(task, d / name)
        torch.manual_seed(1)
        weights = {
            key: torch.full_like(value, 0.5) if key == "temperature" else 0.6 * torch.randn_like(value)
            for key, value in task.model.state_dict().items()
        }
        training.run.save_tensors(MODEL, weights, {"step": 0})
    return SimpleNamespace(directory=d, **{name: d / name for name in runs})
