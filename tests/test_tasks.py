"""Taggers, classifiers and forecasters: what they learn from, what they predict, and their commands."""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
import re
import shutil
import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from elman import tasks, use_engine
from elman.datasets import examples
from elman.datasets.conll import Sentence, sentences
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Labelled
from elman.datasets.series import Series
from elman.errors import InputError
from elman.tasks import classification, forecasting, tagging
from elman.tasks.encoded import Encoded
from elman.tasks.gathered import Gathered, split
from elman.tasks.linear import LINEAR
from elman.tasks.options import ClassificationOptions, ForecastingOptions, LanguageModelOptions, TaggingOptions
from elman.tasks.parts import Parts, unit_of
from elman.tasks.pieces import Pieces
from elman.tasks.separate import batches_of, csv_row
from elman.tasks.values import pinball, rounded
from elman.tasks.windows import Scaled, Scales, Windows
from elman.training import fit, fitting
from elman.training.loop import Report
from elman.training.run import Run
from test_scores import macro_f1
from tiny_runs import elman, foreign_options, prose, scores_of

pytestmark = pytest.mark.usefixtures("no_pictures")
SMALL = {
    "lm": ("--batch-size", 4, "--window", 8, "--embedding-size", 4, "--hidden-size", 8),
    "tag": ("--hidden-size", 6, "--word-size", 5, "--character-size", 3, "--spelling-size", 4, "--num-layers", 1, "--batch-size", 8, "--learning-rate", 0.02),
    "classify": ("--hidden-size", 6, "--num-layers", 1, "--batch-size", 8),
    "multilabel": ("--hidden-size", 6, "--num-layers", 1, "--batch-size", 8),
    "regress": ("--hidden-size", 8, "--batch-size", 8),
    "transcribe": ("--hidden-size", 8, "--batch-size", 8),
    "translate": ("--hidden-size", 8, "--batch-size", 8, "--text", "text"),
    "forecast": ("--hidden-size", 8, "--lookback", 12, "--segment", 4, "--horizon", 6, "--period", 4, "--batch-size", 32, "--learning-rate", 0.01, "--dropout", 0),
}  # fmt: skip
NOUNS, VERBS = ("cat", "dog", "sun", "run"), ("sees", "eats", "run", "likes")


def write_sentences(path: Path, count: int, seed: int, bio: bool = False) -> Path:
    """Article, noun, verb, perhaps an object: `run` is a noun or a verb by its place."""
    random = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        words = ["the", str(random.choice(NOUNS)), str(random.choice(VERBS))]
        tags = ["O", "B-THING", "O"] if bio else ["DET", "NOUN", "VERB"]
        if random.random() < 0.5:
            words, tags = (
                [*words, "the", str(random.choice(NOUNS))],
                tags + (["O", "B-THING"] if bio else ["DET", "NOUN"]),
            )
        lines += [f"{w}\t{t}" for w, t in zip(words, tags, strict=True)] + [""]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_waves(path: Path, count: int, seed: int) -> Path:
    """Sequences of two channels and unequal lengths: rising ones and falling ones."""
    random = np.random.default_rng(seed)
    rows = []
    for k in range(count):
        label = ("falls", "rises")[k % 2]
        steps = np.arange(random.integers(4, 12)) * (1.0 if label == "rises" else -1.0)
        values = np.stack([steps + random.normal(size=len(steps)), 100 + random.normal(size=len(steps))], 1)
        rows.append({"values": values.round(3).tolist(), "label": label})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_series(path: Path, rows: int = 240, ahead: int = 6) -> Path:
    """Two series with a season of four, one of them pushed by a known column; and what is known of six times ahead."""
    random = np.random.default_rng(0)
    lines = ["group,hour,push,y"]
    for g in "ab":
        for t in range(rows + ahead):
            push = int(random.integers(0, 3))
            y = "" if t >= rows else f"{5 * (g == 'b') + np.sin(np.pi * t / 2) + push + 0.1 * random.normal():.4f}"
            lines.append(f"{g},{t},{push},{y}")
    path.write_text("\n".join(lines) + "\n")
    return path


def write_pumps(path: Path, count: int, seed: int = 0) -> Path:
    """Sequences of two channels, of which one says how fast a number far from zero falls."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        slope, length = draw.normal(), int(draw.integers(3, 12))
        values = np.stack([slope * np.arange(length) / 10, draw.normal(size=length)], 1)
        values += 0.05 * draw.normal(size=values.shape)
        rows.append({"values": values.round(4).tolist(), "label": round(1000 + 50 * slope, 3)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_knocks(path: Path, count: int, seed: int = 0) -> Path:
    """Sequences of two channels, in which a push in one of them is an a and in the other a b, at any steps."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        said, values = draw.integers(0, 2, draw.integers(1, 6)), []
        for k in said:
            pushed = np.zeros((draw.integers(2, 5), 2))
            pushed[0, k] = 1.0
            values += [*np.zeros((draw.integers(0, 3), 2)), *pushed]
        noisy = np.array(values) + 0.1 * draw.normal(size=(len(values), 2))
        rows.append({"values": noisy.round(3).tolist(), "label": "".join("ab"[k] for k in said)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_turned(path: Path, count: int, seed: int = 0) -> Path:
    """Words, and the same words from behind."""
    draw = np.random.default_rng(seed)
    words = ["".join(draw.choice(list("abcde"), draw.integers(1, 7))) for _ in range(count)]
    path.write_text("".join(json.dumps({"text": word, "label": word[::-1]}) + "\n" for word in words))
    return path


def data_of(name: str, directory: Path) -> Path:
    """A small file that a task can learn from without more options."""
    if name == "lm":
        (directory / "text.txt").write_text(prose(500))
        return directory / "text.txt"
    if name == "tag":
        path = write_sentences(directory / "tagged.txt", 40, 0)
        path.write_text(path.read_text() + "".join(f"the\tDET\nyeti{k}\tNOUN\n\n" for k in range(6)))  # rare words
        return path
    if name == "classify":
        return write_waves(directory / "waves.jsonl", 40, 0)
    if name == "multilabel":
        path = write_waves(directory / "waves.jsonl", 40, 0)
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        several = (row | {"label": [row["label"], *["third"] * (k % 3 == 0)]} for k, row in enumerate(rows))
        path.write_text("".join(json.dumps(row) + "\n" for row in several))
        return path
    if name == "regress":
        return write_pumps(directory / "pumps.jsonl", 40)
    if name == "transcribe":
        return write_knocks(directory / "knocks.jsonl", 40)
    if name == "translate":
        return write_turned(directory / "turned.jsonl", 40)
    path = write_series(directory / "series.csv", 60, 0)
    lines = [line.split(",")[2:] for line in path.read_text().split() if not line.startswith("b")]
    path.write_text("".join(",".join(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of each task, made on the command line."""
    d = tmp_path_factory.mktemp("tasks")
    tagged, waves = write_sentences(d / "tagged.txt", 120, 0), write_waves(d / "waves.jsonl", 80, 0)
    write_series(d / "ahead.csv")
    (d / "series.csv").write_text(
        "".join(line + "\n" for line in (d / "ahead.csv").read_text().split() if line[-1] != ",")
    )
    columns = ("--group", "group", "--time", "hour", "--known", "push")
    arguments = {
        "tag": ("train", "tag", tagged, "--epochs", 10, *SMALL["tag"]),
        "classify": ("train", "classify", waves, "--epochs", 12, *SMALL["classify"]),
        "forecast": ("train", "forecast", d / "series.csv", "--epochs", 30, *columns, *SMALL["forecast"]),
    }
    outcomes = {name: elman(*given, "--run", d / name) for name, given in arguments.items()}
    return SimpleNamespace(directory=d, arguments=arguments, outcomes=outcomes)


TASKS = ("tag", "classify", "forecast")


@pytest.mark.parametrize("name", TASKS)
def test_training_beats_its_baselines_and_says_so(made: SimpleNamespace, name: str):
    status, out, err = made.outcomes[name]
    assert status == 0, err
    run = made.directory / name
    config = json.loads((run / "config.json").read_text())
    assert config["task"] == name
    assert len(re.findall(r"^ *\d+%  step ", err, re.MULTILINE)) == 12
    first, *others = out.splitlines()
    assert first.startswith("validation  ")
    assert len(config["baselines"]) >= 1
    for line, (baseline, value) in zip(others, config["baselines"].items(), strict=False):
        assert line.startswith(f"{baseline:<11} {value:.4f} ")
    assert re.search(r"the model is 0\.\d+ better", out)
    for picture in ("loss.png", "forecast.png" if name == "forecast" else "confusion.png"):
        content = (run / picture).read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert min(struct.unpack(">II", content[16:24])) > 300
        assert str(run / picture) in err


@pytest.mark.parametrize(
    ("name", "score", "baseline", "said", "advised"),
    [
        ("tag", 0.9, 0.90003, "as good", True),
        ("tag", 0.9, 0.90009, "0.0001 worse", True),
        ("tag", 1.0, 1.0, "as good", False),
        ("forecast", 0.12336, 0.12344, "as good", True),
        ("forecast", 0.12341, 0.12431, "0.0009 better", False),
        ("forecast", 0.00001, 0.00003, "as good", False),
    ],
)
def test_a_tie_with_a_baseline(
    made: SimpleNamespace, tmp_path: Path, name: str, score: float, baseline: float, said: str, advised: bool
):
    """A model is as good where the same digits are printed, and nobody advises how to improve on a perfect one."""
    run = shutil.copytree(made.directory / name, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["baselines"] = dict.fromkeys(config["baselines"], baseline)
    (run / "config.json").write_text(json.dumps(config))
    rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    column = rows[0].index("accuracy" if name == "tag" else config["options"]["loss"])
    changed = [rows[0], *([*row[:column], str(score), *row[column + 1 :]] for row in rows[1:])]
    (run / "metrics.csv").write_text("".join(",".join(row) + "\n" for row in changed))
    out = elman("train", name, "--resume", run).out
    assert set(re.findall(r"the model is (.*)", out)) == {said}
    assert ("advice" in out) == advised


@pytest.mark.parametrize("name", TASKS)
def test_the_same_command_makes_the_same_run(made: SimpleNamespace, tmp_path: Path, name: str):
    assert elman(*made.arguments[name], "--run", tmp_path / "again").out == made.outcomes[name].out
    for path in (made.directory / name).glob("*.json"):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    assert (made.directory / name / "model.safetensors").read_bytes() == (
        tmp_path / "again" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("name", TASKS)
def test_a_run_that_was_stopped_goes_on_to_the_bit(made: SimpleNamespace, tmp_path: Path, name: str):
    module = tasks.module(name)
    run = Run(made.directory / name)
    config = run.config(name, module.CONFIG)
    options = module.Options.from_json(config["options"], "")
    path = Path(config["data"]["path"])

    def stop(report: Report) -> None:
        if report.place.step == 5:
            raise KeyboardInterrupt

    import elman.training.loop as loop

    before, loop.CHECKPOINT_SECONDS = loop.CHECKPOINT_SECONDS, -1.0
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(module.begin(path, options, "cpu", BadRows()), tmp_path / "run", show=stop)
    finally:
        loop.CHECKPOINT_SECONDS = before
    assert elman("train", name, "--resume", tmp_path / "run").out == made.outcomes[name].out
    (tmp_path / "copy").write_bytes(path.read_bytes()[:-200])
    config["data"]["path"] = str(tmp_path / "copy")
    with pytest.raises(InputError, match="was begun with other"):
        fit(module.begin(write_other(path, tmp_path), options, "cpu", BadRows()), tmp_path / "run", resume=True)


def write_other(path: Path, directory: Path) -> Path:
    """The same data without some of their end."""
    text = path.read_text()
    cut = text.rstrip("\n").rindex("\n\n") + 2 if path.suffix == ".txt" else text.rstrip("\n").rindex("\n") + 1
    other = directory / path.name
    other.write_text(text[:cut])
    return other


def figures(text: str) -> dict[str, str]:
    return dict(re.findall(r"^ {0,2}(\S.*?) {2,}(\S.*)$", scores_of(text), re.MULTILINE))


def test_evaluation_is_that_of_training(made: SimpleNamespace, tmp_path: Path):
    """On the very sentences, sequences or windows that were held out."""
    d = made.directory
    options = TaggingOptions.from_json(json.loads((d / "tag" / "config.json").read_text())["options"], "")
    _, _, own = tagging.read(d / "tagged.txt", options, BadRows())
    held = (d / "tagged.txt").read_text().split("\n\n")
    (tmp_path / "held.txt").write_text("".join(held[k] + "\n\n" for k in own))
    found = figures(elman("evaluate", d / "tag", tmp_path / "held.txt").out)
    assert made.outcomes["tag"].out.startswith(
        f"validation  accuracy {found['accuracy']}, macro F1 {found['macro f1']}, {found['nats per word']} nats"
    )
    assert found["DET"].startswith("precision 1.0000  recall 1.0000  F1 1.0000  words ")

    options = ClassificationOptions.from_json(json.loads((d / "classify" / "config.json").read_text())["options"], "")
    _, _, own, _ = classification.read(d / "waves.jsonl", options, BadRows())
    held = (d / "waves.jsonl").read_text().splitlines()
    (tmp_path / "held.jsonl").write_text("".join(held[k] + "\n" for k in own))
    found = figures(elman("evaluate", d / "classify", tmp_path / "held.jsonl").out)
    assert made.outcomes["classify"].out.startswith(
        f"validation  accuracy {found['accuracy']}, macro F1 {found['macro f1']}"
    )

    # The test part of each series, with the past that a forecast reads, is a file of its own.
    lines = (d / "series.csv").read_text().splitlines()
    part = [lines[0]] + [line for line in lines[1:] if int(line.split(",")[1]) >= 192 - 12]
    (tmp_path / "test.csv").write_text("\n".join(part) + "\n")
    found = figures(elman("evaluate", d / "forecast", tmp_path / "test.csv").out)
    out = figures(made.outcomes["forecast"].out)
    assert found["the model"] == out["test"]
    assert found["windows"] == str(2 * (48 - 6 + 1))
    assert f"naive       {found['naive']}" in made.outcomes["forecast"].out


@pytest.mark.parametrize("name", ["tag", "classify"])
def test_a_validation_file_with_labels_that_training_lacks(tmp_path: Path, name: str):
    file, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    labels = [f"new{min(k, 6 - k)}" for k in range(7)]  # 0 1 2 3 2 1 0
    if name == "tag":
        file.write_text('{"words": ["the", "cat"], "tags": ["DET", "NOUN"]}\n' * 10)
        other.write_text("".join(json.dumps({"words": ["the", "cat"], "tags": ["DET", new]}) + "\n" for new in labels))
        of, options, module = "validation words of a tag that training lacks", TaggingOptions, tagging
    else:
        rows = write_waves(file, 20, 1).read_text()
        other.write_text(rows + "".join(rows.splitlines(True)[1].replace("rises", new) for new in labels))
        of, options, module = (
            "validation sequences of a class that training lacks",
            ClassificationOptions,
            classification,
        )
    for lines in (7, 0):
        told = dict(module.begin(file, options_of(options, validation=str(other)), "cpu", BadRows()).introduction())
        expected = f"7 {of}, counted as mistakes: 'new0', 'new1', 'new2', 'new3'" if lines else None
        assert told.get("unknown") == expected
        other.write_text(file.read_text())


@pytest.mark.parametrize("name", ["tag", "classify"])
def test_labels_that_the_run_does_not_know(made: SimpleNamespace, tmp_path: Path, name: str):
    """What is called a known label, but has another one, is a mistake in that label's precision."""
    if name == "tag":
        file, other = tmp_path / "a.txt", tmp_path / "b.txt"
        file.write_text("the\tDET\ncat\tNOUN\nsees\tVERB\n\n" * 10)
        other.write_text(file.read_text() + "the\tNEW\ncat\tNOUN\n\n" * 5)
        known, said = "DET", ("unknown tags", "5, counted as mistakes: 'NEW'")
    else:
        file, other = write_waves(tmp_path / "a.jsonl", 20, 1), tmp_path / "b.jsonl"
        rows = file.read_text()
        other.write_text(
            rows + "".join(line for line in rows.replace("rises", "new").splitlines(True) if "new" in line)
        )
        known, said = "rises", ("unknown label", "10, counted as mistakes: 'new'")
    before, after = (figures(elman("evaluate", made.directory / name, path).out) for path in (file, other))
    assert said[0] not in before
    assert after[said[0]] == said[1]

    def of(found: dict[str, str], score: str) -> float:
        return float(re.findall(rf"{score} +(\S+)", found[known])[0])

    assert of(before, "precision") == of(before, "recall") == 1  # all of 10
    share = 10 / (10 + int(said[1].split(",")[0]))
    assert of(after, "precision") == pytest.approx(share, abs=1e-4)
    assert of(after, "recall") == 1
    assert of(after, "F1") == pytest.approx(2 * share / (1 + share), abs=1e-4)
    assert float(after["macro f1"]) < float(before["macro f1"])


@pytest.mark.parametrize("name", ["tag", "classify"])
@pytest.mark.parametrize("changed", ["training", "validation"])
def test_a_baseline_of_data_that_have_changed_is_left_out(tmp_path: Path, name: str, changed: str):
    file, other = (data_of(name, tmp_path).rename(tmp_path / f"{part}.jsonl") for part in ("training", "validation"))
    if name == "tag":
        file, other = (path.rename(path.with_suffix(".txt")) for path in (file, other))
    run = tmp_path / "run"
    assert not elman("train", name, file, "--validation", other, "--epochs", 0.1, *SMALL[name], "--run", run).status
    (tmp_path / f"judged{file.suffix}").write_bytes(file.read_bytes())
    of_same = elman("evaluate", run, tmp_path / f"judged{file.suffix}").out
    baselines = {"tag": [tagging.USUAL], "classify": [classification.LARGEST, LINEAR]}[name]
    assert all(", a baseline" in figures(of_same)[baseline] for baseline in baselines)

    write_other(tmp_path / f"{changed}{file.suffix}", tmp_path / "run").replace(tmp_path / f"{changed}{file.suffix}")
    found = figures(elman("evaluate", run, tmp_path / f"judged{file.suffix}").out)
    assert found.pop("baselines") == f"not known, because {file} or {other} changed after the training"
    assert found == {key: value for key, value in figures(of_same).items() if key not in baselines}

    (run / "checkpoint" / "state.safetensors").unlink()  # nothing says what the data were
    assert ", a baseline" in figures(elman("evaluate", run, tmp_path / f"judged{file.suffix}").out)[baselines[0]]


def test_baselines_of_a_text_that_has_changed_are_left_out(tmp_path: Path):
    file, other, run = data_of("lm", tmp_path), tmp_path / "other.txt", tmp_path / "run"
    other.write_text(prose(300, seed=1))
    assert not elman("train", "lm", file, "--epochs", 0.1, *SMALL["lm"], "--run", run).status
    of_same = figures(elman("evaluate", run, other).out)
    assert ", a baseline" in of_same["unigram"]

    swapped = file.read_text().translate(str.maketrans("to", "ot"))  # of the same length and characters
    file.write_text(swapped)
    found = figures(elman("evaluate", run, other).out)
    assert found.pop("baselines") == f"not known, because {file} changed after the training"
    assert found == {key: value for key, value in of_same.items() if ", a baseline" not in value}


@pytest.mark.parametrize("name", ["tag", "classify"])
def test_macro_f1_averages_over_unknown_labels_too(made: SimpleNamespace, tmp_path: Path, name: str):
    """Also of the validation file while a model is trained, and of the baseline."""
    file = made.directory / {"tag": "tagged.txt", "classify": "waves.jsonl"}[name]
    other, every = tmp_path / f"other{file.suffix}", list[Sentence]()
    if name == "tag":
        other.write_text("the\tNEW\ncat\tNOUN\nsees\tNEWER\n\nthe\tDET\nrun\tVERB\n\n")
        task: Any = tagging.begin(file, options_of(TaggingOptions, validation=str(other)), "cpu", BadRows())
        every = list(sentences(other))
    else:
        rows = write_waves(tmp_path / "some.jsonl", 12, 1).read_text().splitlines()
        other.write_text("".join(row.replace("rises", f"rises {k // 6}") + "\n" for k, row in enumerate(rows)))
        options = options_of(ClassificationOptions, validation=str(other), best_by="macro_f1")
        task = classification.begin(file, options, "cpu", BadRows())

    def by_hand(model: Any) -> float:
        if name == "tag":
            truth = [tag for each in every for tag in each.tags]
            return macro_f1(truth, [tag for tags in model.tag([each.words for each in every]) for tag in tags])
        truth = [json.loads(row)["label"] for row in other.read_text().splitlines()]
        return macro_f1(truth, [json.loads(row)["class"] for row in model.predict(other, ".jsonl")])

    assert task.evaluate()["macro_f1"] == pytest.approx(by_hand(task.tagger if name == "tag" else task.trained))
    module: Any = tasks.module(name)
    found = figures(elman("evaluate", made.directory / name, other).out)
    assert float(found["macro f1"]) == pytest.approx(by_hand(module.load(made.directory / name)), abs=1e-4) != 0
    if name == "classify":  # six fall, three rise 0 and three rise 1
        assert task.about()["baselines"][classification.LARGEST] == pytest.approx((2 * 6 / (6 + 12)) / 3)


# Predictions


def test_tags_are_written_as_the_file_has_them(made: SimpleNamespace, tmp_path: Path):
    run, file = made.directory / "tag", write_sentences(tmp_path / "new.txt", 600, 5)
    status, out, err = elman("predict", run, file)
    assert (status, err) == (0, "")
    tagger = tagging.load(run)
    every = list(sentences(file))
    expected = tagger.tag([s.words for s in every])
    (tmp_path / "tagged.txt").write_text(out)
    assert [(s.words, s.tags) for s in sentences(tmp_path / "tagged.txt")] == [
        (s.words, t) for s, t in zip(every, expected, strict=True)
    ]
    assert np.mean([a == b for s, t in zip(every, expected, strict=True) for a, b in zip(s.tags, t, strict=True)]) > 0.9
    bare = tmp_path / "bare.txt"
    bare.write_text(re.sub(r"\t\w+$", "", file.read_text(), flags=re.MULTILINE))
    assert elman("predict", run, bare).out == out
    assert elman("predict", run, file, "--output", tmp_path / "o.jsonl").status == 0
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [row["tags"] for row in rows] == expected
    assert elman("predict", run, tmp_path / "o.jsonl").out == (tmp_path / "o.jsonl").read_text()
    elman("predict", run, file, "--output", tmp_path / "o.csv")
    table = pl.read_csv(tmp_path / "o.csv")
    assert table["word"].to_list() == [w for s in every for w in s.words]
    assert table["tag"].to_list() == [t for tags in expected for t in tags]
    assert table["sentence"].max() == 600


def test_tags_do_not_replace_another_column(tmp_path: Path):
    (tmp_path / "a.txt").write_text("the D x DET\ncat N y NOUN\n\n" * 10)
    run = tmp_path / "run"
    assert not elman("train", "tag", tmp_path / "a.txt", "--epochs", 20, *SMALL["tag"], "--run", run).status
    file, tagged = tmp_path / "new.txt", "the D x DET\ncat N y NOUN\n\n"
    for content in (tagged, tagged.replace("DET", "?").replace("NOUN", "?"), "the D x\ncat N y\n"):
        file.write_text(content)
        assert elman("predict", run, file).out == tagged
    file.write_text("the\ncat\n")
    assert elman("predict", run, file).out == "the\tDET\ncat\tNOUN\n\n"
    for line, many in (("the D", 2), ("the D x y DET", 5)):
        file.write_text(f"the D x\n{line}\n")
        status, out, err = elman("predict", run, file)
        assert (status, out) == (2, "")
        assert err == (
            f"elman: {file}, line 2: {line!r} has {many} columns, but the training had 4, or 3 without the tag; correct it\n"
        )
        assert elman("predict", run, file, "--output", tmp_path / "o.csv").status == 0  # where there are no columns
    universal = tmp_path / "a.conllu"
    universal.write_text("1\tthe\t_\t_\t_\t_\t_\t_\t_\t_\n\n")
    assert elman("predict", run, universal).out == universal.read_text().replace("_", "DET", 2).replace("DET", "_", 1)

    content = json.loads((run / "vocabulary.json").read_text())
    assert content.pop("width") == 4
    (run / "vocabulary.json").write_text(json.dumps(content))  # as older runs have it
    file.write_text("the D\n")
    assert elman("predict", run, file).out == "the DET\n\n"


@pytest.mark.parametrize(
    ("name", "content", "width"),
    [
        ("a.txt", "a\tX\n\nb\tY\n", 2),
        ("a.txt", "a X\n\nb n Y\n", 0),
        ("a.jsonl", '{"words": ["a"], "tags": ["X"]}\n' * 2, 0),
        ("a.conllu", "1\ta\ta\tX\t_\t_\t_\t_\t_\t_\n\n" * 2, 0),
    ],
)
def test_the_columns_of_the_training(tmp_path: Path, name: str, content: str, width: int):
    (tmp_path / name).write_text(content)
    (tmp_path / "other.txt").write_text("a b c d X\n")
    options = options_of(TaggingOptions, validation=str(tmp_path / "other.txt"))
    task = tagging.begin(tmp_path / name, options, "cpu", BadRows())
    assert task.tagger.vocabulary.width == width


def test_classes_are_written_in_the_order_of_the_file(made: SimpleNamespace, tmp_path: Path):
    run, file = made.directory / "classify", write_waves(tmp_path / "new.jsonl", 500, 5)
    out = elman("predict", run, file).out
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["sequence"] for row in rows] == [str(k) for k in range(1, 501)]
    truth = [json.loads(line)["label"] for line in file.read_text().splitlines()]
    assert np.mean([row["class"] == label for row, label in zip(rows, truth, strict=True)]) > 0.9
    for row in rows:
        chances = {name: float(row[f"p_{name}"]) for name in ("falls", "rises")}
        assert sum(chances.values()) == pytest.approx(1, abs=1e-4)
        assert max(chances, key=lambda name: chances[name]) == row["class"]
    elman("predict", run, file, "--output", tmp_path / "o.ndjson")
    objects = [json.loads(line) for line in (tmp_path / "o.ndjson").read_text().splitlines()]
    assert [o["class"] for o in objects] == [row["class"] for row in rows]


def test_forecasts_begin_after_the_last_value(made: SimpleNamespace, tmp_path: Path):
    run = made.directory / "forecast"
    out = elman("predict", run, made.directory / "ahead.csv").out
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["group"], row["hour"]) for row in rows] == [(g, str(t)) for g in "ab" for t in range(240, 246)]
    text = io.StringIO((made.directory / "ahead.csv").read_text())
    known = {(row["group"], row["hour"]): row for row in csv.DictReader(text)}
    for row in rows:
        at = known[row["group"], row["hour"]]
        exact = 5 * (row["group"] == "b") + np.sin(np.pi * int(row["hour"]) / 2) + int(at["push"])
        assert float(row["y"]) == pytest.approx(exact, abs=1.2)
    elman("predict", run, made.directory / "ahead.csv", "--output", tmp_path / "o.jsonl")
    objects = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [o["y"] for o in objects] == [float(row["y"]) for row in rows]
    assert [o["hour"] for o in objects] == [*range(240, 246)] * 2


def test_a_series_that_is_too_short_is_left_out_of_the_forecasts(made: SimpleNamespace, tmp_path: Path):
    run, whole = made.directory / "forecast", (made.directory / "ahead.csv").read_text()
    short = "".join(f"c,{t},1,2\n" for t in range(5)) + "".join(f"d,{t},1,2\n" for t in range(50))
    (tmp_path / "a.csv").write_text(whole + short)
    status, out, err = elman("predict", run, tmp_path / "a.csv")
    assert (status, out) == (0, elman("predict", run, made.directory / "ahead.csv").out)
    reasons = "5 rows of 'c', but a forecast reads the last 12; 0 rows of 'd' with push after the last value, but a forecast needs 6"
    assert err == f"left out 2 of 4 series: {tmp_path / 'a.csv'} has {reasons}\n"
    assert elman("predict", run, tmp_path / "a.csv", "--output", tmp_path / "o.csv").err == err
    assert (tmp_path / "o.csv").read_text() == out
    many = "".join(f"{name},{t},1,2\n" for name in range(20) for t in range(5))
    (tmp_path / "a.csv").write_text(whole + many)
    forecaster = forecasting.load(run)
    assert len(list(forecaster.predict(tmp_path / "a.csv", ".jsonl"))) == 12
    (remark,) = forecaster.remarks
    assert re.fullmatch(r"left out 20 of 22 series: .* has 5 rows of '0'.* 5 rows of '9'.*; \.\.\.", remark)
    assert len(list(forecaster.predict(made.directory / "ahead.csv", ".jsonl"))) == 12
    assert forecaster.remarks == []


def test_a_forecast_has_the_step_that_was_trained(tmp_path: Path):
    def write(name: str, times: Iterable[object]) -> Path:
        (tmp_path / name).write_text("t,y\n" + "".join(f"{t},{k % 4}\n" for k, t in enumerate(times)))
        return tmp_path / name

    start = datetime(2026, 1, 1)
    hours = write("hours.csv", (start + timedelta(hours=k) for k in range(99)))
    task = forecasting_of(hours, time="t")
    assert task.forecaster.scales.step == "1 h"
    assert len(list(task.forecaster.predict(hours, ".csv"))) == 7
    odd = np.cumsum(np.random.default_rng(0).uniform(5, 6, 99))
    assert len(list(task.forecaster.predict(write("odd.csv", (start + timedelta(hours=k) for k in odd)), ".csv"))) == 7
    days = write("days.csv", (start + timedelta(days=k) for k in range(99)))
    months = write("months.csv", (date(2020 + k // 12, 1 + k % 12, 1) for k in range(40)))
    for path, step in ((days, "1 d"), (months, "1 month"), (write("numbers.csv", range(9, 300, 3)), "3")):
        message = f"{path}: the rows are {step} apart, but the run was trained on rows that are 1 h apart; give such rows, or train on these"
        for ask in (lambda of: list(task.forecaster.predict(of, ".csv")), task.forecaster.evaluate):
            with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
                ask(path)
    task.forecaster.scales.save(tmp_path)
    content = json.loads((tmp_path / "scales.json").read_text())
    assert content.pop("step") == "1 h"
    (tmp_path / "scales.json").write_text(json.dumps(content | {"dates": True}))  # before the step was kept
    old = Scales.load(Run(tmp_path))
    assert len(list(forecasting.Forecaster(task.model, old, task.options).predict(days, ".csv"))) == 7


@pytest.mark.parametrize(
    ("scale", "shift", "beginning"), [(1.0, 1e9, 1767225600), (1e-30, 0.0, 0.5), (1e30, 1e32, -7)], ids=str
)
def test_forecasts_have_the_digits_of_their_column(tmp_path: Path, scale: float, shift: float, beginning: float):
    values = [shift + scale * math.sin(k) for k in range(100)]
    times = [beginning + 3600 * k for k in range(100)]
    (tmp_path / "a.csv").write_text("t,y\n" + "".join(f"{t},{v!r}\n" for t, v in zip(times, values, strict=True)))
    task = forecasting_of(tmp_path / "a.csv", time="t")
    texts = list(task.forecaster.predict(tmp_path / "a.csv", ".csv"))
    objects = [json.loads(line) for line in task.forecaster.predict(tmp_path / "a.csv", ".jsonl")]
    past = (
        torch.tensor(values[-12:], dtype=torch.float64) - task.forecaster.scales.mean[0]
    ) / task.forecaster.scales.deviation[0]
    exact = task.forecaster.forecast(past.float()[:, None], torch.tensor([0]), torch.empty(18, 1, 0))[:, 0, 0].double()
    exact = exact * task.forecaster.scales.deviation[0] + task.forecaster.scales.mean[0]
    for k, (text, one) in enumerate(zip(texts[1:], objects, strict=True)):
        time, value = text.strip().split(",")
        assert (float(time), float(value)) == (one["t"], one["y"])
        assert time == str(beginning + 3600 * (100 + k))
        resolution = max(1e-6 * scale, abs(shift) * 2.3e-16)
        assert one["y"] == pytest.approx(float(exact[k]), rel=0, abs=resolution)
        assert len(value.lstrip("-0.").replace(".", "").split("e")[0]) <= (17 if shift else 8)


def test_a_row_of_csv():
    """The number of a sentence has all its digits."""
    assert csv_row(["a", 'b, "c"', 1234567, 1 / 3]) == 'a,"b, ""c""",1234567,0.333333\n'


def test_noise_beyond_a_float32_is_not_written():
    assert rounded(0.30000001192, 1.0) == 0.3
    assert rounded(1e9 + 0.25000001, 0.7) == 1000000000.25
    assert rounded(123456789012.0, 1e9) == 123456789000.0


def test_what_is_known_ahead_matters(made: SimpleNamespace, tmp_path: Path):
    text = (made.directory / "ahead.csv").read_text()
    pushed = re.sub(r"^(\w,24\d),\d,$", r"\1,2,", text, flags=re.MULTILINE)
    eased = re.sub(r"^(\w,24\d),\d,$", r"\1,0,", text, flags=re.MULTILINE)
    means = []
    for content in (pushed, eased):
        (tmp_path / "a.csv").write_text(content)
        rows = list(csv.DictReader(io.StringIO(elman("predict", made.directory / "forecast", tmp_path / "a.csv").out)))
        means.append(np.mean([float(row["y"]) for row in rows]))
    assert means[0] > means[1] + 0.5


def test_rows_that_are_skipped_keep_the_numbers_of_the_others(tmp_path: Path):
    file = tmp_path / "a.csv"
    file.write_text("id,words,label\n" + "1,good day,a\n2,bad night,b\n" * 4)
    run = untrained(tmp_path / "run", file, text="words", skip_bad=True)
    file.write_text("id,words\n1,good\n2,\n3,day\n4,night\n")
    _, out, err = elman("predict", run, file)
    assert [row["sequence"] for row in csv.DictReader(io.StringIO(out))] == ["1", "3", "4"]
    assert err == f"skipped     1 malformed, the first: {file}, line 3: column 'words' has no value\n"
    run = untrained(tmp_path / "waves", write_waves(tmp_path / "waves.jsonl", 20, 0), skip_bad=True)
    file = tmp_path / "a.ts"
    file.write_text("@data\n1,2:3,4:a\n1,?:3,4:a\n5,6:7,8:a\n")
    _, out, err = elman("predict", run, file)
    assert [row["sequence"] for row in csv.DictReader(io.StringIO(out))] == ["1", "3"]
    assert err.startswith(f"skipped     1 malformed, the first: {file}, line 3: ")


@pytest.mark.parametrize("name", ["a.conllu", "a.jsonl", "a.txt"])
def test_a_tagger_skips_what_its_training_skips(tmp_path: Path, name: str):
    word = {
        "a.conllu": "1\t{}\t_\tX\t_\t_\t0\t_\t_\t_\n\n",
        "a.jsonl": '{{"words": ["{}"], "tags": ["X"]}}\n',
        "a.txt": "{}\tX\n\n",
    }[name]
    file = tmp_path / name
    file.write_text(word.format("the") * 20)
    task = tagging.begin(file, options_of(TaggingOptions, skip_bad=True), "cpu", BadRows())
    training, _ = fitting.begin(task, tmp_path / "run")
    training.run.save_tensors("model.safetensors", task.model.state_dict(), {"step": 0})
    bad = {"a.conllu": "1\tthe\n\n", "a.jsonl": '{"words": 1}\n', "a.txt": "\tX\n\n"}[name]
    file.write_text(word.format("one") + bad + word.format("two") + bad + word.format("three"))
    status, out, err = elman("predict", tmp_path / "run", file)
    assert (status, out) == (0, "".join(map(word.format, ("one", "two", "three"))))
    assert err.startswith(f"skipped     2 malformed, the first: {file}, line ")
    elman("predict", tmp_path / "run", file, "--output", tmp_path / "o.csv")
    assert pl.read_csv(tmp_path / "o.csv").rows() == [(1, 1, "one", "X"), (3, 1, "two", "X"), (5, 1, "three", "X")]
    assert elman("explain", tmp_path / "run", "--data", file, "--output", tmp_path / "page.html").status == 0


# Models


def options_of(task: type[Any], **changes: Any) -> Any:
    given = SMALL[task.task]
    values = {str(name)[2:].replace("-", "_"): value for name, value in zip(given[::2], given[1::2], strict=True)}
    return task(**{"epochs": 1.0} | values | changes)


def gathered(every: Sequence[Sentence]) -> tagging.Gathered:
    found = tagging.Gathered()
    found.add(every)
    return found


def test_a_sentence_is_tagged_alike_alone_and_in_company():
    torch.manual_seed(0)
    every = [Sentence(list(words), []) for words in (("the", "x" * 40), ("a",), ("the", "cat", "sees", "the", "sun"))]
    learned = [Sentence(s.words, ["X"] * (len(s.words) - 1) + ["Y"]) for s in every]
    vocabulary = tagging.Vocabulary.learn(gathered(learned), 2)
    assert vocabulary.words == ["the"]
    assert vocabulary.word("cat") == vocabulary.word("unheard") == 0
    options = options_of(TaggingOptions, num_layers=2, dropout=0.0)
    tagger = tagging.Tagger(tagging.TaggingModel(2, len(vocabulary.characters) + 1, 2, options), vocabulary, options)
    together = {place: logits for place, logits, _ in tagger.says(tagger.encode(every))}
    for place, sentence in enumerate(every):
        ((_, alone, _),) = tagger.says(tagger.encode([sentence]))
        assert together[place].shape == (len(sentence.words), 2)
        torch.testing.assert_close(together[place], alone, rtol=1e-4, atol=1e-6)
    words = tagger.encode(Sentence([word], []) for word in ("cat", "cut", "tac"))
    spelled = {place: logits for place, logits, _ in tagger.says(words)}
    assert not torch.allclose(spelled[0], spelled[1])  # both are unknown words, but spelled otherwise
    assert not torch.allclose(spelled[0], spelled[2])


def test_words_are_hidden_by_how_rare_they_are(tmp_path: Path):
    every = [Sentence(["often"], ["X"])] * 12 + [Sentence(["seldom"], ["Y"])] * 4
    options = options_of(TaggingOptions, word_dropout=2.0, min_count=1)
    found = gathered(every)
    vocabulary = tagging.Vocabulary.learn(found, 1)
    model = tagging.TaggingModel(3, len(vocabulary.characters) + 1, 2, options)
    task = tagging.Tagging(tagging.Tagger(model, vocabulary, options), found, np.arange(16), np.arange(16), None)
    seen: list[torch.Tensor] = []
    model.words.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for _ in range(200):
        task.loss(np.array([0, 12]))
    hidden = (torch.cat(seen) == 0).double().mean(0)
    assert hidden.tolist() == pytest.approx([2 / 14, 2 / 6], abs=0.09)


def test_the_usual_tag_of_a_word():
    train = [Sentence(["a", "b", "a"], ["X", "Y", "X"]), Sentence(["a", "c"], ["Z", "Y"])]
    held = [Sentence(["a", "b", "new", "a"], ["X", "Y", "Y", "Z"])]
    options = options_of(TaggingOptions)
    found, places = gathered([*train, *held]), np.arange(3)
    vocabulary = tagging.Vocabulary.learn(found, 1, places[:2])
    assert (vocabulary.words, vocabulary.counts, vocabulary.tags) == (["a", "b", "c"], [3, 1, 1], ["X", "Y", "Z"])
    model = tagging.TaggingModel(4, 4, 3, options)
    task = tagging.Tagging(tagging.Tagger(model, vocabulary, options), found, places[:2], places[2:], None)
    assert task.baselines() == {"word's usual tag": 0.75}  # the last one is X, too


def test_each_word_has_its_own_tag():
    found = gathered([Sentence(["a", "b", "c"], ["X", "Y", "Z"]), Sentence(["a"], ["Z"])])
    vocabulary = tagging.Vocabulary.learn(found, 1)
    truth = tagging.Encoded(found, vocabulary).truth([0, 1])
    x, y, z = map(vocabulary.tag, "XYZ")
    assert truth.tolist() == [[x, z], [y, -1], [z, -1]]


def test_entities_decide_where_tags_mark_them(tmp_path: Path):
    file = write_sentences(tmp_path / "bio.txt", 120, 0, bio=True)
    outcome = elman("train", "tag", file, "--run", tmp_path / "run", "--epochs", 6, *SMALL["tag"])
    assert outcome.status == 0, outcome.err
    assert re.match(r"validation  entity F1 0\.\d+, accuracy", outcome.out) or outcome.out.startswith(
        "validation  entity F1 1"
    )
    _, notes = Run(tmp_path / "run").load_tensors("model.safetensors")
    assert "entity_f1" in notes
    assert "entity f1" in figures(elman("evaluate", tmp_path / "run", file).out)


def classifier_of(every: Sequence[Labelled], **changes: Any) -> tuple[classification.Classifier, Gathered]:
    options = options_of(ClassificationOptions, **changes)
    gathered = Gathered(unit_of(options))
    gathered.add(every, Path("none"))
    reading = classification.Reading.learn(gathered, np.arange(len(gathered)), options)
    model = classification.ClassificationModel(reading, len(reading.classes), options)
    return classification.Classifier(model, reading, options), gathered


def pieces(encoded: Encoded) -> Pieces:
    """All sequences as they are."""
    return Pieces.whole(np.arange(len(encoded.rows)), encoded.rows.lengths)


def test_a_sequence_is_classified_alike_alone_and_in_company():
    random = np.random.default_rng(0)
    contents = [(5 + 3 * random.normal(size=(n, 2))).astype(np.float32) for n in (3, 17, 1, 9)]
    every = [Labelled(str(k), content, "ab"[k % 2]) for k, content in enumerate(contents)]
    classifier, gathered = classifier_of(every, num_layers=2)
    encoded = classification.Classes(gathered, classifier.reading)
    _, together = classifier.classify(encoded)
    for each, row in zip(every, together, strict=True):
        assert classifier.classify(classifier.encode([each], Path("none")))[1][0] == pytest.approx(row, rel=1e-4)
    x, lengths = encoded.batch(pieces(encoded))
    assert lengths.tolist() == [3, 17, 1, 9]
    steps = torch.cat([x[:length, k] for k, length in enumerate(lengths)]).numpy()
    assert steps.mean(0) == pytest.approx([0, 0], abs=1e-5)
    assert steps.std(0) == pytest.approx([1, 1], abs=1e-5)


def test_the_words_of_a_text():
    every = [
        Labelled("1", "Play Jazz, now!", "music"),
        Labelled("2", "play the news", "news"),
        Labelled("3", "Play it", "music"),
    ]
    classifier, _ = classifier_of(every, text="text")
    assert classifier.reading.tokens == ["play"]
    texts = [Labelled("1", text, None) for text in ("PLAY something", "", "it")]
    encoded = classifier.encode(texts, Path("none"))
    x, lengths = encoded.batch(pieces(encoded))
    assert (x.t().tolist(), lengths.tolist()) == ([[1, 0], [0, 0], [0, 0]], [2, 1, 1])
    classifier, _ = classifier_of(every, text="text", unit="characters")
    encoded = classifier.encode([Labelled("1", "Pz", None)], Path("none"))
    assert encoded.batch(pieces(encoded))[0][:, 0].tolist()[0] != 0
    assert split("It's 5 o'clock.", "words") == ["it", "'", "s", "5", "o", "'", "clock", "."]


@pytest.mark.parametrize("command", ["train", "tune"])
@pytest.mark.parametrize("text", ["w{} v{}", " "])
def test_texts_of_which_no_word_occurs_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, text: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"{text.format(k, k)},{'ab'[k % 2]}\n" for k in range(60)))
    status, out, err = elman(command, "classify", "a.csv", "--text", "text")
    assert (status, out) == (2, "")
    assert err == (
        "elman: a.csv has no word that occurs in two of its 48 training texts; "
        "read them with --unit characters, or give more\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_texts_without_characters(tmp_path: Path):
    (tmp_path / "a.csv").write_text("text,label\n" + '"",a\n"",b\n' * 10)
    with pytest.raises(InputError, match=r"a.csv has no character in any of its 16 training texts; give texts with"):
        classification.begin(tmp_path / "a.csv", options_of(ClassificationOptions, text="text", unit="characters"), "cpu", BadRows())  # fmt: skip


@pytest.mark.parametrize(("rare", "told"), [(33, True), (32, False)])
def test_texts_of_which_few_words_occur_twice(tmp_path: Path, rare: int, told: bool):
    """Of 40 words, more than four fifths occur once; the full stop is none of them, though it is in all texts."""
    texts = [f"w{k}." if k < rare else "usual." for k in range(40)]
    file, other = tmp_path / "a.csv", tmp_path / "b.csv"
    for path in (file, other):
        path.write_text("text,label\n" + "".join(f"{text},{'ab'[k % 2]}\n" for k, text in enumerate(texts)))
    options = options_of(ClassificationOptions, text="text", validation=str(other))
    said = dict(classification.begin(file, options, "cpu", BadRows()).introduction()).get("words")
    line = "33 of 40 words of the training occur in one text only, and are not told apart; --unit characters may learn more"
    assert said == (line if told else None)


@pytest.mark.parametrize(("unit", "said"), [("words", "3, 42.9%"), ("characters", "9, 34.6%")])
def test_evaluation_counts_what_the_training_lacks(tmp_path: Path, unit: str, said: str):
    (tmp_path / "a.csv").write_text("text,label\n" + "good day.,a\nbad night.,b\n" * 8)
    (tmp_path / "b.csv").write_text("text,label\n" + "good zebra.,a\n" + '"bad, queer day",b\n" ",b\n')
    given = ("--text", "text", "--unit", unit, "--epochs", 0.1, "--embedding-size", 3, *SMALL["classify"])
    assert not elman("train", "classify", tmp_path / "a.csv", *given, "--run", tmp_path / "run").status
    found = figures(elman("evaluate", tmp_path / "run", tmp_path / "b.csv").out)
    assert found[f"unknown {unit}"] == f"{said}: the network reads one stand-in for all"


def test_a_run_whose_classes_have_blanks_knows_them(tmp_path: Path):
    """Runs of earlier versions have the labels as they stood in a table."""
    file = write_waves(tmp_path / "a.jsonl", 20, 0)
    fit(classification.begin(file, options_of(ClassificationOptions, epochs=0.1), "cpu", BadRows()), tmp_path / "run")
    path = tmp_path / "run" / "vocabulary.json"
    before = figures(elman("evaluate", tmp_path / "run", file).out)
    path.write_text(path.read_text().replace('"rises"', '" rises"'))
    del before["rises"]  # which stands further to the right now
    assert figures(elman("evaluate", tmp_path / "run", file).out) == before


def test_rare_classes_weigh_as_much_when_balanced():
    every = [Labelled(str(k), np.ones((2, 1), np.float32), "rare" if k == 0 else "usual") for k in range(9)]
    for balanced, expected in ((False, None), (True, [9 / 2, 9 / 16])):
        classifier, gathered = classifier_of(every, balanced=balanced)
        task = classification.Classification(
            classifier, Parts(gathered, np.arange(9), np.arange(9), np.arange(0)), None
        )
        assert (None if task.weights is None else task.weights.tolist()) == expected


def test_each_class_gives_its_share_to_validation(tmp_path: Path):
    file = write_waves(tmp_path / "waves.jsonl", 60, 0)
    found, train, held, _ = classification.read(file, options_of(ClassificationOptions, held_out=0.2), BadRows())
    assert list(found.different) == ["falls", "rises"]
    assert np.bincount([found.labels[k][0] for k in held]).tolist() == [6, 6]
    assert sorted([*train, *held]) == list(range(60))


def untrained(directory: Path, file: Path, **changes: Any) -> Path:
    """A run of a classifier as it begins, with weights that say something."""
    task = classification.begin(file, options_of(ClassificationOptions, **changes), "cpu", BadRows())
    training, _ = fitting.begin(task, directory)
    torch.manual_seed(1)
    weights = {key: torch.randn_like(value) for key, value in task.model.state_dict().items()}
    training.run.save_tensors("model.safetensors", weights, {"step": 0})
    return directory


def write_steps(path: Path, columns: str) -> Path:
    """A table with these columns in this order."""
    random, rows = np.random.default_rng(0), [columns]
    for k in range(24):
        row = {"id": k // 2, "kind": "ab"[k // 2 % 2], "a": random.normal(), "b": 1e3 + random.normal()}
        row["c"] = k
        rows.append(",".join(str(row[name]) for name in columns.split(",")))
    path.write_text("\n".join(rows) + "\n")
    return path


def test_channels_are_columns_by_name(tmp_path: Path):
    file = write_steps(tmp_path / "a.csv", "id,kind,a,b")
    run = untrained(tmp_path / "run", file, sequence="id", label="kind")
    assert json.loads((run / "vocabulary.json").read_text())["channels"] == ["a", "b"]
    expected = [elman(what, run, file).out for what in ("predict", "evaluate")]
    other = write_steps(tmp_path / "other.csv", "c,b,kind,a,id")
    assert [elman(what, run, other).out for what in ("predict", "evaluate")] == expected
    lacking = write_steps(tmp_path / "lacking.csv", "id,kind,b,c")
    for what in ("predict", "evaluate"):
        status, out, err = elman(what, run, lacking)
        assert (status, out) == (2, "")
        assert err == (
            f"elman: {lacking} has no column 'a', which the run reads; its columns are 'id', 'kind', 'b', 'c': "
            "rename or add it\n"
        )
    chosen = options_of(ClassificationOptions, sequence="id", label="kind", columns="b", validation=str(other))
    assert classification.begin(file, chosen, "cpu", BadRows()).trained.reading.channels == ["b"]


def test_a_channel_far_from_zero_keeps_its_changes(tmp_path: Path):
    """Of 1e9, float32 does not see a change of 10."""
    changes = np.random.default_rng(0).normal(size=(40, 6))
    rows = [{"values": list(row), "label": "ab"[k % 2]} for k, row in enumerate(changes)]
    batches = []
    for offset in (0.0, 1e9):
        file = tmp_path / f"{offset}.jsonl"
        moved = ({**row, "values": [offset + value for value in row["values"]]} for row in rows)
        file.write_text("".join(json.dumps(row) + "\n" for row in moved))
        task = classification.begin(file, options_of(ClassificationOptions), "cpu", BadRows())
        batches.append(task.encoded.batch(pieces(task.encoded).take(np.arange(40)))[0])
    torch.testing.assert_close(*batches, rtol=0, atol=1e-5)
    assert float(batches[0].std()) == pytest.approx(1, abs=0.1)


def test_a_number_far_from_all_that_was_learned_from(tmp_path: Path):
    """It is 3e41 deviations away, which float32 does not reach."""
    rows = [
        {"values": [0.001 * (-1) ** t, 0.001 * k], "label": ("falls", "rises")[k % 2]}
        for k in range(20)
        for t in (0, 1)
    ]
    (tmp_path / "small.jsonl").write_text("".join(json.dumps(row | {"values": [row["values"]]}) + "\n" for row in rows))
    run = untrained(tmp_path / "run", tmp_path / "small.jsonl")
    (tmp_path / "far.jsonl").write_text('{"values": [[3e38, -3e38], [1, 2]]}\n')
    (row,) = csv.DictReader(io.StringIO(elman("predict", run, tmp_path / "far.jsonl").out))
    assert float(row["p_falls"]) + float(row["p_rises"]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("what", ["predict", "evaluate", "explain"])
def test_texts_of_a_table_without_them(tmp_path: Path, what: str):
    file = tmp_path / "a.csv"
    file.write_text("words,label\n" + "good day,a\nbad night,b\n" * 4)
    run = untrained(tmp_path / "run", file, text="words")
    file.write_text("body,label\ngood day,a\n")
    data = ("--data", file, "--output", tmp_path / "a.html") if what == "explain" else (file,)
    status, out, err = elman(what, run, *data)
    assert (status, out) == (2, "")
    assert (
        f"{file} has no column 'words', which the run reads; its columns are 'body', 'label': rename or add it\n" in err
    )


def test_a_validation_file_has_the_channels_of_the_training(tmp_path: Path):
    file, other = write_steps(tmp_path / "a.csv", "id,kind,a,b"), write_steps(tmp_path / "b.csv", "b,kind,a,id")
    options = options_of(ClassificationOptions, sequence="id", label="kind", validation=str(other))
    found, train, validation, _ = classification.read(file, options, BadRows())
    for k, same in zip(train, validation, strict=True):
        assert found.rows[k].tolist() == found.rows[same].tolist()


def test_a_run_without_names_of_channels_reads_them_by_place(tmp_path: Path):
    """As runs of earlier versions."""
    file = write_steps(tmp_path / "a.csv", "id,kind,a,b")
    run = untrained(tmp_path / "run", file, sequence="id", label="kind")
    expected = elman("predict", run, file).out
    content = json.loads((run / "vocabulary.json").read_text())
    del content["channels"]
    (run / "vocabulary.json").write_text(json.dumps(content))
    assert elman("predict", run, file).out == expected
    assert elman("predict", run, write_steps(tmp_path / "b.csv", "id,kind,b,a")).out != expected
    assert elman("train", "classify", "--resume", run).status == 0


def forecasting_of(path: Path | None = None, **changes: Any) -> forecasting.Forecasting:
    task = forecasting.begin(path, options_of(ForecastingOptions, **changes), "cpu", BadRows())
    task.model.eval()
    return task


def test_windows_are_slices_of_their_series_and_their_part(tmp_path: Path):
    options = options_of(ForecastingOptions, group="group", known="push", columns="y,twice", split="0.5,0.2,0.3")
    lines = ["group,push,y,twice"] + [f"{g},{-t},{t + 1000 * (g == 'b')},{2 * t}" for g in "ab" for t in range(100)]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    task = forecasting.begin(tmp_path / "a.csv", options, "cpu", BadRows())
    scales = task.forecaster.scales
    assert scales.mean == pytest.approx([24.5 + 500, 49, -24.5])  # of the first half alone
    assert {name: own[0] for name, own in scales.series.items()} == {"a": [24.5, 49], "b": [24.5 + 1000, 49]}
    for windows, (begin, end) in ((task.train, (12, 50)), (task.validation, (50, 70)), (task.test, (70, 100))):
        assert len(windows) == 2 * 2 * (end - begin - 6 + 1)
        past, column, known, ahead = windows.take(np.arange(len(windows)))
        assert past.shape == (12, len(windows))
        block = windows.block(np.arange(len(windows)))
        both = torch.cat([past, ahead]) * torch.from_numpy(windows.scale.deviation[block])
        both += torch.from_numpy(windows.scale.mean[block])
        times = (known[..., 0] * scales.deviation[2] + scales.mean[2]).neg().round()
        assert times[12].min() == begin
        assert times[-1].max() == end - 1
        assert (times.diff(dim=0) == 1).all()
        group = torch.tensor([0, 0, 1, 1]).repeat_interleave(len(windows) // 4)
        expected = torch.where(column == 0, times + 1000 * group, 2 * times)
        torch.testing.assert_close(both, expected.double(), rtol=1e-4, atol=1e-2)


def test_a_series_is_measured_like_a_column(tmp_path: Path):
    """The same numbers in columns, and below one another as groups: the windows, their scales and scores are alike."""
    random = np.random.default_rng(0)
    level, spread = np.array([0.0, -5e5, 3.0]), np.array([1.0, 1e3, 1e-4])
    table = level + spread * np.cumsum(random.normal(size=(120, 3)), 0)
    rows = "".join(f"{a!r},{b!r},{c!r}\n" for a, b, c in table.tolist())
    (tmp_path / "wide.csv").write_text("a,b,c\n" + rows)
    rows = "".join(f"{name},{v!r}\n" for name, column in zip("abc", table.T.tolist(), strict=True) for v in column)
    (tmp_path / "long.csv").write_text("which,y\n" + rows)
    wide, long = forecasting_of(tmp_path / "wide.csv"), forecasting_of(tmp_path / "long.csv", group="which")
    for one, other in ((wide.train, long.train), (wide.validation, long.validation), (wide.test, long.test)):
        every = np.arange(len(one))
        assert len(one) == len(other) > 0
        assert np.array_equal(one.block(every), other.block(every))
        for mine, yours in zip(one.scale, other.scale, strict=True):
            np.testing.assert_allclose(mine, yours, rtol=1e-12)
        assert other.take(every)[1].eq(0).all()
        for mine, yours in zip(one.take(every)[::3], other.take(every)[::3], strict=True):
            torch.testing.assert_close(mine, yours, rtol=1e-6, atol=1e-6)
    mine, yours = (task.forecaster.errors_of_baselines(task.test, len(task.test)) for task in (wide, long))
    for name in mine:
        assert mine[name].means() == pytest.approx(yours[name].means(), rel=1e-6)
    past, _, _, truth = long.test.take(np.arange(len(long.test)))
    errors, _, _ = long.forecaster.errors(long.test, len(long.test))
    found = long.forecaster.forecast(
        past, torch.zeros(len(long.test), dtype=torch.int64), torch.empty(18, len(long.test), 0)
    )
    absolute = (found[..., 0] - truth).abs().double().numpy() * np.repeat(table[:84].std(0), len(long.test) // 3)
    assert errors.columns[:, 0].tolist() == pytest.approx([absolute.sum(), absolute.size], rel=1e-5)
    changes = np.abs(table[4:84] - table[:80]).mean(0)
    assert errors.means()["mase"] == pytest.approx(
        (absolute / np.repeat(changes, len(long.test) // 3)).mean(), rel=1e-5
    )


def test_a_new_series_is_scaled_by_what_its_first_forecast_reads(tmp_path: Path):
    random = np.random.default_rng(0)
    walk = np.cumsum(random.normal(size=(4, 60)), 1)

    def write(name: str, **every: np.ndarray) -> Path:
        rows = (f"{which},{t},{v!r}\n" for which, own in every.items() for t, v in enumerate(own.tolist()))
        (tmp_path / name).write_text("which,t,y\n" + "".join(rows))
        return tmp_path / name

    learned = write("a.csv", a=walk[0], b=1e3 * walk[1], flat=np.full(60, 7.0))
    columns = ("--group", "which", "--time", "t")
    status, out, err = elman(
        "train", "forecast", learned, *columns, "--run", tmp_path / "run", *SMALL["forecast"], "--epochs", 2
    )
    assert status == 0, err
    assert "in standard deviations of its series' training part" in out
    forecaster = forecasting.load(tmp_path / "run")
    together = np.concatenate([walk[0, :42], 1e3 * walk[1, :42], np.full(42, 7.0)]).std()
    assert forecaster.scales.series["flat"][1] == [pytest.approx(together)]

    def predicted(path: Path) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for line in forecaster.predict(path, ".jsonl"):
            found.setdefault((row := json.loads(line))["which"], []).append(row["y"])
        return found

    new = write("new.csv", a=walk[2], c=walk[2], d=walk[3], still=np.full(60, 4.0))
    found = predicted(new)
    reads = "so each is scaled by the 12 rows that its first forecast reads"
    told = f"3 of 4 are not in the training data, {reads}: 'c', 'd', 'still'"
    assert forecaster.remarks == [f"new series: {told}"]
    for name, mean, deviation in (
        ("a", walk[0, :42].mean(), walk[0, :42].std()),
        ("c", walk[2, -12:].mean(), walk[2, -12:].std()),
    ):
        past = torch.tensor((walk[2, -12:] - mean) / deviation).float()[:, None]
        exact = forecaster.forecast(past, torch.tensor([0]), torch.empty(18, 1, 0))[:, 0, 0].double().numpy()
        assert found[name] == pytest.approx((exact * deviation + mean).tolist(), abs=1e-4 * deviation)
    moved = predicted(write("moved.csv", c=5 + 1e4 * walk[2], d=walk[3]))
    assert moved["c"] == pytest.approx((5 + 1e4 * np.array(found["c"])).tolist(), abs=1.0)
    assert moved["d"] == found["d"]

    lines = dict(forecaster.evaluate(new).lines)
    assert lines["new series"] == told
    mae = re.fullmatch(r"MSE .*, MAE (.*), MASE .*", lines["naive"])
    assert mae
    total = 0.0
    scales = {0: walk[0, :42].std(), 1: walk[2, :12].std(), 2: walk[3, :12].std()}
    for k, own in enumerate((walk[2], walk[2], walk[3])):
        ends = range(12, 60 - 6 + 1)
        total += np.mean([np.abs(own[end : end + 6] - own[end - 1]).mean() for end in ends]) / scales[k]
    assert float(mae[1]) == pytest.approx(total / 4, abs=1e-4)  # nothing changes in the fourth

    scales = json.loads((tmp_path / "run" / "scales.json").read_text())
    assert scales.pop("series")
    (tmp_path / "run" / "scales.json").write_text(json.dumps(scales))  # as a run from before had it
    forecaster = forecasting.load(tmp_path / "run")
    past = torch.tensor((walk[2, -12:] - scales["mean"][0]) / scales["deviation"][0]).float()[:, None]
    exact = forecaster.forecast(past, torch.tensor([0]), torch.empty(18, 1, 0))[:, 0, 0].double().numpy()
    exact = exact * scales["deviation"][0] + scales["mean"][0]
    assert (
        predicted(new)["a"] == predicted(new)["c"] == pytest.approx(exact.tolist(), abs=1e-3 * scales["deviation"][0])
    )
    assert forecaster.remarks == []


@pytest.mark.parametrize("group", [None, "shop"])
def test_scales_are_those_of_the_rows_that_were_not_filled_in(group: str | None) -> None:
    given = np.array([True, True, False, True, True])[:, None]
    targets = np.array([[1.0], [2.0], [50.0], [4.0], [7.0]])
    one = Series("north", np.empty(0), targets, np.zeros((5, 0)), given)
    options = ForecastingOptions(period=1, group=group)
    scale = Scales.of([one], ["sales"], options).of_series(one, options)
    assert scale.mean == pytest.approx(targets[given].mean())
    assert scale.deviation == pytest.approx(targets[given].std())
    assert scale.seasonal * scale.deviation == pytest.approx(2.0)  # of the changes from 1 to 2 and from 4 to 7


def test_rows_that_were_filled_in_are_neither_learned_from_nor_scored(tmp_path: Path):
    """Every third row is missing, and so are twenty in a row, which are more than a window forecasts."""
    random = np.random.default_rng(0)
    here = [t for t in range(300) if t % 3 and t not in range(100, 120)] + [300]
    values = dict(zip(here, random.normal(size=len(here)).tolist(), strict=True))
    (tmp_path / "a.csv").write_text("hour,y\n" + "".join(f"{t},{v}\n" for t, v in values.items()))
    task = forecasting_of(tmp_path / "a.csv", time="hour", fill_gaps=True)
    scales = task.forecaster.scales
    learned = {t: v for t, v in values.items() if t < 1 + round(0.7 * 300)}
    assert scales.mean[0] == pytest.approx(np.mean(list(learned.values())))
    assert scales.deviation[0] == pytest.approx(np.std(list(learned.values())))
    changes = [abs(learned[t] - learned[t - 4]) for t in learned if t - 4 in learned]
    assert scales.seasonal[0] == pytest.approx(np.mean(changes) / scales.deviation[0])

    whole = Scaled.of(
        forecasting.read(tmp_path / "a.csv", scales.columns(task.options), task.options, BadRows())[0],
        scales,
        task.options,
    )
    windows = Windows(whole, [(0, 300)], 12, 6)
    past, column, known, truth = windows.take(np.arange(len(windows)))
    for k in range(len(windows)):  # the first of them forecasts from row 13 of the file on, whose time is 1
        ahead = range(k + 13, k + 19)
        assert torch.isnan(truth[:, k]).tolist() == [t not in values for t in ahead]
        latest = max(t for t in values if t < ahead[0])
        assert float(past[-1, k]) == pytest.approx((values[latest] - scales.mean[0]) / scales.deviation[0], abs=1e-5)
    told = ~truth.isnan()
    errors, loss, _ = task.forecaster.errors(windows, len(windows))
    error = (task.forecaster.forecast(past, column, known)[..., 0] - truth)[told]
    assert errors.means()["mae"] == pytest.approx(float(error.abs().mean()), rel=1e-5)
    absolute = float(error.abs().sum()) * scales.deviation[0]
    assert errors.columns[:, 0].tolist() == pytest.approx([absolute, int(told.sum())], rel=1e-5)
    assert loss == pytest.approx(float(error.abs().mean()), rel=1e-5)
    baselines = task.forecaster.errors_of_baselines(windows, len(windows))
    for name, period in (("naive", 1), ("seasonal 4", 4)):
        error = (forecasting.naive(past, 6, period) - truth)[told]
        assert baselines[name].means()["mse"] == pytest.approx(float(error.square().mean()), rel=1e-5)

    past, column, known, truth = task.train.take(np.arange(len(task.train)))
    told = ~truth.isnan()
    exact = (task.model(past, column, known)[..., 0] - truth)[told].abs().mean()
    torch.testing.assert_close(task.loss(np.arange(len(task.train))), exact)
    (nothing,) = np.flatnonzero(~told.any(0).numpy())[:1]
    task.loss(np.array([nothing])).backward()
    assert all(p.grad is None or not p.grad.any() for p in task.model.parameters())
    task.share(0, 2)
    own = next(batches_of(task.lengths, task.options.batch_size, task.options.seed, 0))[::2]
    assert next(task.batches(0, 0)).weight == int(told[:, own].sum())


def test_a_series_of_filled_rows_has_no_windows(tmp_path: Path):
    """Its test part has no true value, so it is not judged, instead of being right about everything."""
    rows = "".join(f"{t},{t % 4}\n" for t in (*range(160), 200))
    (tmp_path / "a.csv").write_text("hour,y\n" + rows)
    task = forecasting_of(tmp_path / "a.csv", time="hour", fill_gaps=True, split="100,60,40")
    assert (len(task.train), len(task.validation), len(task.test)) == (83, 55, 0)


def test_filled_rows_are_told(tmp_path: Path):
    rows = "".join(f"{t},{t % 4}\n" for t in range(300) if t not in (50, 51, 290))
    (tmp_path / "a.csv").write_text("hour,y\n" + rows)
    columns = ("--time", "hour", "--fill-gaps", "--run", tmp_path / "run")
    status, _, err = elman("train", "forecast", tmp_path / "a.csv", *columns, *SMALL["forecast"], "--epochs", 0.1)
    assert status == 0, err
    assert "300 rows of 1 columns, 3 of the values filled in, which are not scored\n" in err
    data = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert (data["rows"], data["filled_values"]) == (300, 3)
    assert (
        "filled in            3 of 300 values, which are not scored\n"
        in elman("evaluate", tmp_path / "run", tmp_path / "a.csv").out
    )


def test_the_loss_of_a_forecast_is_a_mean_over_windows_and_steps():
    for loss, measure in (("mae", "mae"), ("mse", "mse")):
        task = forecasting_of(loss=loss)
        row = task.evaluate()
        assert row[f"validation_{loss}"] == pytest.approx(row[measure], rel=1e-5)
        assert task.score == loss
        windows = task.validation
        past, column, known, truth = windows.take(windows.evenly(forecasting.MOST))
        error = task.forecaster.forecast(past, column, known)[..., 0] - truth
        assert row["mse"] == pytest.approx(float(error.square().mean()), rel=1e-4)
        assert row["mae"] == pytest.approx(float(error.abs().mean()), rel=1e-4)
        values = examples.mackey_glass()[:3500]
        change = np.abs(values[4:] - values[:-4]).mean() / values.std()
        assert row["mase"] == pytest.approx(row["mae"] / change, rel=1e-4)


def test_a_recursive_forecast_reads_its_own():
    task = forecasting_of(strategy="recursive", horizon=10)
    assert task.model.horizon == 4
    past, column, known, truth = task.validation.take(np.arange(5))
    assert len(truth) == 10
    task.model.eval()
    with torch.no_grad():
        one = task.model(past, column, known[:16])[..., 0]
        two = task.model(torch.cat([past, one])[-12:], column, known[:16])[..., 0]
        three = task.model(torch.cat([past, one, two])[-12:], column, known[:16])[..., 0]
    torch.testing.assert_close(task.forecaster.forecast(past, column, known)[..., 0], torch.cat([one, two, three])[:10])


def test_a_forecast_reads_what_is_known_ahead(tmp_path: Path):
    (tmp_path / "a.csv").write_text("push,y\n" + "".join(f"{t % 5},{t % 4}\n" for t in range(100)))
    task = forecasting_of(tmp_path / "a.csv", known="push")
    past, column, known, _ = task.validation.take(np.arange(1))
    one = task.forecaster.forecast(past, column, known)
    known[-task.model.horizon :] += 1
    assert (task.forecaster.forecast(past, column, known) != one).any()


def test_a_forecast_moves_with_the_level_of_its_past():
    task = forecasting_of()
    past, column, known, _ = task.validation.take(np.arange(5))
    moved = task.forecaster.forecast(past + 3, column, known)
    torch.testing.assert_close(moved, task.forecaster.forecast(past, column, known) + 3, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", ["direct", "recursive"])
def test_quantiles_that_cross_are_judged_as_they_are_written(tmp_path: Path, strategy: str):
    task = forecasting_of(quantiles="0.1,0.4,0.9", strategy=strategy)
    with torch.no_grad():
        task.model.write.bias.view(4, 3)[:] += torch.tensor([0.5, -0.5, 0.0])
    past, column, known, truth = task.validation.take(np.arange(len(task.validation)))
    raw = task.model(past, column, known)
    assert (raw[..., 0] > raw[..., 1]).all()
    forecast = task.forecaster.forecast(past, column, known)
    assert (forecast.diff(dim=-1) >= 0).all()
    torch.testing.assert_close(forecast[:4], raw.sort(-1).values[:4])
    row = task.evaluate()
    assert row["validation_pinball"] == pytest.approx(float(pinball(forecast, truth, [0.1, 0.4, 0.9]).mean()), rel=1e-5)
    assert row["mae"] == pytest.approx(float((forecast[..., 1] - truth).abs().mean()), rel=1e-5)
    values = examples.mackey_glass()[-100:]
    (tmp_path / "a.csv").write_text("x\n" + "".join(f"{v}\n" for v in values))
    rows = list(csv.DictReader(io.StringIO("".join(task.forecaster.predict(tmp_path / "a.csv", ".csv")))))
    scales = task.forecaster.scales
    seen = torch.tensor((values[-12:] - scales.mean[0]) / scales.deviation[0]).float()[:, None]
    exact = task.forecaster.forecast(seen, torch.tensor([0]), torch.empty(18, 1, 0))[:, 0] * scales.deviation[0]
    found = [[float(row[f"x_q{q}"]) for q in (0.1, 0.4, 0.9)] for row in rows]
    assert np.allclose(found, exact + scales.mean[0], atol=1e-5)


def test_quantiles_are_trained_for_what_they_say(tmp_path: Path):
    random = np.random.default_rng(0)
    (tmp_path / "noise.csv").write_text("y\n" + "".join(f"{v}\n" for v in random.normal(size=2000)))
    task = forecasting_of(
        path=tmp_path / "noise.csv", quantiles="0.1,0.5,0.9", epochs=12.0, learning_rate=0.01, dropout=0.0
    )
    assert task.measure == "pinball"
    fit(task, tmp_path / "run")
    past, column, known, truth = task.test.take(np.arange(len(task.test)))
    below = (truth[..., None] < task.forecaster.forecast(past, column, known)).float().mean((0, 1))
    assert below.tolist() == pytest.approx([0.1, 0.5, 0.9], abs=0.08)
    out = elman("predict", tmp_path / "run", tmp_path / "noise.csv").out.splitlines()
    assert out[0] == "step,y_q0.1,y_q0.5,y_q0.9"
    assert [line.split(",")[0] for line in out[1:]] == ["1", "2", "3", "4", "5", "6"]


# Data that come along


@pytest.mark.parametrize("name", tasks.MODULES)
def test_batches_go_where_the_model_is(name: str, monkeypatch: pytest.MonkeyPatch):
    """A device of its own, without values, stands for a GPU: what is left on the CPU cannot be mixed with it."""

    def stands_in(log_p: Tensor, targets: Tensor, *_: object) -> Tensor:  # torch's needs values
        return log_p.sum((0, 2)) + targets.sum(1)

    monkeypatch.setattr("elman.tasks.transcription.ctc_loss", stands_in)
    module = importlib.import_module(f"elman.tasks.{tasks.MODULES[name]}")
    task = module.begin(None, module.Options(hidden_size=4, batch_size=4), "cpu", BadRows())
    batch = next(iter(task.batches(0, 0)))
    task.model.to_empty(device="meta")
    with use_engine("reference"):
        loss = batch.loss()
    assert loss.device.type == "meta"
    loss.backward()


def test_every_task_has_data_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(examples, "LINES", 300)
    for name in TASKS:
        outcome = elman("train", name, "--run", tmp_path / name, "--epochs", 0.1, *SMALL[name])
        assert outcome.status == 0, outcome.err
        assert json.loads((tmp_path / name / "config.json").read_text())["data"]["path"] is None


def test_names_in_code_are_tagged_by_what_they_stand_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "a.py").write_text("import os\ndef f(a, b=1):\n    a.g(b).h = f(a, b=os)\nclass C(A):\n    pass\n")
    found = [list(zip(s.words, s.tags, strict=True)) for s in examples._lines_of(tmp_path / "a.py")]
    assert ("f", "definition") in found[0]
    assert ("a", "parameter") in found[0]
    assert found[1] == [
        ("a", "variable"), (".", "op"), ("g", "method"), ("(", "op"), ("b", "variable"), (")", "op"), (".", "op"), ("h", "attribute"),
        ("=", "op"), ("f", "function"), ("(", "op"), ("a", "variable"), (",", "op"), ("b", "argument"), ("=", "op"), ("os", "variable"), (")", "op"),
    ]  # fmt: skip
    assert ("C", "class") in found[2]


def test_a_mackey_glass_series_obeys_its_equation():
    x = examples.mackey_glass(600)
    assert x.std() > 0.15
    slope = (x[19:] - x[17:-2]) / 2  # at 18, 19, ...
    late = x[1:-18]
    assert slope == pytest.approx(0.2 * late / (1 + late**10) - 0.1 * x[18:-1], abs=0.012)


# What is refused


REFUSED: dict[str, tuple[list[Any], list[str]]] = {
    "a share of three": (["train", "forecast", "{series}", "--split", "0.5,0.5"], ["--split", "0.5,0.5"]),
    "shares beyond one": (["train", "forecast", "{series}", "--split", "0.8,0.3,0.1"], ["--split", "0.8,0.3,0.1"]),
    "nothing to learn from": (["train", "forecast", "{series}", "--split", "0,0.5,0.5"], ["--split", "0,0.5,0.5"]),
    "a split of words": (["train", "forecast", "{series}", "--split", "a,b,c"], ["--split", "'a'"]),
    "a split that is nan": (["train", "forecast", "{series}", "--split", "nan,1,1"], ["--split", "nan"]),
    "more rows than there are": (["train", "forecast", "{series}", "--group", "group", "--split", "300,20,20"], ["--split 300,20,20 needs 340 rows", "240"]),
    "quantiles that fall": (["train", "forecast", "{series}", "--quantiles", "0.9,0.1"], ["--quantiles", "0.9,0.1"]),
    "a quantile of one": (["train", "forecast", "{series}", "--quantiles", "0.5,1"], ["--quantiles", "0.5,1"]),
    "a lookback of no segments": (["train", "forecast", "{series}", "--lookback", "100"], ["--lookback 100", "--segment 24", "use 96"]),
    "a season beyond the past": (["train", "forecast", "{series}", "--period", "400"], ["--period 400", "--lookback 336"]),
    "too few rows": (["train", "forecast", "{series}", "--group", "group", "--time", "hour"], ["336", "--lookback"]),
    "an unknown strategy": (["train", "forecast", "{series}", "--strategy", "guess"], ["'guess'", "direct, recursive"]),
    "an unknown loss": (["train", "forecast", "{series}", "--loss", "mape"], ["'mape'", "mae, mse, huber"]),
    "a column that is none": (["train", "forecast", "{series}", "--columns", "z"], ["no column 'z'"]),
    "an unknown group": (["train", "forecast", "{series}", "--group", "shop"], ["no column 'shop'"]),
    "one series, not two": (["train", "forecast", "{series}", "--columns", "y", "--time", "hour"], ["earlier time", "line 242"]),
    "a text for a table": (["train", "forecast", "{tagged}"], ["{tagged}", "does not end in .csv"]),
    "no table": (["train", "forecast", "{none}.csv"], ["{none}.csv", "No such file"]),
    "a projected cell": (["train", "forecast", "--cell", "projected_lstm"], ["'projected_lstm'"]),
    "an unknown tag column": (["train", "tag", "{tagged}", "--tag", "lemma"], ["'lemma'", "upos, xpos, deprel"]),
    "sentences without tags": (["train", "tag", "{bare}"], ["{bare}, line 1", "a word and its tag"]),
    "no sentences": (["train", "tag", "{empty}"], ["{empty}", "0 sentences"]),
    "one sentence": (["train", "tag", "{one}"], ["{one} has 1 sentences"]),
    "no validation": (["train", "tag", "{tagged}", "--validation", "{none}"], ["{none}", "No such file"]),
    "validation without sentences": (["train", "tag", "{tagged}", "--validation", "{empty}"], ["{empty} has no sentence"]),
    "no such sentences": (["train", "tag", "{none}"], ["{none}", "No such file"]),
    "a min-count of 0": (["train", "tag", "{tagged}", "--min-count", "0"], ["--min-count", "got 0"]),
    "a word dropout of -1": (["train", "tag", "{tagged}", "--word-dropout", "-1"], ["--word-dropout", "got -1"]),
    "a sequence of no column": (["train", "classify", "{series}", "--sequence", "z"], ["no column 'z'"]),
    "a table of what": (["train", "classify", "{series}"], ["--sequence", "--text"]),
    "texts and sequences": (["train", "classify", "{series}", "--text", "y", "--sequence", "group"], ["--text", "--sequence"]),
    "a label for a sequence": (["train", "classify", "{series}", "--sequence", "y", "--label", "y"], ["--sequence and --label both name the column 'y'; name another one"]),
    "a label for a text": (["train", "classify", "{series}", "--text", "label"], ["--text and --label both name the column 'label'; name another one"]),
    "a label for a channel": (["train", "classify", "{series}", "--sequence", "group", "--label", "push", "--columns", "y,push"], ["--label and --columns both name the column 'push'; name another one"]),
    "a channel twice": (["train", "classify", "{series}", "--sequence", "group", "--columns", "y,push,y"], ["--columns names the column 'y' twice; name it once"]),
    "a target that is known": (["train", "forecast", "{series}", "--time", "hour", "--columns", "y", "--known", "y"], ["--columns and --known both name the column 'y'; name another one"]),
    "a target twice": (["train", "forecast", "{series}", "--columns", "y,y"], ["--columns names the column 'y' twice; name it once"]),
    "one class": (["train", "classify", "{alike}"], ["only one class, 'a'"]),
    "no two of a class": (["train", "classify", "{single}"], ["two of each class"]),
    "noise of -1": (["train", "classify", "{waves}", "--noise", "-1"], ["--noise", "-1"]),
    "an unknown unit of text": (["train", "classify", "{waves}", "--unit", "bpe"], ["'bpe'", "words, characters"]),
    "smoothing of 1": (["train", "classify", "{waves}", "--smoothing", "1"], ["--smoothing", "1"]),
    "best by luck": (["train", "classify", "{waves}", "--best-by", "luck"], ["'luck'", "accuracy, macro_f1"]),
    "two ways to judge": (["train", "tag", "{tagged}", "--validation", "{tagged}", "--held-out", "0.2"], ["--validation", "--held-out"]),
    "two ways to judge a search": (["tune", "lm", "--validation", "{tagged}", "--held-out", "0.2"], ["--validation", "--held-out"]),
    "two losses": (["train", "forecast", "{series}", "--quantiles", "0.5", "--loss", "mse"], ["--quantiles", "--loss mse"]),
    "quantiles and a loss": (["train", "forecast", "{series}", "--quantiles", "0.5", "--loss", "mae"], ["--loss", "--quantiles"]),
    "columns of no file": (["train", "forecast", "--columns", "x"], ["--columns", "no FILE is given"]),
    "known columns of no file": (["train", "forecast", "--known", "x"], ["--known", "no FILE is given"]),
    "times of no file": (["tune", "forecast", "--time", "date"], ["--time", "no FILE is given"]),
    "groups of no file": (["train", "forecast", "--group", "shop"], ["--group", "no FILE is given"]),
    "a label of no file": (["train", "classify", "--label", "kind"], ["--label", "no FILE is given"]),
    "a text of no file": (["train", "classify", "--text", "body"], ["--text", "no FILE is given"]),
    "a sequence of no file": (["train", "classify", "--sequence", "id"], ["--sequence", "no FILE is given"]),
    "a label in an archive": (["train", "classify", "{none}.ts", "--label", "kind"], ["--label", "{none}.ts"]),
    "noise for texts": (["train", "classify", "{series}", "--text", "y", "--noise", "0.3"], ["--noise is for numbers", "--text"]),
    "noise for texts in a search": (["tune", "classify", "{series}", "--text", "y", "--noise", "0.3"], ["--noise is for numbers", "--text"]),
    "embeddings of numbers": (["train", "classify", "{waves}", "--embedding-size", "64"], ["--embedding-size is for --text", "--categories"]),
    "words of numbers": (["train", "classify", "--unit", "words"], ["--unit is for texts", "--text"]),
    "words of numbers, and a rate": (["train", "classify", "{waves}", "--unit", "words", "--find-lr"], ["--unit is for texts"]),
    "a column of no columns": (["train", "tag", "{tagged}", "--tag", "xpos"], ["--tag xpos", "{tagged}", ".conllu"]),
    "a column of code": (["train", "tag", "--tag", "xpos"], ["--tag xpos", "standard library"]),
    "columns of no table": (["train", "classify", "{waves}", "--columns", "x"], ["{waves} is not a table", "--columns"]),
    "a sequence of no table": (["train", "classify", "{waves}", "--sequence", "x"], ["{waves} is not a table", "--sequence"]),
    "a rate in half precision": (["train", "classify", "{waves}", "--find-lr", "--precision", "bf16"], ["--find-lr", "--precision bf16"]),
    "a rate found for no run": (["train", "classify", "{waves}", "--find-lr", "--run", "{none}"], ["--find-lr", "--run"]),
    "a search of no data": (["tune", "tag", "{none}", "--directory", "{none}-tune"], ["{none}", "No such file"]),
    "predicting onto a directory": (["predict", "{tag}", "{tagged}", "--output", "{classify}.csv"], ["{classify}.csv", "it is a directory"]),
    "resuming as another task": (["train", "tag", "--resume", "{classify}"], ["'tag'", "'classify'"]),
    "resuming with options": (["train", "classify", "--resume", "{classify}", "--noise", "1"], ["--noise cannot be given"]),
    "sampling from a tagger": (["sample", "{tag}"], ["'tag'"]),
    "predicting into a picture": (["predict", "{tag}", "{tagged}", "--output", "{none}.png"], ["{none}.png", ".csv"]),
    "predicting classes as sentences": (["predict", "{classify}", "{waves}", "--output", "{none}.conllu"], ["{none}.conllu", ".csv, .jsonl, .ndjson"]),
    "predicting values between tabs": (["predict", "{forecast}", "{series}", "--output", "{none}.tsv"], ["{none}.tsv", ".csv"]),
    "predicting CoNLL-U from words": (["predict", "{tag}", "{tagged}", "--output", "{none}.conllu"], ["{none}.conllu", ".txt"]),
    "predicting into nowhere": (["predict", "{tag}", "{tagged}", "--output", "{none}/a.csv"], ["{none}/a.csv", "No such file"]),
    "predicting what is not there": (["predict", "{tag}", "{none}"], ["{none}", "No such file"]),
    "predicting from no run": (["predict", "{none}", "{tagged}"], ["{none} does not exist; give the directory of a run, or the file"]),
    "one channel for two": (["predict", "{classify}", "{alike}"], ["1 channels", "trained on 2"]),
    "too few rows to forecast from": (["predict", "{forecast}", "{little}"], ["5 rows of 'a'", "reads the last 12"]),
    "nothing known ahead": (["predict", "{forecast}", "{series}"], ["0 rows of 'a' with push", "needs 6"]),
    "no windows to judge": (["evaluate", "{forecast}", "{little}"], ["5 rows in its longest series", "18"]),
    "evaluating without labels": (["evaluate", "{tag}", "{bare}"], ["{bare}, line 1"]),
    "evaluating bad rows": (["evaluate", "{classify}", "{bad}"], ["{bad}, line 2", "; correct it\n"]),
    "evaluating a series with gaps": (["evaluate", "{forecast}", "{gaps}"], ["missing before it", "; fill it in\n"]),
    "evaluating a table as sequences": (["evaluate", "{classify}", "{series}"], ["{series} is a table, and the run was not trained on one"]),
    "predicting a word for a number": (["predict", "{forecast}", "{word}"], ["{word}, line 3", "'high'"]),
}  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        LanguageModelOptions(),
        ClassificationOptions(),
        ClassificationOptions(text="a"),
        ForecastingOptions(quantiles="0.5"),
    ],
)
def test_what_is_useless_is_an_option(options: Any):
    found = options.useless(None)
    assert found
    assert found.keys() <= asdict(options).keys()


def test_from_python_nothing_is_useless(made: SimpleNamespace, tmp_path: Path):
    """There an option that says nothing to the data has a value in any case."""
    (tmp_path / "texts.csv").write_text("words,label\n" + "good day,a\nbad night,b\n" * 8)
    for path, text in ((made.directory / "waves.jsonl", None), (tmp_path / "texts.csv", "words")):
        options = options_of(ClassificationOptions, text=text, unit="characters", embedding_size=3, noise=1.0)
        task = classification.begin(path, options, "cpu", BadRows())
        assert float(next(task.batches(0, 0)).loss().detach()) > 0


@pytest.fixture(scope="module")
def places(made: SimpleNamespace) -> dict[str, str]:
    d = made.directory
    contents = {
        "bare.txt": "the\ncat\n\n",
        "empty.txt": "",
        "one.txt": "the\tDET\n",
        "alike.jsonl": '{"values": [1, 2], "label": "a"}\n' * 5,
        "single.jsonl": '{"values": [1, 2], "label": "a"}\n{"values": [1, 2], "label": "b"}\n',
        "bad.jsonl": '{"values": [[1, 2]], "label": "rises"}\n{"values": ["x"], "label": "rises"}\n',
        "gaps.csv": "group,hour,push,y\n" + "".join(f"a,{t},1,2\n" for t in range(40) if t not in (20, 21, 22)),
        "word.csv": "group,hour,push,y\na,0,1,2\na,1,1,high\n",
        "little.csv": "group,hour,push,y\n" + "".join(f"a,{t},1,2\n" for t in range(5)),
    }
    for name, content in contents.items():
        (d / name).write_text(content)
    (d / "classify.csv").mkdir()
    names = ("tagged.txt", "waves.jsonl", "series.csv", *contents)
    found = {name.split(".")[0]: str(d / name) for name in names} | {"none": str(d / "none")}
    return found | {name: str(d / name) for name in TASKS}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_ends_with_one_sentence(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
):
    monkeypatch.chdir(tmp_path)
    named = any("{" in part for part in REFUSED[case][0])  # some cases name no file, and need none to be made
    places: dict[str, str] = request.getfixturevalue("places") if named else {}
    arguments, mentions = ([part.format(**places) for part in parts] for parts in REFUSED[case])
    status, out, err = elman(*arguments)
    assert (status, out) == (2, ""), err
    assert re.fullmatch(r"elman: [^\n]+\n", err)
    for mention in mentions:
        assert mention in err
    assert foreign_options(arguments, err) == set()
    assert list(tmp_path.iterdir()) == []


DAMAGED = {
    "half a vocabulary": ("tag", "vocabulary.json", lambda text: text[: len(text) // 2], "is damaged"),
    "a count too few": ("tag", "vocabulary.json", lambda text: json.dumps(json.loads(text) | {"counts": [1]}), "do not fit"),
    "no tags": ("tag", "vocabulary.json", lambda text: json.dumps(json.loads(text) | {"tags": []}), "do not fit"),
    "a tag more": ("tag", "vocabulary.json", lambda text: json.dumps(json.loads(text) | {"tags": ["A", "B", "C", "D"]}), "does not fit its config.json"),
    "no classes": ("classify", "vocabulary.json", lambda text: json.dumps(json.loads(text) | {"classes": []}), "has no classes"),
    "a channel less": ("classify", "vocabulary.json", lambda text: json.dumps(json.loads(text) | {"mean": [0.0]}), "do not fit"),
    "a name too many": ("classify", "vocabulary.json", lambda text: json.dumps(json.loads(text) | {"more": 1}), "is damaged"),
    "a name for one of two": ("classify", "vocabulary.json", lambda text: json.dumps(json.loads(text) | {"channels": ["a"]}), "do not fit"),
    "no scales": ("forecast", "scales.json", lambda text: "{}", "is damaged"),
    "half a scale": ("forecast", "scales.json", lambda text: json.dumps((old := json.loads(text)) | {"series": old["series"] | {"b": [[1.0]]}}), "the numbers of 'b' do not fit"),
    "no table of scales": ("forecast", "scales.json", lambda text: json.dumps(json.loads(text) | {"series": ["a"]}), "is damaged"),
    "a scale less": ("forecast", "scales.json", lambda text: json.dumps(json.loads(text) | {"mean": [0.0]}), "do not fit"),
    "another size": ("forecast", "config.json", lambda text: text.replace('"hidden_size": 8', '"hidden_size": 9'), "does not fit its config.json"),
    "an option of another type": ("forecast", "config.json", lambda text: text.replace('"fill_gaps": false', '"fill_gaps": 0'), "fill_gaps is 0"),
    "an unknown task": ("forecast", "config.json", lambda text: text.replace('"task": "forecast"', '"task": "cook"'), "'cook'"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_run_ends_with_one_sentence(made: SimpleNamespace, tmp_path: Path, case: str):
    import shutil

    name, file, damage, message = DAMAGED[case]
    run = shutil.copytree(made.directory / name, tmp_path / "run")
    text = (run / file).read_text()
    (run / file).write_text(damage(text))
    assert (run / file).read_text() != text
    data = {"tag": "tagged.txt", "classify": "waves.jsonl", "forecast": "series.csv"}[name]
    status, out, err = elman("predict", run, made.directory / data)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"elman: [^\n]+\n", err)
    assert message in err
