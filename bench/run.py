"""Times elman next to its peers. All run the same cells, sizes and numbers, in alternating rounds on the same cores.

    python bench/run.py                                              # the whole set; writes docs/performance.md
    python bench/run.py --cells lstm,gru --cases 0,3 --threads 1 --minutes 1   # a part of it

Every run adds to `bench/results/`. It does not start if the accuracy tests fail, since the speed of a wrong engine
means nothing.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import machine
import problems
import report
import results
import rounds
from peers import ALL, DEFAULT, IN_PYTORCH
from problems import CASES, CELLS, LARGE, PASSES, Case
from results import Row
from workers import Failed, Worker

RESERVE = 10.0  # seconds kept for the report, and for measurements that take longer than estimated


@dataclass
class Run:
    """What a run measures, and what it has found so far."""

    cells: list[str]
    cases: list[Case]
    threads: list[int]
    passes: list[str]
    peers: list[str]
    engine: str
    deadline: float  # on the clock of time.monotonic()
    begin: str = field(default_factory=lambda: datetime.datetime.now().astimezone().isoformat(timespec="seconds"))
    processor: str = field(default_factory=machine.processor)
    versions: str = field(default_factory=machine.own_version)
    rows: list[Row] = field(default_factory=list)
    wrong: set[tuple[str, str]] = field(default_factory=set)  # peers and cells whose results differ from elman's
    left: float = 0.0  # problems.expected_seconds of everything that is not measured yet, summed

    @property
    def whole(self) -> bool:
        """Whether this run measures everything that docs/performance.md shows."""
        return (
            self.engine == "auto"
            and set(self.cells) >= set(CELLS)
            and self.cases == list(CASES)
            and self.threads == [1, 2]
            and self.passes == list(PASSES)
            and set(self.peers) >= set(DEFAULT)
        )

    def add(
        self,
        peer: str,
        threads: int,
        cell: str,
        what: str,
        case: Case,
        found: rounds.Timed,
        version: str,
        note: str = "",
    ) -> None:
        """Keeps and stores the row of one measurement, in milliseconds."""
        times = (round(value, 6) for value in (1e3 * found.median, 1e3 * found.lower, 1e3 * found.upper))
        self._store(peer, version, found.engine, threads, cell, what, case, found.rounds, *times, note)

    def remark(self, peer: str, threads: int, what: str, note: str, cell: str = "") -> None:
        """Keeps and stores a row that says why measurements are missing."""
        print(f"{peer}: {what}: {cell} {note}", flush=True)
        self._store(peer, "", "", threads, cell, what, Case(0, 0, 0, 0), 0, 0.0, 0.0, 0.0, note)

    def rate(self, threads: int, case: Case, product: str, rate: float) -> None:
        """Keeps and stores the GFLOP/s of one matrix product."""
        self._store("PyTorch", "", "", threads, "", "matmul", case, 1, *(3 * [round(rate, 3)]), product)

    def _store(
        self, peer: str, version: str, engine: str, threads: int, cell: str, what: str, case: Case, *rest
    ) -> None:
        row = Row(self.begin, self.processor, self.versions, peer, version, engine, threads, cell, what, *case, *rest)
        self.rows.append(row)
        results.append(results.path(self.processor, self.begin), [row])

    def share(self, cell: str, case: Case, what: str, threads: int) -> float:
        """Returns the seconds that one measurement may take, as its share of the time left. `left` then excludes it."""
        expected = problems.expected_seconds(cell, case, what == "training", threads)
        share = expected / self.left * max(0.0, self.deadline - time.monotonic())
        self.left -= expected
        return share

    def items(self, threads: int) -> Iterator[tuple[Case, str, str]]:
        return ((case, cell, what) for case in self.cases for cell in self.cells for what in self.passes)


def measure(run: Run, threads: int, folder: Path) -> None:
    """Measures everything at one number of threads."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    workers = start(run, threads, cores)
    try:
        if threads == run.threads[0]:
            compare(run, workers, threads, folder)
        file, written = folder / "problem.npz", None
        for case, cell, what in run.items(threads):
            end = time.monotonic() + run.share(cell, case, what, threads)
            if written != (case, cell):
                if case == LARGE or written is None or written[0] != case:
                    multiply(run, workers, threads, case)
                problems.write(file, cell, case)
                written = (case, cell)
            asked = {peer: worker for peer, worker in workers.items() if (peer, cell) not in run.wrong}
            ready = rounds.prepare(asked, cell, file, what)
            engines = {peer: engine for peer, engine in ready.items() if isinstance(engine, str)}
            able = {peer: asked[peer] for peer in engines}
            found = rounds.timed(able, end - time.monotonic(), engines)
            failed = {peer: f for peer, f in (ready | found).items() if isinstance(f, Failed)}
            for peer, error in failed.items():
                run.remark(peer, threads, "failed", f"at {case}, {what}: {error}", cell)
                workers.pop(peer).end()
            if "elman" in failed:
                raise SystemExit("elman itself failed; see above")
            times = {peer: t for peer, t in found.items() if isinstance(t, rounds.Timed)}
            for peer, t in times.items():
                run.add(peer, threads, cell, what, case, t, workers[peer].version)
            show(threads, case, cell, what, times)
    finally:
        for worker in workers.values():
            worker.end()


def start(run: Run, threads: int, cores: list[int]) -> dict[str, Worker]:
    """Starts a worker for every peer that is installed."""
    workers: dict[str, Worker] = {}
    for peer in run.peers:
        try:
            worker = Worker(peer, cores, run.engine)
        except Failed as error:
            run.remark(peer, threads, "absent", str(error))
            continue
        if worker.absent is None:
            workers[peer] = worker
        else:
            run.remark(peer, threads, "absent", worker.absent)
            worker.end()
    if "elman" not in workers:
        raise SystemExit("elman itself cannot be run; see above")
    return workers


def compare(run: Run, workers: dict[str, Worker], threads: int, folder: Path) -> None:
    """Excludes peers whose results differ from elman's, cell by cell: timing them would compare nothing."""
    for cell in run.cells:
        for peer, why in rounds.disagreements(workers, cell, folder).items():
            run.remark(peer, threads, "wrong", why, cell)
            run.wrong.add((peer, cell))
            if peer == "elman":
                raise SystemExit("elman itself failed; see above")


def multiply(run: Run, workers: dict[str, Worker], threads: int, case: Case) -> None:
    """Times matrix products in a worker that runs PyTorch, for the machine's rate at this moment."""
    worker = next((workers[peer] for peer in IN_PYTORCH if peer in workers), None)
    if worker is not None:
        for product, rate in worker.ask("matmul")["rates"].items():
            run.rate(threads, case, product, rate)


def show(threads: int, case: Case, cell: str, what: str, times: dict[str, rounds.Timed]) -> None:
    """Prints one line of the table, in milliseconds."""
    mine = times.get("elman")
    others = {peer: t for peer, t in times.items() if peer != "elman"}
    line = f"{threads} {case!s:<21} {cell:<21} {what:<9}"
    if mine:
        line += f" elman {1e3 * mine.median:8.2f} ({mine.engine}, {mine.rounds})"
    line += "".join(f"  {peer} {1e3 * t.median:.2f} ({t.rounds})" for peer, t in others.items())
    if mine and others:
        line += f"  ratio {min(t.median for t in others.values()) / mine.median:.2f}"
    print(line, flush=True)


def accurate() -> bool:
    print("accuracy tests ...", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_accuracy.py"]
    return subprocess.run(command, cwd=machine.ROOT, check=False).returncode == 0


def parse() -> argparse.Namespace:
    def listed(text: str) -> list[str]:
        return [word.strip() for word in text.split(",")]

    parser = argparse.ArgumentParser(description="Time elman next to its peers.")
    parser.add_argument(
        "--minutes", type=float, help="how long it may take: 15, or 30 with --all; fewer rounds in less"
    )
    parser.add_argument("--cells", type=listed, default=list(CELLS), help=f"of {', '.join(CELLS + problems.ALSO)}")
    parser.add_argument(
        "--cases",
        type=lambda text: [int(word) for word in listed(text)],
        default=list(range(len(CASES))),
        help="; ".join(f"{number}: {case}" for number, case in enumerate(CASES)),
    )
    parser.add_argument("--threads", type=lambda text: [int(word) for word in listed(text)], default=[1, 2])
    parser.add_argument("--passes", type=listed, default=list(PASSES), help=f"of {', '.join(PASSES)}")
    parser.add_argument("--peers", type=listed, help=f"of {', '.join(ALL)}; elman is always there")
    parser.add_argument("--all", action="store_true", help="with Keras on TensorFlow")
    parser.add_argument("--engine", default="auto", help="run elman with this engine")
    arguments = parser.parse_args()
    arguments.peers = arguments.peers or list(ALL if arguments.all else DEFAULT)
    arguments.peers = ["elman", *(peer for peer in arguments.peers if peer != "elman")]
    for chosen, known in (
        (arguments.cells, CELLS + problems.ALSO),
        (arguments.cases, range(len(CASES))),
        (arguments.passes, PASSES),
        (arguments.peers, ALL),
    ):
        for one in chosen:
            if one not in known:
                parser.error(f"unknown: {one!r}; known are {', '.join(map(str, known))}")
    cores = len(os.sched_getaffinity(0))
    if not all(1 <= threads <= cores for threads in arguments.threads):
        parser.error(f"--threads {arguments.threads}: this machine has {cores} cores; choose from them with --threads")
    return arguments


def main() -> None:
    begin = time.monotonic()
    arguments = parse()
    if not accurate():
        raise SystemExit("the accuracy tests are red, so nothing is timed: make test")
    run = Run(
        arguments.cells,
        [CASES[number] for number in arguments.cases],
        arguments.threads,
        arguments.passes,
        arguments.peers,
        arguments.engine,
        begin + 60 * (arguments.minutes or (30 if "Keras" in arguments.peers else 15)) - RESERVE,
    )
    for threads in run.threads:
        for case, cell, what in run.items(threads):
            run.left += problems.expected_seconds(cell, case, what == "training", threads)
    print(f"{run.processor}; {run.versions}\nmilliseconds, median of the rounds in parentheses", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for threads in run.threads:
            measure(run, threads, Path(folder))
    print(f"\n{report.summary(run.rows)}\nadded to {results.path(run.processor, run.begin).relative_to(machine.ROOT)}")
    if run.whole:
        report.write(run.rows, round((time.monotonic() - begin) / 60, 1))
    else:
        print("a part of the set: docs/performance.md stays as it is")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # all measurements so far are stored
