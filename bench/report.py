"""Writes docs/performance.md and docs/performance-tables.md from the rows of one run.

python bench/report.py bench/results/FILE.csv     # writes it again, from the last run in the file
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import machine
import picture
import problems
import results
from peers import IN_PYTORCH, MODULES
from problems import LARGE, PASSES, Case
from results import Row

DOCUMENT = machine.ROOT / "docs" / "performance.md"
TABLES = machine.ROOT / "docs" / "performance-tables.md"
MACHINE_SHARE = 0.8  # target: elman's share of the best matmul rate, at LARGE and one thread
Key = tuple[str, str, Case, int]  # cell, pass, case, threads


class Target(NamedTuple):
    """A target for the best peer's time divided by elman's.

    mean: for the geometric mean over cases and threads. worst: for the worst single case.
    """

    name: str
    cells: tuple[str, ...]
    timed: str
    against: str
    peers: tuple[str, ...]
    mean: float
    worst: float | None


EVERYONE = tuple(name for name in MODULES if name != "elman")
NOT_IN_TORCH = ("peephole_lstm", "coupled_lstm", "coupled_peephole_lstm", "gru_before")
TARGETS = (
    Target("LSTM", ("lstm",), "training", "the best peer", EVERYONE, 1.4, 0.95),
    Target("LSTM", ("lstm",), "inference", "the best peer", EVERYONE, 1.1, 0.9),
    Target("GRU", ("gru",), "training", "the best peer", EVERYONE, 2.5, 1.5),
    Target("GRU", ("gru",), "inference", "the best peer", EVERYONE, 1.2, 0.95),
    Target("RNN", ("rnn",), "training", "the best peer", EVERYONE, 2.5, 1.5),
    Target("RNN", ("rnn",), "inference", "the best peer", EVERYONE, 2.0, 1.2),
    Target("the other four", NOT_IN_TORCH, "training", "PyTorch", IN_PYTORCH, 8.0, None),
    Target("the other four", NOT_IN_TORCH, "training", "JAX", ("JAX",), 2.0, None),
    Target("the other four", NOT_IN_TORCH, "inference", "ONNX Runtime", ("ONNX Runtime",), 1.1, None),
)


def by_key(rows: Iterable[Row]) -> dict[Key, dict[str, Row]]:
    """Returns the rows of each measurement, by peer."""
    found: dict[Key, dict[str, Row]] = {}
    for row in rows:
        if row.timed in PASSES:
            found.setdefault((row.cell, row.timed, row.case, row.threads), {})[row.peer] = row
    return found


def ratio(peers: dict[str, Row], among: tuple[str, ...]) -> float | None:
    """Returns the time of the fastest of these peers divided by elman's; None if a time is missing."""
    times = [peers[name].median for name in among if name in peers]
    return min(times) / peers["elman"].median if times and "elman" in peers else None


def machine_rates(rows: Iterable[Row]) -> dict[int, tuple[float, str]]:
    """Returns the rate and the name of the fastest matrix product for each number of threads, in GFLOP/s.

    A product's rate is its median over the run, so that one lucky moment does not decide it.
    """
    found: dict[int, dict[str, list[float]]] = {}
    for row in rows:
        if row.timed == "matmul":
            found.setdefault(row.threads, {}).setdefault(row.note, []).append(row.median)
    return {
        threads: max((statistics.median(rates), product) for product, rates in products.items())
        for threads, products in found.items()
    }


def gflops(row: Row) -> float:
    return 1e-6 * problems.flops(row.cell, row.case, row.timed == "training") / row.median


def table(head: list[str], body: Iterable[list[str]], left: int = 1) -> str:
    """Returns a Markdown table. The first `left` columns are aligned to the left, all others to the right."""
    rule = ["---" if number < left else "---:" for number in range(len(head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))


def reached(target: Target, measured: dict[Key, dict[str, Row]]) -> tuple[float, float, Key] | None:
    """Returns the mean of a target's ratios, the worst of them, and where that is; None if nothing was measured."""
    found = {
        key: value
        for key, peers in measured.items()
        if key[0] in target.cells and key[1] == target.timed and (value := ratio(peers, target.peers)) is not None
    }
    if not found:
        return None
    mean = math.exp(statistics.fmean(math.log(value) for value in found.values()))
    where, worst = min(found.items(), key=lambda item: item[1])
    return mean, worst, where


def in_five_lines(rows: list[Row]) -> str:
    """Returns what was reached in words, a line for each group of cells."""
    measured, lines = by_key(rows), {}
    for target in TARGETS:
        if found := reached(target, measured):
            line = (
                f"{found[0]:.2f} times as fast as {target.against} in {target.timed} ({found[1]:.2f} in the worst case)"
            )
            lines.setdefault(target.name, []).append(line)
    said = [f"- **{name[0].upper()}{name[1:]}**: {', '.join(of)}." for name, of in lines.items()]
    best = [
        gflops(peers["elman"]) / machine_rates(rows)[key[3]][0]
        for key, peers in measured.items()
        if key[2] == LARGE and key[3] == 1 and key[3] in machine_rates(rows)
    ]
    if best:
        said.append(
            f"- **One core** reaches {min(best):.0%} to {max(best):.0%} of the rate of the fastest matrix product, in large layers."
        )
    return "\n".join(said)


def summary(rows: list[Row]) -> str:
    """Returns the tables of targets and of what was reached."""
    measured, rates = by_key(rows), machine_rates(rows)
    body: list[list[str]] = []
    for target in TARGETS:
        found = reached(target, measured)
        if found is None:
            continue
        mean, worst, (cell, _, case, threads) = found
        met = mean >= target.mean and worst >= (target.worst or 0)
        where = f"{case}, {threads} thread{'s' * (threads > 1)}" + (f", {cell}" if len(target.cells) > 1 else "")
        demanded = f"{target.mean:g}" + (f" ({target.worst:g})" if target.worst else "")
        result = f"{mean:.2f} ({worst:.2f})"
        body.append([target.name, target.timed, target.against, demanded, result, where, "yes" if met else "no"])
    text = table(["cells", "pass", "against", "target", "reached", "worst case", "met"], body, 3) if body else ""
    body = []
    for (cell, timed, case, threads), peers in measured.items():
        if case == LARGE and "elman" in peers and threads in rates:
            share = gflops(peers["elman"]) / rates[threads][0]
            wanted = f"{MACHINE_SHARE:.0%}" if threads == 1 else ""
            met = ("yes" if share >= MACHINE_SHARE else "no") if threads == 1 else ""
            body.append([cell, timed, str(threads), f"{gflops(peers['elman']):.0f}", f"{share:.0%}", wanted, met])
    if body:
        head = ["cell", "pass", "threads", "GFLOP/s", "of the best matmul", "target", "met"]
        text += f"\n\nAt {LARGE}, compared with the machine's rate:\n\n{table(head, body, 2)}"
    return text.strip()


def detail(cell: str, timed: str, measured: dict[Key, dict[str, Row]], rates: dict[int, tuple[float, str]]) -> str:
    """Returns the table of one cell in one pass, with a line for each case and number of threads."""
    chosen = {key: peers for key, peers in measured.items() if key[:2] == (cell, timed)}
    names = [name for name in EVERYONE if any(name in peers for peers in chosen.values())]
    body: list[list[str]] = []
    for (_, _, case, threads), peers in chosen.items():
        mine, best = peers["elman"], ratio(peers, EVERYONE)
        share = f"{gflops(mine) / rates[threads][0]:.0%}" if threads in rates else ""
        body.append(
            [
                str(case),
                str(threads),
                f"{ms(mine.median)} ({ms(mine.lower_quartile)} to {ms(mine.upper_quartile)})",
                *(ms(peers[name].median) if name in peers else "" for name in names),
                f"{best:.2f}" if best else "",
                f"{gflops(mine):.0f}",
                share,
            ]
        )
    return table(["T, B, I, H", "threads", "elman", *names, "best / elman", "GFLOP/s", "of matmul"], body)


def ms(milliseconds: float) -> str:
    """Returns a number with three significant digits; from 100 on, rounded to a whole number."""
    return f"{milliseconds:.{max(0, 2 - math.floor(math.log10(milliseconds)))}f}"


def documents(rows: list[Row], minutes: float | None) -> tuple[str, str]:
    """Returns the text of the page, and that of the page with all times."""
    measured, rates = by_key(rows), machine_rates(rows)
    first = next(row for row in rows if row.peer == "elman" and row.timed in PASSES)
    versions = {row.peer: row.peer_version for row in rows if row.timed in PASSES and row.peer != "elman"}
    engines = sorted({row.engine for row in rows if row.engine})
    remarks = {(row.peer, row.timed, row.cell): row.note for row in rows if row.timed in ("absent", "wrong", "failed")}
    command = "make bench-all" if "Keras" in {row.peer for row in rows} else "make bench"
    fewest = min(row.rounds for row in rows if row.timed in PASSES)
    most = max(row.rounds for row in rows if row.timed in PASSES)
    written = (
        f"Written by `{command}` from its own measurements; do not edit. Started {first.run.replace('T', ' at ')}"
        + (f", took {minutes:g} minutes." if minutes else ".")
    )
    lines = [
        "# Performance",
        "This page compares the speed of one layer with torch.nn, a loop in PyTorch, JAX, ONNX Runtime and torchrecurrent. "
        "The best peer is the fastest of them in each case. Means are over sizes and numbers of threads. The other four "
        "are the cells that torch.nn does not have.",
        in_five_lines(rows),
        f"![Every peer's time over elman's, by case]({picture.NAME})",
        "[All times](performance-tables.md) are listed case by case. Other measurements are in `bench`: whole training runs "
        "([bench/tasks.md](../bench/tasks.md)), sequences of different lengths, projections, GPUs "
        "([decision 14](decisions/0014-an-engine-for-nvidia-gpus.md)).",
        "## How it was measured",
        written,
        f"- Machine: {first.machine}\n- {first.versions}; engine: {', '.join(engines)}\n- "
        + ", ".join(f"{peer} {version}" for peer, version in versions.items()),
        "Each case is one layer in one direction, in float32, with initial states. Its size is (T, B, I, H): time steps, "
        "batch size, input size and hidden size. Training is a forward and a backward pass with the gradients of the "
        "input, the initial states and all parameters, for random cotangents on the output and the final states. "
        "Inference is a forward pass without gradients. Every peer runs in its own process, pinned to the same one or "
        "two cores. The peers take turns, round by round, and waiting processes are stopped, so no thread pool takes time "
        f"from another. A round is one call, or as many calls as take {1e3 * _burst():g} ms. Times are medians of {fewest} "
        f"to {most} rounds, with quartiles in parentheses. Before timing, each peer computed the outputs and gradients of "
        "a small problem, and they agreed with elman's. GRU applies the reset after the recurrent product; `gru_before` "
        "applies it before.",
        "The eager loop and JAX's `lax.scan` under `jit` compute the input's contribution for all steps in one product before "
        "the loop, and one recurrent product in each step (two for `gru_before`). ONNX Runtime's model is one operator "
        "with constant weights, which it packs in advance. No other peer may assume that the weights stay the same. For "
        "Keras, the faster time with or without XLA counts. A blank means that the peer does not have the cell: "
        "torchrecurrent has only the peephole LSTM; torch.nn and Keras have no peepholes and no coupled gates. ONNX "
        "Runtime does not train.",
    ]
    if remarks:
        lines += [
            "Not measured:",
            "\n".join(f"- {' '.join(k for k in key if k)}: {note}" for key, note in remarks.items()),
        ]
    lines += [
        "## Targets",
        "The figures are the best peer's time divided by elman's, so above 1 elman is faster. Each is the geometric mean over "
        "all cases and numbers of threads, with the worst single case in parentheses.",
        summary(rows),
    ]
    if rates:
        lines.append(
            "The best matmul rate is that of the fastest product that occurs in this case, run through torch and oneDNN and "
            "measured in the same run: "
            + "; ".join(
                f"{rate:.0f} GFLOP/s at {threads} thread{'s' * (threads > 1)} ({product})"
                for threads, (rate, product) in sorted(rates.items())
            )
            + ". A layer's operation count covers its matrix products: 2 T B G H (I + H) for G gates, and three times that in training."
        )
    tables = [
        "# All times",
        f"Times are in milliseconds. [Performance](performance.md) explains what was measured and how. {written}",
    ]
    for cell, timed in dict.fromkeys(key[:2] for key in measured):
        tables += [f"## {cell}, {timed}", detail(cell, timed, measured, rates)]
    return "\n\n".join(lines) + "\n", "\n\n".join(tables) + "\n"


def _burst() -> float:
    from rounds import BURST

    return BURST


def write(rows: list[Row], minutes: float | None = None) -> None:
    """Writes both pages and the picture."""
    picture.draw(by_key(rows), DOCUMENT.parent / picture.NAME)
    for path, text in zip((DOCUMENT, TABLES), documents(rows, minutes), strict=True):
        path.write_text(text, encoding="utf-8")
    print(f"wrote {DOCUMENT.relative_to(machine.ROOT)}, {TABLES.name} and {picture.NAME}")


if __name__ == "__main__":
    stored = results.read(Path(sys.argv[1]))
    wanted = sys.argv[2] if len(sys.argv) > 2 else [row.run for row in stored if row.timed in PASSES][-1]
    write([row for row in stored if row.run == wanted])
