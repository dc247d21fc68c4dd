"""The rows of `bench/results/*.csv`, which only grow: one for each peer, case, cell, pass and thread count."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from problems import Case

FOLDER = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Row:
    """The milliseconds of one call. If `timed` is no pass: the rate of a matrix product, or a remark in `note`."""

    run: str  # when the run began; equal in all rows of a run
    machine: str
    versions: str  # of elman, Python and the system
    peer: str
    peer_version: str
    engine: str
    threads: int
    cell: str
    timed: str  # training, inference; matmul (median and quartiles are GFLOP/s); absent, wrong, failed (remarks)
    T: int
    B: int
    I: int  # noqa: E741
    H: int
    rounds: int
    median: float
    lower_quartile: float
    upper_quartile: float
    note: str = ""

    @property
    def case(self) -> Case:
        return Case(self.T, self.B, self.I, self.H)


def path(machine: str, run: str) -> Path:
    """Returns the file of a run. There is one for each machine and day."""
    return FOLDER / f"{run[:10]}-{re.sub(r'[^a-z0-9]+', '-', machine.lower()).strip('-')}.csv"


def append(to: Path, rows: Iterable[Row]) -> None:
    to.parent.mkdir(exist_ok=True)
    new = not to.exists()
    with to.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read(file: Path) -> list[Row]:
    def typed(stored: dict[str, str]) -> dict[str, Any]:
        kinds = {"int": int, "float": float, "str": str}
        return {field.name: kinds[str(field.type)](stored[field.name]) for field in fields(Row)}

    with file.open(newline="", encoding="utf-8") as stored:
        return [Row(**typed(row)) for row in csv.DictReader(stored)]
