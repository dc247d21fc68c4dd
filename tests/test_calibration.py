"""Probabilities of classes that are right as often as they say."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from elman.tasks import calibration, classification
from elman.tasks.calibration import Reliability, temperature
from elman.training.run import MODEL, Run
from tiny_runs import elman, lines


def drawn(n: int, classes: int, hot: float, seed: int = 0) -> tuple[Tensor, np.ndarray]:
    """Logits, and labels that are drawn with the probabilities softmax(logits / hot)."""
    draw = np.random.default_rng(seed)
    logits = 3 * draw.normal(size=(n, classes))
    noise = draw.gumbel(size=(n, classes))
    return torch.from_numpy(logits).float(), (logits / hot + noise).argmax(1)


@pytest.mark.parametrize("hot", [0.1, 1.0, 5.0])
def test_the_temperature_that_made_the_labels_is_found(hot: float) -> None:
    assert temperature(*drawn(20_000, 4, hot)) == pytest.approx(hot, rel=0.05)


@pytest.mark.parametrize(("n", "classes", "hot"), [(20, 2, 0.3), (100, 3, 1.0), (300, 5, 20.0), (50, 3, 1e-3)])
def test_it_costs_the_fewest_nats(n: int, classes: int, hot: float) -> None:
    """By a search that knows nothing of derivatives; torch's smoothing of 1 / (n + 1) stands for one more label."""
    logits, labels = drawn(n, classes, hot, seed=n)
    logits, target = logits.double(), torch.from_numpy(labels)

    def cost(log: float) -> float:
        return float(cross_entropy(logits * np.exp(log), target, label_smoothing=1 / (n + 1)))

    low, high = np.log(1e-3), np.log(1e3)
    for _ in range(200):
        a, b = low + 0.382 * (high - low), low + 0.618 * (high - low)
        low, high = (low, b) if cost(a) < cost(b) else (a, high)
    assert temperature(logits, labels) == pytest.approx(np.exp(-low), rel=1e-4)


def test_labels_that_are_all_right_are_not_certain() -> None:
    logits = torch.eye(3).repeat(20, 1) * 0.1
    labels = np.tile(np.arange(3), 20)
    chances = (logits / temperature(logits, labels)).softmax(1).max(1).values
    assert chances.numpy() == pytest.approx((60 + 1 / 3) / 61, abs=1e-6)


def test_what_says_nothing_of_probabilities() -> None:
    logits, labels = drawn(calibration.LEAST - 1, 3, 0.1)
    assert temperature(logits, labels) == 1
    assert temperature(logits[:0], labels[:0]) == 1
    hot = temperature(-logits.repeat(9, 1), np.tile(logits.argmax(1).numpy(), 9))  # always wrong
    assert 0 < 1 / hot < 0.01
    assert np.isfinite(temperature(torch.ones(50, 3), np.zeros(50, np.int64)))
    assert np.isfinite(temperature(torch.full((50, 3), 1e30) * torch.eye(3)[:1], np.zeros(50, np.int64)))


def test_of_many_labels_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = drawn(6000, 3, 0.5)
    monkeypatch.setattr(calibration, "MOST", 9000)
    some = temperature(logits, labels)
    assert some != temperature(logits[:-1], labels[:-1])
    assert some == pytest.approx(0.5, rel=0.1)


def test_bins_by_hand() -> None:
    chances, right = np.linspace(0.5, 0.99, 60), np.arange(60) > 25
    order = np.random.default_rng(0).permutation(60)
    logits = torch.from_numpy(np.stack([np.log(chances), np.log(1 - chances)], 1))[order]
    found = Reliability.of(logits, np.where(right, 0, -1)[order])  # -1: a class that the training lacks
    assert found.labels.tolist() == [20, 20, 20]
    for k in range(3):
        own = slice(20 * k, 20 * k + 20)
        assert (found.sure[k], found.right[k]) == pytest.approx((chances[own].mean(), right[own].mean()))
    error = np.mean([abs(chances[i : i + 20].mean() - right[i : i + 20].mean()) for i in (0, 20, 40)])
    assert found.error == pytest.approx(error)
    assert found.means == pytest.approx((chances.mean(), right.mean()))
    few = Reliability.of(logits[:7], np.zeros(7, np.int64))
    assert (len(few.labels), few.right[0]) == (1, 1)


# Runs


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Sequences whose class is easily seen, but for one of five, whose label is another one; and a run."""
    folder, draw = tmp_path_factory.mktemp("calibration"), np.random.default_rng(0)

    def written(name: str, count: int) -> Path:
        kinds, wrong = draw.integers(0, 2, count), draw.random(count) < 0.2
        rows = [
            {"values": (draw.normal(size=6) + 4 * k).round(3).tolist(), "label": "ab"[k ^ w]}
            for k, w in zip(kinds.tolist(), wrong.tolist(), strict=True)
        ]
        (folder / name).write_text(lines(*map(json.dumps, rows)))
        return folder / name

    data, new = written("data.jsonl", 300), written("new.jsonl", 400)
    arguments = ("--hidden-size", 6, "--cell", "gru", "--smoothing", 0.6, "--epochs", 8, "--held-out", 0.3)
    done = elman("train", "classify", data, "--run", folder / "run", *arguments)
    assert done.status == 0, done.err
    return SimpleNamespace(folder=folder, data=data, new=new, run=folder / "run", arguments=arguments)


def chances_of(run: Path, data: Path) -> np.ndarray:
    rows = csv.DictReader(io.StringIO(elman("predict", run, data).out))
    return np.array([[float(row["p_a"]), float(row["p_b"])] for row in rows])


def labels_of(data: Path) -> np.ndarray:
    return np.array(["ab".index(json.loads(line)["label"]) for line in data.read_text().splitlines()])


def test_probabilities_are_right_as_often_as_they_say(made: SimpleNamespace) -> None:
    """Of new data, though the network has learned to be unsure."""
    chances, labels = chances_of(made.run, made.new), labels_of(made.new)
    right = (chances.argmax(1) == labels).mean()
    assert right > 0.7
    assert chances.max(1).mean() == pytest.approx(right, abs=0.06)
    kept = load_file(made.run / MODEL)
    assert kept["temperature"] < 0.8
    sharp = chances ** float(kept["temperature"])  # as the network was taught
    assert (sharp / sharp.sum(1, keepdims=True)).max(1).mean() < right - 0.06


def test_what_evaluate_says(made: SimpleNamespace) -> None:
    chances, labels = chances_of(made.run, made.new), labels_of(made.new)
    sure, right = chances.max(1), chances.argmax(1) == labels
    order = np.argsort(sure, kind="stable")
    bins = np.array_split(order, 15)
    error = sum(len(own) * abs(sure[own].mean() - right[own].mean()) for own in bins) / len(order)
    out = elman("evaluate", made.run, made.new).out
    (told,) = [line.split(None, 2)[2] for line in out.splitlines() if line.startswith("calibration error")]
    figures = [float(figure) for figure in re.findall(r"\d\.\d+", told)]
    assert figures == pytest.approx([error, sure.mean(), right.mean()], abs=1.1e-4)
    nats = -np.log(chances[np.arange(len(labels)), labels]).mean()
    assert f"nats per sequence    {nats:.4f} (" in out


def test_training_tells_the_nats_of_what_it_keeps(made: SimpleNamespace) -> None:
    """Those of the validation sequences, with the temperature; the loaded model has it in its last layer."""
    run = Run(made.run)
    trained = classification.load(made.run)
    _, notes = run.load_tensors(MODEL)
    (row,) = [row for row in run.metrics() if int(row["step"]) == notes["step"]]
    parts = trained.parts()
    encoded = classification.Classes(parts.sequences, trained.reading)
    scores, _ = trained.score(encoded, *trained.judged(encoded, parts.validation))
    assert scores["validation_nats"].value == pytest.approx(float(row["validation_nats"]), rel=1e-4)
    kept = load_file(made.run / MODEL)
    assert trained.model.temperature == 1
    for name in ("weight", "bias"):
        own = getattr(trained.model.output, name).detach()
        assert torch.equal(own, kept[f"output.{name}"] / kept["temperature"])
    logits, labels = trained.outputs(encoded, parts.validation), encoded.labels[encoded.all_places(parts.validation)]
    assert temperature(logits, labels) == pytest.approx(1, abs=1e-4)  # no other one is better


def test_a_run_of_an_earlier_version_says_what_it_said(made: SimpleNamespace, tmp_path: Path) -> None:
    old = shutil.copytree(made.run, tmp_path / "old")
    kept = load_file(old / MODEL)
    hot = float(kept.pop("temperature"))
    with safe_open(old / MODEL, "pt") as file:
        notes = file.metadata()
    save_file(kept, old / MODEL, notes)
    raw = np.log(chances_of(made.run, made.new)) * hot
    expected = np.exp(raw) / np.exp(raw).sum(1, keepdims=True)
    assert chances_of(old, made.new) == pytest.approx(expected, abs=1e-5)


def test_a_training_that_starts_from_a_run_begins_with_its_own_layer(made: SimpleNamespace, tmp_path: Path) -> None:
    """And not with one that is divided: it would be so once more with each start."""
    done = elman(
        "train", "classify", made.data, "--run", tmp_path / "new", "--start-from", made.run, "--epochs", 0.01,
        "--learning-rate", 1e-9, "--smoothing", 0.6, "--held-out", 0.3,
    )  # fmt: skip
    assert done.status == 0, done.err
    old, new = load_file(made.run / MODEL), load_file(tmp_path / "new" / MODEL)
    assert torch.allclose(old["output.weight"], new["output.weight"], atol=1e-6)
    assert new["temperature"] == pytest.approx(float(old["temperature"]), rel=1e-3)


def test_an_exported_model_has_it_onnx(made: SimpleNamespace, tmp_path: Path) -> None:
    done = elman("export", made.run, tmp_path / "model.onnx")
    assert done.status == 0, done.err
    chances = chances_of(made.run, made.new)
    assert chances_of(tmp_path / "model.onnx", made.new) == pytest.approx(chances, abs=1e-5)
    done = elman("export", made.run, tmp_path / "small.onnx", "--int8")
    assert done.status == 0, done.err
    after, before = re.findall(
        r"^validation +([\d.]+) nats per sequence in integers, ([\d.]+) before", done.out, re.MULTILINE
    )[0]
    (best,) = [
        row["validation_nats"]
        for row in Run(made.run).metrics()
        if int(row["step"]) == Run(made.run).load_tensors(MODEL)[1]["step"]
    ]
    assert float(before) == pytest.approx(float(best), abs=1e-4)
    assert float(after) == pytest.approx(float(before), rel=0.05)
