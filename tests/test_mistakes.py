"""What people write by mistake in a cell, and what is said to them: word by word, and as docs/mistakes.md has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import elman
from elman import Cell, State
from mistakes import GOOD, SLIPS, Slip

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.before or slip.line)
def test_what_is_said(slip: Slip) -> None:
    assert slip.said() == slip.sentence


def test_the_list() -> None:
    assert len(SLIPS) >= 30
    assert len({slip.sentence for slip in SLIPS}) >= 30
    assert Slip("n", GOOD["n"], "").said() == "nothing"


def test_a_learned_number_is_refused() -> None:
    """It fits every size, and would run; but no engine knows of it, and it would get no gradient."""
    slope = torch.nn.Parameter(torch.tensor(0.5))
    with pytest.raises(TypeError, match="a learned tensor from outside"):
        elman.Recurrent(Cell(lambda x, R, s: State(h=x.a + slope * s.h), gates=("a",), name="mine"), 2, 3)


@pytest.mark.parametrize(
    ("fails", "dtype", "message"),
    [
        (
            lambda v: v.is_complex(),
            torch.complex64,
            r"h \(3, 3\) of torch.complex64: not here; make the layer of torch.float32",
        ),
        (
            lambda v: v.requires_grad,
            torch.float32,
            r"h \(3, 3\): not here; write functions that return new values, and have",
        ),
    ],
    ids=["complex", "gradients"],
)
def test_a_step_that_fails_on_other_values(fails: Callable[[Any], bool], dtype: torch.dtype, message: str) -> None:
    def mine(x, R, s):
        if fails(x.a):
            raise ValueError("not here")
        return State(h=torch.sin(x.a + R.a @ s.h))

    of = elman.Recurrent(Cell(mine, gates=("a",)), 2, 3, dtype=dtype)
    with elman.use_engine("reference"), pytest.raises(RuntimeError, match=f"fails on the state {message}"):
        of(torch.ones(4, 3, 2, dtype=dtype))


@pytest.mark.parametrize(
    "noise",
    [
        lambda v: torch.randn_like(v),
        lambda v: torch.nn.functional.dropout(v),
        lambda v: torch.nn.functional.rrelu(v, training=True),
        lambda v: torch.normal(v, 0.1),
        lambda v: torch.empty_like(v).normal_(),
        lambda v: torch.empty_like(v).uniform_(),
        lambda v: torch.empty_like(v).exponential_(),
        lambda v: torch.bernoulli(v.sigmoid()),
        lambda v: torch.poisson(v.abs()),
    ],
)
def test_randomness_of_any_kind_is_refused(noise: Any) -> None:
    with pytest.raises(TypeError, match="a step has no randomness"):
        elman.Recurrent(Cell(lambda x, R, s: State(h=torch.tanh(x.a + R.a @ s.h) + noise(s.h)), gates=("a",)), 2, 3)


def of(h: Callable[[Any, Any], Any], **options: Any) -> elman.Recurrent:
    """A layer whose new state is h(v, s)."""
    cell = Cell(lambda x, R, s, P: State(h=h(x.a + R.a @ s.h, s), c=s.c), gates=("a",), states=("h", "c"), **options)
    return elman.Recurrent(cell, 2, 3, proj_size=2 if cell.projected else 0)


@pytest.mark.parametrize(
    ("h", "said"),
    [
        (lambda v, s: v - torch.std_mean(v, -1, keepdim=True)[1], r"write v.std\(-1, correction=0, keepdim=True\) and"),
        (lambda v, s: v / torch.linalg.vector_norm(v, dim=-1, keepdim=True), r"; write torch.sqrt\(v.square\(\)"),
        (lambda v, s: v - torch.logsumexp(v, -1, keepdim=True), r"; write torch.log\(torch.exp\(v\).sum"),
        (lambda v, s: v - v.mean(-1, keepdim=True).expand_as(v), "leave it out: what has one number for a row goes"),
        (lambda v, s: v / len(v.shape), r"the shape of a value, .*; write v.mean"),
    ],
    ids=["std_mean", "vector_norm", "logsumexp", "expand_as", "len"],
)
def test_what_to_write_over_all_units(h: Callable[[Any, Any], Any], said: str) -> None:
    with pytest.warns(elman.SlowCellWarning, match=said):
        of(h)(torch.ones(4, 3, 2))


def test_a_mean_of_another_width() -> None:
    with pytest.warns(
        elman.SlowCellWarning, match="graph fails on tensors.*; a mean or sum goes with values of the width"
    ):
        of(lambda v, s: v * s.c.mean(-1, keepdim=True), projected=("c",))(torch.ones(4, 3, 2))


def test_a_mean_without_units_is_no_state() -> None:
    with pytest.raises(ValueError, match=r"\(1,\) instead of \(1, 2\); .*so keep its dimension .* and add 0 \* s.h"):
        of(lambda v, s: v.mean(-1))


def test_the_cause_is_kept() -> None:
    def mine(x, R, s):
        return State(h=x.a + R.a @ s.h + torch.ones(7))

    with pytest.raises(TypeError, match=r"cell 'mine': .*shape \(7,\)") as caught:
        elman.Recurrent(Cell(mine, gates=("a",)), 2, 3)
    causes = [caught.value.__cause__, getattr(caught.value.__cause__, "__cause__", None)]
    assert isinstance(causes[-1], RuntimeError)


def test_no_step_is_told_off_for_what_works() -> None:
    """States that are unpacked, names that are asked for, sums in place on values of its own, numbers that are computed, functions that are called."""

    half = torch.tensor(0.5)

    def decay(k: int) -> float:
        return half.item() / (1 + k)

    def mine(x, R, s, p):
        total = x.a * 1
        for k, gate in enumerate(("a", "b")):
            total += decay(k) * (getattr(R, gate) @ s.h)
        if hasattr(x, "c") or hasattr(p, "c"):
            total = total + x.c
        total *= p.v
        _, c = s
        return State(h=torch.tanh(total), c=c)

    layer = elman.Recurrent(Cell(mine, gates=("a", "b"), states=("h", "c"), vectors=("v",)), 2, 3)
    assert elman.describe(layer, torch.ones(2, 1, 2)).engines[0].engine == "cpu"
