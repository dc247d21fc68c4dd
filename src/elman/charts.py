"""Pictures of a run: its losses and scores, which labels are taken for which, and forecasts beside the truth."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from elman.errors import InputError
from elman.files import write_atomically

FORMATS = ("png", "svg", "pdf")


def losses(
    rows: list[dict[str, str]], measure: str, score: str, baselines: Mapping[str, float], per: str, kept: int
) -> Figure:
    """Draws the training and the held-out loss over a run, and the score if that is another column of metrics.csv.

    measure: the unit of the loss; per: of what, if that needs saying. baselines: lines, in the unit of the score. kept: the step whose
    parameters were kept.
    """
    own = score != f"validation_{measure}"
    figure = Figure(figsize=(7, 7 if own else 4.2), layout="constrained")
    panels = figure.subplots(1 + own, 1, sharex=True, squeeze=False)[:, 0]
    epochs = [float(row["epoch"]) for row in rows]

    def line(axis: Any, column: str, label: str) -> None:
        axis.plot(epochs, [float(row[column]) for row in rows], marker=".", label=label)

    line(panels[0], f"train_{measure}", "training, since the last point")
    line(panels[0], f"validation_{measure}", "held out")
    panels[0].set_ylabel(f"{measure} per {per}" if per else measure)
    if own:
        line(panels[1], score, "held out")
        panels[1].set_ylabel(score.replace("_", " "))
    last = panels[-1]
    for shade, (name, value) in zip(("0.35", "0.65"), baselines.items(), strict=False):
        last.axhline(value, color=shade, linestyle="--", linewidth=1)
        last.annotate(f"{name} {value:.3f}", (epochs[-1], value), ha="right", va="bottom", fontsize=9, color=shade)
    for axis in panels:
        for row in rows:
            if int(row["step"]) == kept:
                axis.axvline(float(row["epoch"]), color="C2", linewidth=1, alpha=0.6, label="kept")
        axis.grid(alpha=0.3)
        axis.legend(loc="center right")
    last.set_xlabel("epochs")
    return figure


def confusion(counts: NDArray[np.int64], labels: Sequence[str], what: str, of: str, most: int = 30) -> Figure:
    """Draws which label is taken for which: a row for each true one, shaded by its share, with counts written in.

    what: what a label is called; of: what is counted. Of more than `most` labels the most frequent ones are shown.
    """
    shown = np.sort(np.argsort(-counts.sum(1), kind="stable")[:most])
    counts = counts[np.ix_(shown, shown)]
    names: list[str] = [str(labels[k]) for k in shown]
    share = counts / np.maximum(1, counts.sum(1, keepdims=True))
    size = 2.6 + 0.42 * len(names)
    figure = Figure(figsize=(size + 1.0, size), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for a, b in np.argwhere(counts > 0):
        axis.text(
            b, a, f"{counts[a, b]:,}", ha="center", va="center", fontsize=7, color="w" if share[a, b] > 0.5 else "k"
        )
    axis.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
    axis.set_yticks(range(len(names)), names, parse_math=False)
    axis.set_xlabel(f"predicted {what}")
    axis.set_ylabel(f"true {what}")
    axis.set_title(f"{of} held out" + (f", the {most} most frequent {what}s" if len(labels) > most else ""))
    figure.colorbar(image, ax=axis, label=f"share of the true {what}", fraction=0.046)
    return figure


def forecasts(panels: Mapping[str, Mapping[str, Any]], horizon: int) -> Figure:
    """Draws forecasts beside the truth, a panel for each series.

    A panel has `past` (P,), `truth` (horizon,), `forecast` (horizon,), and may have `low` and `high` (horizon,) and
    further lines in `others`, a mapping from names to (horizon,).
    """
    figure = Figure(figsize=(9, 1.0 + 2.1 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    ahead = np.arange(1, horizon + 1)
    for axis, (name, panel) in zip(axes, panels.items(), strict=True):
        past = np.asarray(panel["past"])
        axis.plot(np.arange(1 - len(past), 1), past, color="0.5", linewidth=1, label="past")
        axis.plot(ahead, panel["truth"], color="k", linewidth=1, label="truth")
        axis.plot(ahead, panel["forecast"], color="C0", linewidth=1.6, label="forecast")
        if "low" in panel:
            axis.fill_between(ahead, panel["low"], panel["high"], color="C0", alpha=0.2, linewidth=0, label="quantiles")
        for shade, (other, values) in zip(("C1", "C2"), panel.get("others", {}).items(), strict=False):
            axis.plot(ahead, values, color=shade, linewidth=0.9, linestyle="--", label=other)
        axis.axvline(0.5, color="0.8", linewidth=1)
        axis.set_ylabel(name, parse_math=False)
        axis.grid(alpha=0.3)
    axes[0].legend(loc="upper left", fontsize=8, ncols=5)
    axes[-1].set_xlabel("steps from the time of the forecast")
    return figure


def trials(scores: Sequence[tuple[int, float | None]]) -> Figure:
    """Draws the score of every training of a search; those that were stopped early stand on the lower edge."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    complete = [(number, score) for number, score in scores if score is not None]
    if complete:
        axis.plot(*zip(*complete, strict=True), "o", label="trained to the end")
    stopped = [number for number, score in scores if score is None]
    if stopped:
        low = min((score for _, score in complete), default=0.0)
        axis.plot(stopped, [low] * len(stopped), "x", color="0.6", label="stopped early")
    axis.set_xlabel("trial")
    axis.set_ylabel("score")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a picture in the format that its file name ends with. The file is written whole or not at all."""
    content = io.BytesIO()
    kind = path.suffix.lstrip(".").lower() or "png"
    if kind not in FORMATS:
        raise InputError(f"{path}: pictures are not written as .{kind}; choose png, svg or pdf")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the font lacks a character and draws a box
        figure.savefig(content, format=kind, dpi=130)
    write_atomically(path, content.getvalue())
