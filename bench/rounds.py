"""Times peers in alternating rounds, and checks that their results agree."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import problems
from workers import Failed, Worker

BURST = 0.006  # seconds that a round lasts at least; short calls are repeated until then
LEAST, MOST = 3, 31  # rounds
AGREE = 1e-3  # largest relative error, in the root mean square, between an output or gradient of two peers
REQUIRED = {"training": ("output", "d_x", "d_weight_ih", "d_weight_hh"), "inference": ("output",)}


class Timed(NamedTuple):
    """The seconds of one call, as median and quartiles, and the number of rounds."""

    lower: float
    median: float
    upper: float
    rounds: int
    engine: str


def timed(workers: Mapping[str, Worker], seconds: float, engines: Mapping[str, str]) -> dict[str, Timed | Failed]:
    """Times all prepared workers in alternating rounds, for about `seconds` in all. A slow one gets fewer rounds."""
    failed: dict[str, Timed | Failed] = {}
    found: dict[str, list[float]] = {}
    repetitions: dict[str, int] = {}
    counts: dict[str, int] = {}

    def once(peer: str, calls: int) -> float:
        try:
            return workers[peer].ask("round", repetitions=calls)["seconds"]
        except Failed as error:
            failed[peer] = error
            return math.nan

    for peer in workers:
        first = once(peer, 1)
        if peer in failed:
            continue
        calls = repetitions[peer] = max(1, math.ceil(BURST / first))
        found[peer] = [first] if calls == 1 else []  # a short call only tells how many calls make a round
        cost = first * (calls + (calls > 1))
        counts[peer] = min(MOST, max(LEAST, int(seconds / len(workers) / cost))) - len(found[peer])

    longest = max(counts.values(), default=0)
    for number in range(longest):
        for peer, count in counts.items():
            # A peer's `count` turns are spread over all rounds, so that quiet and noisy times meet all peers alike.
            if number * count // longest != (number - 1) * count // longest and peer not in failed:
                found[peer].append(once(peer, repetitions[peer]))
    return failed | {
        peer: Timed(*quartiles(times), len(times), engines[peer]) for peer, times in found.items() if peer not in failed
    }


def quartiles(times: list[float]) -> tuple[float, float, float]:
    lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
    return lower, median, upper


def prepare(workers: Mapping[str, Worker], cell: str, file: Path, timed: str) -> dict[str, str | Failed | None]:
    """Prepares all workers. Returns what each calls its engine, None where it lacks the cell, or how it failed."""
    found: dict[str, str | Failed | None] = {}
    for peer, worker in workers.items():
        try:
            answer = worker.ask("prepare", cell=cell, file=str(file), training=timed == "training")
            found[peer] = None if answer["lacks"] else answer["engine"]
        except Failed as error:
            found[peer] = error
    return found


def disagreements(workers: Mapping[str, Worker], cell: str, folder: Path) -> dict[str, str]:
    """Returns the peers whose results differ from elman's in a small problem, and in which arrays they differ.

    Training is compared, which contains inference. Inference alone is compared for peers that do not train.
    """
    file = folder / "small.npz"
    problems.write(file, cell, problems.SMALL)
    wrong: dict[str, str] = {}
    left = dict(workers)
    for what in ("training", "inference"):
        ready = prepare(left, cell, file, what)
        shown: dict[str, dict[str, np.ndarray]] = {}
        for peer, engine in ready.items():
            if isinstance(engine, Failed):
                wrong[peer] = str(engine)
            elif engine is not None:
                stored = folder / "results.npz"
                left[peer].ask("results", file=str(stored))
                with np.load(stored) as arrays:
                    shown[peer] = dict(arrays)
        for peer, theirs in shown.items():
            if peer != "elman" and "elman" in shown:
                worst = differences(shown["elman"], theirs, REQUIRED[what])
                if worst:
                    wrong[peer] = worst
        left = {peer: worker for peer, worker in left.items() if ready[peer] is None or peer == "elman"}
    return wrong


def differences(mine: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], required: tuple[str, ...]) -> str:
    """Returns the names of the arrays in which two peers differ, with the relative errors."""
    found = [f"{name} is missing" for name in required if name not in theirs]
    for name in mine:
        if name in theirs:
            error = float(
                np.linalg.norm(mine[name] - theirs[name].reshape(mine[name].shape)) / np.linalg.norm(mine[name])
            )
            if not error <= AGREE:  # also for NaN
                found.append(f"{name} differs by {error:.1e}")
    return ", ".join(found)
