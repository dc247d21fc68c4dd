"""Predicted quantiles that hold as many true values as they say: each is shifted by the errors of the validation."""

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

from elman.tasks import regression, values
from elman.tasks.regression import Values
from elman.tasks.values import Criterion
from elman.training.loop import CHECKPOINT
from elman.training.run import MODEL, Run
from tiny_runs import elman, lines

QUANTILES = (0.05, 0.5, 0.9)


def drawn(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Outputs that are far from the quantiles, and true values."""
    draw = np.random.default_rng(seed)
    center = draw.normal(size=n)
    outputs = np.stack([center - 0.1, center + 0.5, center + 9], 1)
    return torch.from_numpy(outputs), torch.from_numpy(center + draw.exponential(size=n))


@pytest.mark.parametrize("n", [20, 63])
def test_new_values_are_below_as_often_as_they_should_be(n: int) -> None:
    """Also after few values, of which the greatest is not the greatest of all."""
    criterion, shares = Criterion("mae", QUANTILES), []
    for seed in range(300):
        (outputs, truth), (others, new) = drawn(n, seed), drawn(400, 1000 + seed)
        shares.append(criterion.below(others + criterion.shift(outputs, truth), new) / 400)
    assert torch.stack(shares).mean(0).tolist() == pytest.approx(QUANTILES, abs=0.012)


def test_a_quantile_beyond_all_errors_is_only_moved_out() -> None:
    """Of 60 values that are alike, even the greatest is not often above one that 99 of 100 are below."""
    criterion, near, far = (
        Criterion("mae", (0.01, 0.5, 0.99)),
        torch.zeros(60, 3),
        torch.tensor([-9.0, 0, 9]).repeat(60, 1),
    )
    truth = torch.linspace(-1, 2, 60)
    assert criterion.shift(near, truth).tolist() == pytest.approx([-1, 0.5, 2])
    assert criterion.shift(far, truth).tolist() == pytest.approx([0, 0.5, 0])


def test_what_says_nothing_of_quantiles() -> None:
    criterion = Criterion("mae", QUANTILES)
    outputs, truth = drawn(values.LEAST, 0)
    assert criterion.shift(outputs, truth).all()
    truth[0] = torch.nan
    assert not criterion.shift(outputs, truth).any()
    outputs, truth = drawn(200, 0)
    missing = truth.clone()
    missing[::2] = torch.nan
    assert criterion.shift(outputs, missing).equal(criterion.shift(outputs[1::2], truth[1::2]))
    for bad in (torch.inf, torch.nan):
        outputs[3, 1] = bad
        assert not criterion.shift(outputs, truth).any()


# Runs


def written(path: Path, count: int, seed: int) -> Path:
    """Sequences with two values, each the mean of the steps and noise of its own kind; one of three lacks the second."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(count, 6)).round(3)
    noise = np.stack([draw.normal(size=count), draw.exponential(size=count) ** 2], 1)
    y = (x.mean(1)[:, None] * [10, -500] + noise * [10, 500]).round(4)
    rows = [{"values": row, "a": a, "b": b} for row, (a, b) in zip(x.tolist(), y.tolist(), strict=True)]
    for row in rows[::3]:
        row["b"] = None
    path.write_text(lines(*map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of a network that has learned so little that all of its quantiles are close to the mean."""
    folder = tmp_path_factory.mktemp("shift")
    data, new = written(folder / "data.jsonl", 900, 0), written(folder / "new.jsonl", 800, 1)
    shared, sizes = ("--label", "a,b", "--held-out", 0.5), ("--hidden-size", 6, "--cell", "gru", "--batch-size", 64)
    quantiles = ("--quantiles", "0.05,0.5,0.9", "--epochs", 1)
    done = elman("train", "regress", data, "--run", folder / "run", *shared, *sizes, *quantiles)
    assert done.status == 0, done.err
    return SimpleNamespace(folder=folder, data=data, new=new, run=folder / "run", shared=shared, out=done.out)


def said_of(run: Path, data: Path) -> np.ndarray:
    """The quantiles of both values of all sequences, (N, 2, Q)."""
    rows = csv.DictReader(io.StringIO(elman("predict", run, data).out))
    return np.array([[float(value) for name, value in row.items() if "_q" in name] for row in rows]).reshape(-1, 2, 3)


def truth_of(data: Path) -> np.ndarray:
    rows = map(json.loads, data.read_text().splitlines())
    return np.array([[row["a"], row["b"]] for row in rows], float)


def test_quantiles_hold_what_they_say(made: SimpleNamespace) -> None:
    """Of new data, and without the shift not at all. What `evaluate` says is what there is."""
    said, truth, run = said_of(made.run, made.new), truth_of(made.new), regression.load(made.run)
    shift = load_file(made.run / MODEL)["shift"].numpy().reshape(2, 3) * np.array(run.reading.spread)[:, None]
    out = elman("evaluate", made.run, made.new).out
    for k, name in enumerate("ab"):
        there = ~np.isnan(truth[:, k])
        share, raw = ((truth[there, k, None] <= each).mean(0) for each in (said[there, k], said[there, k] - shift[k]))
        assert share == pytest.approx(QUANTILES, abs=0.07)
        assert raw[0] > 0.2
        told = ", ".join(f"{part:.1%} for {q}" for part, q in zip(share, QUANTILES, strict=True))
        assert re.search(rf"^quantiles of {name} +{told} of {there.sum()} true values$", out, re.MULTILINE)
    own = re.findall(r"^quantiles of . .* true values, by which they were shifted$", made.out, re.MULTILINE)
    assert len(own) == 2


def test_training_tells_the_scores_of_what_it_keeps(made: SimpleNamespace) -> None:
    """Those of the validation values, with the shift; the loaded model has it in its last layer."""
    run, trained, kept = Run(made.run), regression.load(made.run), load_file(made.run / MODEL)
    _, notes = run.load_tensors(MODEL)
    (row,) = [row for row in run.metrics() if int(row["step"]) == notes["step"]]
    parts = trained.parts()
    encoded = Values(parts.sequences, trained.reading)
    places, said = trained.judged(encoded, parts.validation)
    truth = encoded.values[torch.from_numpy(places)]
    found = regression.scored(trained.criterion, said, truth, encoded.units(places))
    for name, tally in found.items():
        assert tally.value == pytest.approx(float(row[name]), rel=1e-5)
    (told,) = re.findall(r"^pinball +([\d.]+) ", made.out, re.MULTILINE)  # by the model as it was trained
    assert float(told) == pytest.approx(found["validation_pinball"].value, abs=1e-4)
    assert not trained.model.shift.any()
    assert torch.equal(trained.model.output.bias, kept["output.bias"] + kept["shift"])
    assert torch.equal(trained.model.output.weight, kept["output.weight"])
    outputs = trained.outputs(encoded, parts.validation).unflatten(-1, (2, 3))  # which may not rise
    for k in range(2):  # no other shift is better
        assert trained.criterion.shift(outputs[:, k], truth[:, k]).abs().max() < 1e-6


def test_a_run_of_an_earlier_version_says_what_it_said(made: SimpleNamespace, tmp_path: Path) -> None:
    old = shutil.copytree(made.run, tmp_path / "old")
    kept = load_file(old / MODEL)
    shift = kept.pop("shift")
    with safe_open(old / MODEL, "pt") as file:
        notes = file.metadata()
    save_file(kept, old / MODEL, notes)
    trained = regression.load(made.run)
    outputs = (trained.outputs(trained.read(made.new)[0]) - shift).unflatten(-1, (2, 3)).sort(-1).values
    assert said_of(old, made.new) == pytest.approx(np.array(trained.in_unit(outputs)), abs=0.02)


def test_a_training_that_starts_from_a_run_begins_with_its_own_layer(made: SimpleNamespace, tmp_path: Path) -> None:
    """And not with one that is shifted. After few values, by which nothing can be told, there is no shift."""
    few = written(tmp_path / "few.jsonl", 30, 2)
    old, brief = load_file(made.run / MODEL), ("--epochs", 0.01, "--learning-rate", 1e-9)
    for data, shift in ((made.data, old["shift"]), (few, torch.zeros(6))):
        arguments = ("--start-from", made.run, *made.shared, *brief, "--run", tmp_path / data.stem)
        done = elman("train", "regress", data, *arguments)
        assert done.status == 0, done.err
        new = load_file(tmp_path / data.stem / MODEL)
        torch.testing.assert_close(old["output.bias"], new["output.bias"], rtol=0, atol=1e-6)
        torch.testing.assert_close(shift, new["shift"], rtol=0, atol=1e-3)


def test_the_model_that_a_training_starts_from_is_judged_as_it_is(made: SimpleNamespace, tmp_path: Path) -> None:
    """With its own shift, and not with one by the new data."""
    shutil.copytree(made.run, tmp_path / "old")
    kept, notes = Run(tmp_path / "old").load_tensors(MODEL)
    kept["shift"] = kept["shift"] + 1
    Run(tmp_path / "old").save_tensors(MODEL, kept, notes)
    out = elman("evaluate", tmp_path / "old", made.new).out
    (said,) = re.findall(r"^pinball +([\d.]+) ", out, re.MULTILINE)
    given = ("--label", "a,b", "--validation", made.new, "--epochs", 0.01)
    done = elman("train", "regress", made.data, "--start-from", tmp_path / "old", *given, "--run", tmp_path / "new")
    assert re.search(rf"^start +{said} pinball", done.out, re.MULTILINE), done.out + done.err


def test_a_run_of_an_earlier_version_that_is_resumed_in_vain(made: SimpleNamespace, tmp_path: Path) -> None:
    """The best parameters stay the old ones, and are told without the shift of those that came later."""
    old = tmp_path / "old"
    done = elman(
        "train", "regress", made.data, "--run", old, *made.shared, "--quantiles", "0.05,0.5,0.9", "--hidden-size", 6,
        "--batch-size", 64, "--epochs", 1, "--evaluations", 2,
    )  # fmt: skip
    assert done.status == 0, done.err
    for name in (MODEL, CHECKPOINT):
        tensors, notes = Run(old).load_tensors(name)
        if name == CHECKPOINT:
            notes["place"]["best"] = -1.0  # which nothing reaches
        tensors = {key: tensor for key, tensor in tensors.items() if not key.endswith("shift")}
        Run(old).save_tensors(name, tensors, notes)
    done = elman("train", "regress", "--resume", old, "--epochs", 2)
    assert done.status == 0, done.err
    assert "shift" not in load_file(old / MODEL)
    trained = regression.load(old)
    parts = trained.parts()
    encoded = Values(parts.sequences, trained.reading)
    places, said = trained.judged(encoded, parts.validation)
    found = regression.scored(trained.criterion, said, encoded.values[torch.from_numpy(places)], encoded.units(places))
    (told,) = re.findall(r"^pinball +([\d.]+) ", done.out, re.MULTILINE)
    assert float(told) == pytest.approx(found["validation_pinball"].value, abs=1e-4)


def test_an_exported_model_has_it_onnx(made: SimpleNamespace, tmp_path: Path) -> None:
    done = elman("export", made.run, tmp_path / "model.onnx")
    assert done.status == 0, done.err
    spread = np.array(regression.load(made.run).reading.spread)[:, None]
    found, expected = (said_of(run, made.new) / spread for run in (tmp_path / "model.onnx", made.run))
    assert found == pytest.approx(expected, abs=1e-5)
    done = elman("export", made.run, tmp_path / "small.onnx", "--int8")
    assert done.status == 0, done.err
    after, before = re.findall(r"^validation +([\d.]+) pinball in integers, ([\d.]+) before", done.out, re.MULTILINE)[0]
    (best,) = re.findall(r"^validation +pinball ([\d.]+),", made.out, re.MULTILINE)
    assert before == best
    assert float(after) == pytest.approx(float(before), rel=0.02)
