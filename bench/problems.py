"""The problems that are timed: cells, sizes and numbers, and the operations and seconds that they take."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from elman import cells
from elman.layout import NAMES, parameter_shapes


class Case(NamedTuple):
    """Time steps, batch, input size, hidden size."""

    T: int
    B: int
    I: int  # noqa: E741
    H: int

    def __str__(self) -> str:
        return f"({self.T}, {self.B}, {self.I}, {self.H})"


CASES = (
    Case(100, 1, 64, 64),
    Case(100, 1, 256, 256),
    Case(100, 16, 128, 128),
    Case(100, 32, 256, 256),
    Case(100, 64, 512, 512),
    Case(35, 20, 650, 650),
    Case(1000, 8, 128, 128),
    Case(24, 128, 7, 32),
    Case(200, 32, 40, 100),
)
LARGE = CASES[4]  # the case at which elman's rate is compared with the machine's
SMALL = Case(7, 3, 5, 11)  # the case at which every peer's results are compared with elman's

CELLS = ("rnn", "lstm", "gru", "peephole_lstm", "coupled_lstm", "coupled_peephole_lstm", "gru_before")
ALSO = ("rnn_relu",)  # as fast as rnn, so timed only when asked for
PASSES = ("training", "inference")


def write(path: Path, cell: str, case: Case) -> None:
    """Draws a problem at random and stores it: weights in elman's layout, x, initial states, and cotangents.

    Pre-activations have a standard deviation of 1 to 2, and every step has a cotangent. So no number saturates,
    vanishes or becomes denormal. Denormal numbers would slow down every peer.
    """
    built_in = cells.by_name(cell)
    normal = np.random.default_rng(0).standard_normal
    arrays = {"x": normal((case.T, case.B, case.I)), "d_output": normal((case.T, case.B, case.H))}
    for state in built_in.states:
        arrays[f"{state}_0"] = normal((case.B, case.H))
        arrays[f"d_{state}_n"] = normal((case.B, case.H))
    for field, shape in parameter_shapes(built_in, case.I, case.H).items():
        matrix = field in ("ih", "hh")
        arrays[NAMES[field].format(0, "").removesuffix("_l0")] = normal(shape) * (shape[1] ** -0.5 if matrix else 0.7)
    np.savez(path, **{name: array.astype(np.float32) for name, array in arrays.items()})  # pyright: ignore[reportArgumentType]


def flops(cell: str, case: Case, training: bool) -> int:
    """Returns the multiplications and additions of all matrix products.

    For each product of forward, backward has two of its size.
    """
    gates = len(cells.by_name(cell).gates)
    return 2 * case.T * case.B * gates * case.H * (case.I + case.H) * (3 if training else 1)


def expected_seconds(cell: str, case: Case, training: bool, threads: int) -> float:
    """Returns a rough estimate of the time for compiling and a few rounds of five peers.

    It only decides how the available time is divided among problems. It assumes matrix products at 60 GFLOP/s, and
    adds the overhead per step of an eager loop and a scan.
    """
    round_of_all = 5 * flops(cell, case, training) / 60e9 / threads + case.T * (6e-4 if training else 1.5e-4)
    return (1.2 if training else 0.6) + 5 * round_of_all
