"""What the page of every task holds, and what it cannot hold."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from elman.errors import InputError
from elman.explain.memory import FADED

MOST = 16_000_000  # parameters


def rounded(value: float, spread: float = 0.0) -> float:
    """Returns four digits of a number: more cannot be seen, and the page is smaller.

    spread: how much such numbers differ from each other. They are told apart even where they are far from zero.
    """
    if 0 < spread < math.inf:
        return round(value, 3 - math.floor(math.log10(spread)))
    return float(f"{value:.4g}")


def described(run: Path, model: torch.nn.Module, options: Any, classes: Sequence[str]) -> dict[str, Any]:
    """Returns what the head of a page says of a run. classes: what the model chooses from, or forecasts."""
    return {
        "name": names([run])[0],
        "cell": options.cell,
        "layers": options.num_layers,
        "hidden": options.hidden_size,
        "parameters": check_size(model, run),
        "classes": list(classes),
        "faded": FADED,
    }


@contextlib.contextmanager
def held_out_part(run: Path, options: str) -> Iterator[None]:
    """Says, where the data of a run cannot be read any more or have changed, which options name others."""
    try:
        yield
    except InputError as error:
        raise InputError(
            f"the held-out part of the data of {run} cannot be shown: {error.elsewhere}; give {options}"
        ) from error


class Contents(NamedTuple):
    """What a page holds, ready for JSON, and what is said to the person who asked for it."""

    data: dict[str, Any]
    findings: list[str]
    remarks: list[str]


def names(runs: Sequence[Path]) -> list[str]:
    """Returns what the runs are called: their directories' names, numbered where two have the same."""
    names: list[str] = []
    for run in runs:
        name = run.resolve().name
        same = sum(1 for each in names if each == name or each.startswith(f"{name} ("))
        names.append(f"{name} ({same + 1})" if same else name)
    return names


def check_size(model: torch.nn.Module, run: Path) -> int:
    """Returns the number of parameters. Raises InputError if a page cannot hold the model: it has too many parameters, or some that are no numbers."""
    count = sum(p.numel() for p in model.parameters())
    if count > MOST:
        raise InputError(
            f"{run} has {count:,} parameters, but a page holds at most {MOST:,}; draw a picture instead, with --output gates.png"
        )
    if not all(bool(p.isfinite().all()) for p in model.parameters()):
        raise InputError(f"{run} has weights that are not finite; train again with a lower learning rate")
    return count
