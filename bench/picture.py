"""Draws the picture of docs/performance.md: every peer's time divided by elman's."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from peers import MODULES
from problems import CASES, CELLS, PASSES, Case
from results import Row

NAME = "performance.png"
COLOURS = dict(zip(MODULES, ("black", "#d1495b", "#6d6875", "#b08900", "#2a7de1", "#2e8b57", "#8f3fbf"), strict=True))


def draw(measured: dict[tuple[str, str, Case, int], dict[str, Row]], file: Path) -> None:
    """Draws a panel for each cell and pass, with a dot for each peer and case, which is hollow for two threads."""
    cells = [cell for cell in CELLS if any(key[0] == cell for key in measured)]
    figure, axes = plt.subplots(
        len(cells), len(PASSES), figsize=(11, 1.9 * len(cells) + 1.5), sharex=True, sharey="row", squeeze=False
    )
    seen: set[str] = set()
    for row, cell in enumerate(cells):
        for column, timed in enumerate(PASSES):
            panel = axes[row, column]
            panel.set_yscale("log")
            panel.axhline(1, color="black", linewidth=1)
            panel.grid(axis="y", which="major", color="#dddddd", linewidth=0.6)
            panel.set_title(f"{cell}, {timed}", fontsize=9, loc="left")
            for (_, _, case, threads), peers in (item for item in measured.items() if item[0][:2] == (cell, timed)):
                seen |= peers.keys()
                for name, found in peers.items():
                    if name != "elman" and case in CASES:
                        colour = COLOURS[name]
                        x = CASES.index(case) + (-0.14 if threads == 1 else 0.14)
                        face = colour if threads == 1 else "white"
                        y = found.median / peers["elman"].median
                        panel.plot(x, y, "o", markersize=5, color=colour, markerfacecolor=face, markeredgewidth=1.2)
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.yaxis.set_minor_locator(NullLocator())
            panel.tick_params(labelsize=8, labelleft=True)
    for panel in axes[:, 0]:
        low, high = panel.get_ylim()
        panel.set_ylim(min(low, 0.8), max(high, 1.25))  # so that the line at 1 is always visible
        panel.set_ylabel("peer / elman", fontsize=8)
    for panel in axes[-1]:
        panel.set_xticks(
            range(len(CASES)), [",".join(map(str, case)) for case in CASES], rotation=40, ha="right", fontsize=8
        )
        panel.set_xlabel("T,B,I,H", fontsize=8)
    handles = [
        Line2D([], [], marker="o", linestyle="", color=COLOURS[name], label=name)
        for name in MODULES
        if name in seen and name != "elman"
    ]
    handles.append(Line2D([], [], marker="o", linestyle="", color="grey", label="1 thread"))
    handles.append(Line2D([], [], marker="o", linestyle="", color="grey", markerfacecolor="white", label="2 threads"))
    height = figure.get_figheight()  # in inches, so that title and legend are as tall for one cell as for seven
    figure.suptitle("Each peer's time over elman's: above the line elman is faster", y=1 - 0.1 / height, fontsize=11)
    figure.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 1 - 0.3 / height),
        ncols=len(handles),
        fontsize=8,
        frameon=False,
    )
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.45 / height))
    figure.savefig(file, dpi=110)
    plt.close(figure)
