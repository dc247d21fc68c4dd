"""Every engine is as accurate as PyTorch, and the rule notices when it is not."""

from __future__ import annotations

import pytest
import torch
from torch import sigmoid, tanh

from accuracy import Errors, Sizes, check, measure
from cases import CELLS, CELLS_AND_DEPTHS
from elman import Cell, State, cells

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


@pytest.mark.parametrize("engine", ["reference", "cpu"])
@pytest.mark.parametrize(("name", "layers", "bidirectional"), CELLS_AND_DEPTHS.values(), ids=CELLS_AND_DEPTHS)
def test_cells(name: str, layers: int, bidirectional: bool, engine: str) -> None:
    check(measure(cells.BUILT_IN[name], engine, layers, bidirectional))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_half_types(name: str, dtype: torch.dtype) -> None:
    sizes = Sizes(steps=5, batch=4, input_size=7, hidden_size=19)
    check(measure(cells.BUILT_IN[name], "cpu", bidirectional=True, sizes=sizes, least=150, dtype=dtype), most=0.3)


SIZES = [  # below, at and above a vector of 16; rows that fill their tiles and do not
    Sizes(1, 1, 40, 67),
    Sizes(3, 13, 5, 15),
    Sizes(9, 6, 1, 16),
    Sizes(4, 7, 16, 17),
    Sizes(5, 1, 9, 33),
    Sizes(2, 25, 2, 64),
]


# Every cell at two sizes, and every size with three cells: what a size changes in a kernel, it changes in that of any cell.
@pytest.mark.parametrize(
    ("name", "sizes"),
    [(name, sizes) for k, name in enumerate(CELLS) for n, sizes in enumerate(SIZES) if (k + n) % 3 == 1],
    ids=lambda each: each if isinstance(each, str) else "x".join(map(str, each)),
)
def test_sizes(name: str, sizes: Sizes) -> None:
    check(measure(cells.BUILT_IN[name], "cpu", bidirectional=sizes.batch % 2 == 1, sizes=sizes))


LONG_SUMS = {
    "steps and rows": Sizes(100, 200, 16, 16),
    "units": Sizes(2, 8, 128, 512),
    "more units": Sizes(2, 4, 128, 1024),
    "inputs": Sizes(2, 8, 4096, 128),
}


# Every cell with two of them, and each of them with two cells: the sums are those of products, which are any cell's.
@pytest.mark.parametrize(
    ("name", "which"),
    [
        ("rnn", "steps and rows"),
        ("rnn", "inputs"),
        ("lstm", "inputs"),
        ("lstm", "more units"),
        ("gru", "units"),
        ("gru", "steps and rows"),
        ("projected_lstm", "units"),
        ("projected_lstm", "more units"),
    ],
)
def test_long_sums(name: str, which: str) -> None:
    """A sum of n terms made one after the other is off by the square root of n units; a library's is not."""
    check(measure(cells.BUILT_IN[name], "cpu", sizes=LONG_SUMS[which], least=500))


@pytest.mark.parametrize("engine", ["reference", "cpu"])
@pytest.mark.parametrize("name", CELLS)
def test_single_numbers(name: str, engine: str) -> None:
    """T = B = I = H = 1, where one unlucky rounding would alarm without pooling; H = 2 where it is projected to 1."""
    cell = cells.BUILT_IN[name]
    check(measure(cell, engine, sizes=Sizes(1, 1, 1, 2 if cell.projected else 1), least=32))


def test_every_tensor_is_judged_on_enough_elements() -> None:
    errors = measure(cells.peephole_lstm, "reference", 2, True, sizes=Sizes(2, 2, 3, 30))
    parameters = [
        f"d_{kind}_l{layer}{direction}"
        for layer in (0, 1)
        for direction in ("", "_reverse")
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_ch")
    ]
    assert set(errors) == {"output", "final_0", "final_1", "d_x", "d_state_0", "d_state_1", *parameters}
    assert min(e.count for e in errors.values()) >= 1000


def low_precision(x, R, s):
    i = sigmoid(x.i + R.i @ s.h)
    f = sigmoid(x.f + R.f @ s.h)
    g = tanh(x.g + R.g @ s.h)
    o = sigmoid(x.o + R.o @ s.h)
    c = (f * s.c + i * g).bfloat16().to(x.i.dtype)
    return State(h=o * tanh(c), c=c)


def low_precision_tanh(x, R, s):
    r = sigmoid(x.r + R.r @ s.h)
    z = sigmoid(x.z + R.z @ s.h)
    a = x.n + r * (R.n @ s.h)
    n = tanh(a) * (1 + 1e-5 * a)
    return State(h=(1 - z) * n + z * s.h)


def test_a_low_precision_cell_state_is_noticed() -> None:
    planted = Cell(low_precision, gates=("i", "f", "g", "o"), states=("h", "c"))
    errors = measure(cells.lstm, "reference", mine=planted)
    assert not any(e.within for e in errors.values())
    with pytest.raises(AssertionError, match=r"final_1: rms error .*e-0[34], allowed .*e-0[78]"):
        check(errors)


@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_an_imprecise_function_is_noticed(engine: str) -> None:
    with pytest.raises(AssertionError, match="output"):
        check(measure(cells.gru, engine, mine=Cell(low_precision_tanh, gates=("r", "z", "n"))))


def test_the_rule_itself() -> None:
    exact = torch.ones(1000, dtype=torch.float64)

    def within(mine: float, torchs: float) -> bool:
        errors = Errors()
        errors.add(exact + mine, exact + torchs, exact)
        return errors.within

    assert within(1.9e-4, 1e-4)
    assert not within(2.1e-4, 1e-4)
    assert within(0.9e-7, 0.0)
    assert not within(1.1e-7, 0.0)
    assert not within(float("nan"), 1e-4)
    assert not within(float("inf"), 1e-4)


def test_other_equations_are_no_measure() -> None:
    """Where PyTorch computes something else its error is large, and would allow a large one."""
    renamed = Cell(cells.gru_before.step, gates=("r", "z", "n"), name="gru")
    with pytest.raises(AssertionError, match=r"output: PyTorch itself is off by"):
        check(measure(renamed, "reference"))
