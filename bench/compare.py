"""Compares the speed of two versions of elman: did a change cost or gain time?

    python bench/compare.py ../before/src src                        # folders that hold the package; about 6 minutes
    python bench/compare.py ../before/src src --cells lstm --cases 0,3 --threads 1 --minutes 1

Each version runs in a process of its own, on the same cores. They take turns, round by round, on the problems of
`make bench`. A ratio is the time of the second version divided by that of the first: above 1, the second is slower.
The comparison needs no other library and stores nothing.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from pathlib import Path

import problems
import rounds
from problems import CASES, CELLS, PASSES
from workers import Failed, Worker


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--cells", type=lambda text: text.split(","), default=list(CELLS))
    parser.add_argument("--cases", type=numbers, default=list(range(len(CASES))), help="by number, from 0")
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--passes", type=lambda text: text.split(","), default=list(PASSES))
    parser.add_argument("--minutes", type=float, default=6.0)
    given = parser.parse_args()
    for folder in (given.before, given.after):
        if not (folder / "elman").is_dir():
            parser.error(f"{folder} holds no package elman; give the folder above it, such as ../before/src")
    return given


def main() -> None:
    given = arguments()
    items = [
        (threads, CASES[number], cell, what)
        for threads in given.threads
        for number in given.cases
        for cell in given.cells
        for what in given.passes
    ]
    expected = {item: problems.expected_seconds(item[2], item[1], item[3] == "training", item[0]) for item in items}
    scale = given.minutes * 60 / sum(expected.values())
    found: dict[tuple[int, str], list[tuple[float, str]]] = {}
    workers: dict[str, Worker] = {}
    current = 0  # number of threads of the present workers
    with tempfile.TemporaryDirectory() as folder:
        for item in items:
            threads, case, cell, what = item
            if threads != current:
                for worker in workers.values():
                    worker.end()
                current, cores = threads, sorted(os.sched_getaffinity(0))[:threads]
                sources = {"before": given.before.resolve(), "after": given.after.resolve()}
                workers = {name: Worker("elman", cores, "auto", source) for name, source in sources.items()}
            file = Path(folder) / "problem.npz"
            problems.write(file, cell, case)
            engines = rounds.prepare(workers, cell, file, what)
            if wrong := [f"{name}: {engine}" for name, engine in engines.items() if isinstance(engine, Failed)]:
                sys.exit("; ".join(wrong))
            times = rounds.timed(workers, scale * expected[item], {name: str(e) for name, e in engines.items()})
            first, second = times["before"], times["after"]
            if isinstance(first, Failed) or isinstance(second, Failed):
                sys.exit(f"{cell} {case}: {first} {second}")
            ratio = second.median / first.median
            label = f"{cell:22}{case!s:22}{what:10} {threads} thread{'s' if threads > 1 else ' '}"
            print(f"{label}{first.median * 1e3:10.3f}{second.median * 1e3:10.3f} ms   {ratio:.3f}", flush=True)
            found.setdefault((threads, what), []).append((ratio, label))
    for worker in workers.values():
        worker.end()
    every = [one for ratios in found.values() for one in ratios]
    for name, ratios in [
        *((f"{what}, {threads} thread(s)", of) for (threads, what), of in found.items()),
        ("all", every),
    ]:
        mean = math.exp(sum(math.log(ratio) for ratio, _ in ratios) / len(ratios))
        worst, label = max(ratios)
        print(f"{name}: geometric mean {mean:.3f}, worst {worst:.3f} ({' '.join(label.split())})")


if __name__ == "__main__":
    main()
