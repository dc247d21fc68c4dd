"""The examples run as they are, shortened; and what they lean on outside the tested core."""

from __future__ import annotations

import math
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.utils.parametrize import register_parametrization

import elman
from elman.initialise import gate_bias

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


def test_adding_problem(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Short enough for tests, a GRU already beats chance by far."""
    module = runpy.run_path(str(EXAMPLES / "adding_problem.py"))
    assert module["train"](elman.cells.gru, length=12, updates=600) < module["CHANCE"] / 3
    out = run("adding_problem.py", "--length", "10", "--updates", "3", monkeypatch=monkeypatch, capsys=capsys)
    verdicts = [line for line in out.splitlines() if "chance" in line]
    assert [line.split(":")[0] for line in verdicts] == ["rnn", "lstm", "gru"]


def test_adding_problem_data() -> None:
    x, y = runpy.run_path(str(EXAMPLES / "adding_problem.py"))["batch"](50, 200)
    assert x.shape == (50, 200, 2)
    numbers, marks = x.unbind(-1)
    assert (marks[:25].sum(0) == 1).all()
    assert (marks[25:].sum(0) == 1).all()
    torch.testing.assert_close((numbers * marks).sum(0), y)
    assert abs(float(y.var()) - 1 / 6) < 0.06


def test_sine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = run("sine.py", "--steps", "6000", "--ahead", "20", monkeypatch=monkeypatch, capsys=capsys)
    errors = [float(line.split("squared error ")[1].split()[0]) for line in out.splitlines() if "ahead" in line]
    assert len(errors) == 2
    assert errors[0] < errors[1] / 4


def test_tagger(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One import is changed, and the losses are the same."""
    losses = []
    for library in ("torch.nn", "elman"):
        arguments = ["--library", library, "--hidden", "16", "--steps", "20", "--updates", "12"]
        out = run("tagger.py", *arguments, monkeypatch=monkeypatch, capsys=capsys)
        losses.append([float(line.split("loss ")[1].split()[0]) for line in out.splitlines() if "loss" in line])
        assert f"{library}: " in out
    assert len(losses[0]) == 6
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_gate_bias_sets_what_the_gate_sees(bidirectional: bool) -> None:
    layer = elman.LSTM(3, 5, num_layers=2, bidirectional=bidirectional)
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if name.startswith("weight"):
                weight.zero_()
    before = {name: bias.clone() for name, bias in layer.named_parameters()}
    spans = torch.linspace(-2, 2, 5)
    gate_bias(layer, f=1.5, i=spans)
    gates = [recurrence.gates for recurrence in elman.trace(layer, torch.randn(4, 2, 3)).recurrences]
    assert len(gates) == 4 if bidirectional else 2
    for each in gates:
        torch.testing.assert_close(each["f"], torch.full_like(each["f"], 1 / (1 + math.exp(-1.5))))
        torch.testing.assert_close(each["i"], spans.sigmoid().expand_as(each["i"]))
    for name, bias in layer.named_parameters():  # i f g o: the rows of g and o are as they were
        if name.startswith("bias"):
            assert torch.equal(bias[10:], before[name][10:])


def test_gate_bias_refuses() -> None:
    with pytest.raises(ValueError, match=r"gru has gates r, z, n, not f"):
        gate_bias(elman.GRU(3, 5), f=1.0)
    with pytest.raises(ValueError, match="no biases"):
        gate_bias(elman.LSTM(3, 5, bias=False), f=1.0)
    parametrized = elman.LSTM(3, 5)
    register_parametrization(parametrized, "bias_ih_l0", torch.nn.Identity())
    with pytest.raises(ValueError, match="bias_ih_l0 is computed by a parametrization"):
        gate_bias(parametrized, f=1.0)
    frozen = elman.freeze(elman.LSTM(3, 5))
    with pytest.raises(ValueError, match="a frozen layer keeps its weights; set the biases of the layer that"):
        gate_bias(frozen, f=1.0)
