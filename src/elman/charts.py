"""Pictures of a run: its losses and scores, which labels are taken for which, and forecasts beside the truth."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from elman import fonts
from elman.errors import InputError
from elman.files import check_writable, write_atomically

NAME = 30  # characters of a label that are drawn at most
MANY = 1000  # points, above which they are drawn small and pale
POINTS = 20_000  # that are drawn at most
QUIET = 12  # nats below the loudest band that are told apart
CHANNELS = 6  # that are drawn of a sequence
PANELS = 9  # of values that are drawn
LEGEND = 32  # classes that are named at most
CHANCE = 0.05  # of a symbol at some step, above which it is drawn
SYMBOLS = 40  # that are drawn of a sequence
LONG = 1000  # steps of one that are drawn
WRITTEN = 120  # symbols that are drawn of a text
LABEL = 80  # characters of a label that are written above a picture
FORMATS = ("png", "svg", "pdf")
_WORDS = {
    "mae": "mean absolute error",
    "mse": "mean squared error",
    "rmse": "root of the mean squared error",
    "huber": "Huber loss",
    "pinball": "pinball loss",
}


def losses(
    rows: list[dict[str, str]],
    measure: str,
    score: str,
    baselines: Mapping[str, float],
    per: str,
    kept: int,
    title: str = "",
    higher_is_better: bool = False,
) -> Figure:
    """Draws the training and the held-out loss over a run, and the score if that is something else.

    measure: the unit of the loss; per: of what, if that needs saying. baselines: lines, in the unit of the score. kept: the step whose
    parameters were kept. higher_is_better: of the score. The axes reach as far as the curves do; a baseline far from
    them is named at the edge. What falls to a tenth and less has a logarithmic axis.
    """
    held_out = f"validation_{measure}"
    needed = ("epoch", f"train_{measure}", held_out, score)
    values = {column: np.array([float(row[column]) for row in rows]) for column in needed}
    own = not np.allclose(values[score], values[held_out], rtol=1e-5, equal_nan=True)
    figure = Figure(figsize=(8, 7 if own else 4.4), layout="constrained")
    panels: list[Axes] = list(figure.subplots(1 + own, 1, sharex=True, squeeze=False)[:, 0])
    epochs = values["epoch"]
    best = next((k for k, row in enumerate(rows) if int(row["step"]) == kept), None)

    def draw(axis: Axes, curves: Mapping[str, str], falls: bool) -> None:
        for column, label in curves.items():
            color = "C1" if label == "validation" else "C0"
            axis.plot(epochs, values[column], marker=".", label=label, color=color)
        if best is not None:
            axis.axvline(epochs[best], color="C2", linewidth=1, alpha=0.5)
            mark = {"marker": "o", "fillstyle": "none", "markersize": 11, "markeredgewidth": 2, "linestyle": "none"}
            axis.plot(epochs[best], values[list(curves)[-1]][best], color="C2", label=f"kept: step {kept}", **mark)
        every = np.concatenate([values[column] for column in curves])
        every = every[np.isfinite(every)]
        if falls and len(every) and every.min() > 0 and every.max() > 10 * every.min():
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_ylim(_widened(axis, every, 0.08))
        axis.grid(alpha=0.3)

    draw(panels[0], {f"train_{measure}": "training, since the last point", held_out: "validation"}, falls=True)
    name = _WORDS.get(measure, measure)
    panels[0].set_ylabel(f"{name} per {per}" if per else name)
    if own:
        draw(panels[1], {score: "validation"}, falls=not higher_is_better)
        panels[1].set_ylabel(_WORDS.get(score, score.replace("_", " ")))
    _name_levels(panels[-1], baselines)
    for axis in panels:
        axis.legend(loc="best")
    panels[-1].set_xlabel("epochs")
    panels[0].set_title(title, parse_math=False)
    return figure


def _widened(axis: Axes, values: ArrayLike, by: float) -> tuple[float, float]:
    """The range of values, and a share of it more on both sides, as far as that is on the axis."""
    forth, back = (np.log10, lambda x: 10**x) if axis.get_yscale() == "log" else (np.asarray, np.asarray)
    scaled = forth(values) if np.size(values) else np.zeros(1)
    low, high = float(scaled.min()), float(scaled.max())
    room = by * (high - low) or 0.1 * abs(high) or 1.0
    return float(back(low - room)), float(back(high + room))


def _name_levels(axis: Axes, levels: Mapping[str, float]) -> None:
    """Draws a line for each level and names it at the right edge.

    The axis grows by a quarter of its range at most, up and down. Levels further off are named at its end, with an arrow.
    """
    low, high = _widened(axis, axis.get_ylim(), 0.25)
    near = [level for level in levels.values() if low <= level <= high]
    if near:
        axis.set_ylim(_widened(axis, [*axis.get_ylim(), *near], 0.03))
    bottom, top = axis.get_ylim()
    free = 1.0  # of the height; names are written from above, each below the last one
    for name, level in sorted(levels.items(), key=lambda item: -item[1]):
        if bottom <= level <= top:
            axis.axhline(level, color="0.4", linestyle="--", linewidth=1)
            arrow, height = "", float(axis.transAxes.inverted().transform(axis.transData.transform((0, level)))[1])
        else:
            arrow, height = ("↑ ", 1.0) if level > top else ("↓ ", 0.0)
        height = min(height, free)
        free = height - 0.07
        axis.text(1.01, height, f"{arrow}{name} {level:.3f}", color="0.3", fontsize=9, va="center",
                  transform=axis.transAxes, parse_math=False)  # fmt: skip


def confusion(counts: NDArray[np.int64], labels: Sequence[str], what: str, of: str, most: int = 30) -> Figure:
    """Draws which label is taken for which: a row for each true one, shaded by its share, with counts written in.

    what: what a label is called; of: what is counted. Of more than `most` labels the most frequent ones are shown.
    """
    shown = np.sort(np.argsort(-counts.sum(1), kind="stable")[:most])
    counts = counts[np.ix_(shown, shown)]
    names = [_short(str(labels[k])) for k in shown]
    share = counts / np.maximum(1, counts.sum(1, keepdims=True))
    size = 2.6 + 0.42 * len(names) + 0.14 * max(0, max(map(len, names)) - 10)
    # "constrained" makes no room on the left for what stands beside axes of equal sides.
    figure = Figure(figsize=(size + 1.0, size), layout="compressed")
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
    axis.set_title(
        f"{of} of the validation set" + (f", the {most} most frequent {what}s" if len(labels) > most else "")
    )
    figure.colorbar(image, ax=axis, label=f"share of the true {what}", fraction=0.046)
    return figure


def reliability(
    sure: NDArray[Any], right: NDArray[Any], count: NDArray[np.int64], error: float, of: str, apart: bool
) -> Figure:
    """Draws how often the likeliest class is right against its probability, for bins of labels. A bin below the line is too sure.

    sure, right: (bins,). count: of the labels in each bin, of what is counted. error: the mean distance of sure and right.
    apart: whether labels know nothing of each other, so that it is known how far bins are from the line by chance.
    """
    figure, size = Figure(figsize=(5.2, 5.0), layout="constrained"), int(np.median(count))
    axis, line = figure.subplots(), np.linspace(0, 1, 201)
    if apart:
        spread = 1.96 * np.sqrt(line * (1 - line) / size)
        low, high = (np.clip(line + sign * spread, 0, 1) for sign in (-1, 1))
        axis.fill_between(line, low, high, color="0.9", label="95 % of bins, by chance")
    axis.plot(line, line, color="0.5", linewidth=1, label="right as often as it says")
    axis.plot(sure, right, "o-", color="C0", markersize=4, label=f"{len(sure)} bins of {size:,} {of}")
    least = max(0.0, min(sure.min(), right.min()) - 0.05)
    axis.set_xlim(least, 1.01)
    axis.set_ylim(least, 1.01)
    axis.set_aspect("equal")
    axis.set_xlabel("probability of the likeliest class, on average")
    axis.set_ylabel("share in which it is right")
    axis.set_title(f"{of} of the validation set: calibration error {error:.4f}", fontsize=10)
    axis.legend(loc="lower right", fontsize=8)
    axis.grid(alpha=0.3)
    return figure


def found(
    classes: list[str], precision: NDArray[Any], recall: NDArray[Any], count: NDArray[np.int64], of: str
) -> Figure:
    """Draws precision and recall of each class, (C,), as bars; frequent classes are above.

    count: how often each is there, of what is counted. Of more than `SYMBOLS` classes the most frequent ones are drawn.
    """
    order = np.argsort(-count, kind="stable")[:SYMBOLS].tolist()
    figure = Figure(figsize=(7, 1.6 + 0.42 * len(order)), layout="constrained")
    axis = figure.subplots()
    place = np.arange(len(order))
    axis.barh(
        place - 0.19, precision[order], 0.36, color="C0", label="precision: how many of those that are said are right"
    )
    axis.barh(place + 0.19, recall[order], 0.36, color="C1", label="recall: how many of those that are there are said")
    axis.set_yticks(place, [f"{_short(classes[k])}  {count[k]:,}" for k in order], parse_math=False)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.margins(y=0.01)
    axis.grid(alpha=0.3, axis="x")
    title = f"classes of the validation {of}, and how many have each"
    # Over the figure and not the axes, which long names make narrow.
    figure.suptitle(title + (f"; the {len(order)} most frequent" if len(order) < len(classes) else ""), fontsize=10)
    figure.legend(loc="outside lower center", fontsize=8)
    return figure


def overlapping_steps(
    values: NDArray[Any],
    truth: NDArray[Any],
    chances: NDArray[Any],
    classes: Sequence[str],
    first: int,
    seconds: float | None = None,
) -> Figure:
    """Draws the numbers of a sequence (T, channels), and below them a row for each class: how likely it is there, and where it is.

    truth, chances: (T, C); truth is 1 where a class is there, and NaN where that is not known. Classes that are there or
    likely at some step are drawn. first: the number of the first step, from 0.
    """
    real = (truth == 1).any(0)
    every = np.flatnonzero(real | (chances > CHANCE).any(0))
    order = np.lexsort([-chances.max(0)[every], ~real[every]])  # those that are there first, then likely ones
    shown = np.sort(every[order][:SYMBOLS]).tolist() or [0]
    figure, axis = _over_steps(values, first, 0.9 + 0.3 * len(shown), seconds=seconds)
    edges = np.arange(len(chances) + 1) + first + 0.5, np.arange(len(shown) + 1) - 0.5
    axis.pcolormesh(*edges, chances[:, shown].T, cmap="Blues", vmin=0, vmax=1)
    for row, k in enumerate(shown):
        there = np.flatnonzero(np.diff(np.concatenate([[0], truth[:, k] == 1, [0]]).astype(int))).reshape(-1, 2)
        axis.hlines([row + 0.38] * len(there), *(there.T + first + 0.5), color="C3", linewidth=2.5)
    axis.set_yticks(range(len(shown)), [_short(classes[k]) for k in shown], parse_math=False)
    axis.invert_yaxis()
    left_out = f"; {len(every) - SYMBOLS} others are left out" if len(every) > SYMBOLS else ""
    axis.set_title("how likely each class is (blue), and where it is (red)" + left_out, fontsize=10)
    return figure


def _short(name: str) -> str:
    """Returns as much of a label as is drawn: of long ones the beginning and the end, by which they often differ."""
    return name if len(name) <= NAME else f"{name[: NAME // 2]}…{name[1 + NAME // 2 - NAME :]}"


def agreement(
    truth: NDArray[Any], predicted: NDArray[Any], said: NDArray[Any], names: Sequence[str], of: str
) -> Figure:
    """Draws predicted numbers over true ones, all (N, V), a panel for each of V values: good ones are near the diagonal.

    A true one is NaN where there is none. said: (N, V, outputs), of which the first and the last are the outer quantiles,
    if there are several. names: of the values. of: what they are numbers of. Of very many, some at equal distances are drawn.
    """
    count = min(PANELS, truth.shape[1])
    wide = min(3, count)
    tall = -(-count // wide)
    figure = Figure(figsize=(5.4, 5) if count == 1 else (3.8 * wide, 3.6 * tall), layout="constrained")
    for k, axis in enumerate(figure.subplots(tall, wide, squeeze=False).flat):
        there = np.flatnonzero(np.isfinite(truth[:, k])) if k < count else np.empty(0, int)
        if not len(there):
            axis.set_axis_off()
            continue
        _agreement(axis, truth[there, k], predicted[there, k], said[there, k])
        axis.set_title(f"{of} of the validation set" if count == 1 else _short(names[k]), fontsize=10, parse_math=False)
    _say_if_few(figure, count, len(names))
    return figure


def _say_if_few(figure: Figure, shown: int, values: int) -> None:
    """Writes above a figure how many of the values it shows, if not all."""
    if shown < values:
        figure.suptitle(f"the first {shown} of {values} values", fontsize=10)


def _agreement(axis: Axes, truth: NDArray[Any], predicted: NDArray[Any], said: NDArray[Any]) -> None:
    """Draws predicted numbers over true ones, both (N,). said: (N, outputs)."""
    low, high = said[:, 0], said[:, -1]
    share = f"{((low <= truth) & (truth <= high)).mean():.0%}"
    stride = -(-len(truth) // POINTS)
    truth, predicted, low, high = (each[::stride] for each in (truth, predicted, low, high))
    few = len(truth) <= MANY
    if said.shape[1] > 1:
        label = f"{share} between outer quantiles"
        axis.vlines(truth, low, high, color="C0", alpha=0.35 if few else 0.05, linewidth=1, label=label)
    ends = [min(truth.min(), predicted.min()), max(truth.max(), predicted.max())]
    axis.plot(ends, ends, color="0.4", linestyle="--", linewidth=1, label="equal")
    axis.scatter(truth, predicted, s=12 if few else 4, alpha=0.7 if few else 0.2, color="C0", linewidths=0)
    axis.set_xlabel("true value")
    axis.set_ylabel("predicted value")
    axis.legend(fontsize=8, loc="upper left")
    axis.grid(alpha=0.3)


def labelled_steps(
    values: NDArray[Any],
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    classes: Sequence[str],
    first: int,
    seconds: float | None = None,
) -> Figure:
    """Draws the numbers of a sequence (T, channels), and below them the true and the predicted class of each step, (T,).

    A true class is negative where it is not known. first: the number of the first step, from 0.
    """
    figure, axis = _over_steps(values, first, 2.0, seconds=seconds)
    x = np.arange(len(values) + 1) + first + 0.5
    shown = sorted({*truth[truth >= 0].tolist(), *predicted.tolist()})
    colors = {k: f"C{n}" if n < 10 else matplotlib.colormaps["tab20b"](n % 20) for n, k in enumerate(shown)}
    for height, own in ((1.1, truth), (0.0, predicted)):
        cuts = [0, *(np.flatnonzero(np.diff(own)) + 1), len(own)]
        for begin, end in pairwise(cuts):
            if (k := int(own[begin])) >= 0:
                axis.barh(height, x[end] - x[begin], 0.9, x[begin], color=colors[k], linewidth=0)
    axis.set_yticks([1.1, 0.0], ["true", "predicted"])
    handles = [Patch(color=colors[k], label=_short(str(classes[k]))) for k in shown]
    legend = figure.legend(handles=handles[:LEGEND], loc="outside lower center", fontsize=8, ncols=8)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def valued_steps(
    values: NDArray[Any],
    truth: NDArray[Any],
    said: NDArray[Any],
    middle: NDArray[Any],
    names: Sequence[str],
    first: int,
    seconds: float | None = None,
) -> Figure:
    """Draws the numbers of a sequence (T, channels), and below them the true values of each step, (T, V), and what is said of them.

    said: (T, V, outputs), of which the first and the last are the outer quantiles, if there are several; middle: (T, V), of
    these the one that is compared. A true value is NaN where it is not known. names: of the values, of which some are
    drawn. first: the number of the first step, from 0.
    """
    count = min(CHANNELS, truth.shape[1])
    figure, *axes = _over_steps(values, first, *[3.0 if count == 1 else 1.8] * count, seconds=seconds)
    x = np.arange(len(values)) + first + 1
    for k, axis in enumerate(axes):
        if said.shape[-1] > 1:
            low, high = said[:, k, 0], said[:, k, -1]
            axis.fill_between(x, low, high, color="C0", alpha=0.2, linewidth=0, label="outer quantiles")
        lonely = np.isfinite(truth[:, k]).mean() < 0.5  # values far apart make no line
        axis.plot(x, truth[:, k], color="k", linewidth=1, marker="." if lonely else "", label="true")
        axis.plot(x, middle[:, k], color="C0", linewidth=1.4, label="predicted")
        axis.grid(alpha=0.3)
        if count > 1:
            axis.set_ylabel(_short(names[k]), parse_math=False)
    _say_if_few(figure, count, len(names))
    axes[0].legend(fontsize=8, loc="best")
    return figure


def spoken_steps(
    values: NDArray[Any] | None,
    chances: NDArray[Any],
    symbols: Sequence[str],
    said: NDArray[np.int64],
    steps: NDArray[np.int64],
    label: str,
    seconds: float | None = None,
) -> Figure:
    """Draws the numbers of a sequence (T, channels), None for a text, and below them how likely each step says each symbol.

    chances: (T, symbols). said: (n,), the numbers of the symbols that are said, and steps: where. label: what is true. Symbols
    that are said are shown, and those that are likely at some step. Of very long sequences the beginning is shown.
    """
    chances = chances[:LONG]
    said, steps = said[steps < LONG], steps[steps < LONG]
    likely = np.flatnonzero(chances.max(0) > CHANCE)
    shown = sorted(list(dict.fromkeys([*said.tolist(), *likely.tolist()]))[:SYMBOLS]) or [0]
    rows = {k: row for row, k in enumerate(shown)}
    values = np.empty((len(chances), 0)) if values is None else values[:LONG]
    figure, axis = _over_steps(values, 0, 0.9 + 0.2 * len(shown), seconds=seconds)
    edges = np.arange(len(chances) + 1) + 0.5, np.arange(len(shown) + 1) - 0.5
    axis.pcolormesh(*edges, chances[:, shown].T, cmap="Blues", vmin=0, vmax=1)
    axis.set_yticks(range(len(shown)), [_short(repr(symbols[k])[1:-1]) for k in shown], parse_math=False)
    axis.invert_yaxis()
    own = [(step + 1, rows[k]) for step, k in zip(steps.tolist(), said.tolist(), strict=True) if k in rows]
    axis.plot(*zip(*own, strict=True) if own else ([], []), "o", color="C3", markersize=3)
    axis.set_title(f"how likely a step says each symbol; the label is {label[:LABEL]!r}", fontsize=10, parse_math=False)
    return figure


def attention(
    values: NDArray[Any] | None,
    tokens: Sequence[str] | None,
    look: NDArray[Any],
    written: Sequence[str],
    label: str,
    seconds: float | None = None,
) -> Figure:
    """Draws how much each symbol that is written looks at the steps of a sequence, below its numbers or over its tokens.

    values: (T, channels); None for a text, which has tokens (T,). look: (N, T). written: (N,). label: what is true. Of very
    long sequences and texts the beginning is shown.
    """
    look, written = look[:WRITTEN, :LONG], written[:WRITTEN]
    values = np.empty((look.shape[1], 0)) if values is None else values[:LONG]
    figure, axis = _over_steps(values, 0, 0.9 + 0.2 * len(written), seconds=seconds)
    edges = np.arange(look.shape[1] + 1) + 0.5, np.arange(len(written) + 1) - 0.5
    axis.pcolormesh(*edges, look, cmap="Blues", vmin=0, vmax=1)
    axis.set_yticks(range(len(written)), [_short(each) for each in written], parse_math=False)
    axis.invert_yaxis()
    if tokens is not None and len(tokens) <= SYMBOLS:
        axis.set_xticks(range(1, 1 + len(tokens)), [_short(each) for each in tokens], parse_math=False)
        axis.set_xlabel("")
        if max(map(len, tokens), default=0) > 1:
            axis.tick_params("x", rotation=90)
    axis.set_title(
        f"how much each symbol looks at what is read; the label is {label[: LABEL // 2]!r}",
        fontsize=10,
        parse_math=False,
    )
    return figure


def _over_steps(values: NDArray[Any], first: int, *heights: float, seconds: float | None = None) -> Any:
    """Draws the numbers of a sequence (T, channels), NaN where one is missing, over its steps.

    seconds: of a step of a recording, whose channels are bands of frequencies, which are drawn as rows of colour; None
    for other sequences.

    Returns the figure, and empty axes of these heights below. Without channels, there is nothing above them.
    """
    upper = [2.2] if values.shape[1] else []
    every = [*upper, *heights]
    figure = Figure(figsize=(10, sum(every) + 0.4), layout="constrained")
    axes = figure.subplots(len(every), 1, sharex=True, squeeze=False, height_ratios=every)[:, 0]
    above, below = axes[: len(upper)], axes[len(upper) :]
    for axis in above:
        if seconds is not None:
            edges = np.arange(len(values) + 1) + first + 0.5, np.arange(values.shape[1] + 1) + 0.5
            axis.pcolormesh(*edges, values.T, cmap="magma", vmin=values.max() - QUIET)
            axis.set_ylabel("band")
            axis.set_title("how loud each band of frequencies is; a recording of the validation set", fontsize=10)
            continue
        there = np.ma.masked_invalid(values)
        deviation = there.std(0).filled(0.0)
        scaled = (there - there.mean(0)) / np.where(deviation > 0, deviation, 1.0)
        marker = "." if np.ma.is_masked(there) else ""  # a number between two that are missing makes no line
        steps = np.arange(len(values)) + first + 1
        axis.plot(steps, scaled[:, :CHANNELS].filled(np.nan), linewidth=0.8, marker=marker, markersize=3)
        of = f"the first {CHANNELS} of {values.shape[1]} channels" if values.shape[1] > CHANNELS else "channels"
        axis.set_title(f"{of}, in deviations from their means; a sequence of the validation set", fontsize=10)
        axis.grid(alpha=0.3)
    below[-1].set_xlim(first + 0.5, first + len(values) + 0.5)
    if seconds is None:
        below[-1].set_xlabel("step")
        below[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        times = np.array(MaxNLocator(9).tick_values(first * seconds, (first + len(values)) * seconds))
        times = times[(times >= first * seconds) & (times <= (first + len(values)) * seconds)]
        below[-1].set_xlabel("second")
        below[-1].set_xticks(times / seconds + 0.5, [f"{time:g}" for time in times])
    return figure, *below


def forecasts(panels: Mapping[str, Mapping[str, Any]], horizon: int) -> Figure:
    """Draws forecasts beside the truth, a panel for each series.

    A panel has `past` (P,), `truth` (horizon,), `forecast` (horizon,), and may have `low` and `high` (horizon,) and
    further lines in `others`, a mapping from names to (horizon,).
    """
    figure = Figure(figsize=(9, 1.0 + 2.3 * len(panels)), layout="constrained")
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
        axis.set_title(name, loc="left", fontsize=10, parse_math=False)  # a long one has room here
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", fontsize=9, ncols=6)
    axes[-1].set_xlabel("steps from the time of the forecast")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


class Around(NamedTuple):
    """The rows around a stretch that is unusual, (rows,) each: their times, or their numbers, and one of the columns."""

    title: str
    x: NDArray[Any]
    values: NDArray[Any]
    expected: NDArray[Any]
    unusual: NDArray[np.bool_]


def unusual(
    name: str, along: str, x: NDArray[Any], scores: NDArray[Any], limit: float, panels: Sequence[Around]
) -> Figure:
    """Draws how unusual the rows of a series are, and below that a panel for each of its unusual stretches.

    name: that of the series. along: what x is called. x: (rows,), times or numbers of the rows. limit: the largest score
    that is usual.
    """
    figure = Figure(figsize=(9, 2.8 + 2.2 * len(panels)), layout="constrained")
    above, *axes = figure.subplots(1 + len(panels), 1, squeeze=False)[:, 0]
    over, least = scores > limit, max(limit, 1e-3)  # where forecasts never err, all scores are 0
    above.plot(x, np.maximum(scores, 1e-6), color="0.5", linewidth=0.7)
    above.plot(x[over], scores[over], ".", color="C3", markersize=4, label="unusual")
    above.axhline(least, color="k", linewidth=0.8, linestyle="--", label=f"limit {limit:.3g}")
    above.set_yscale("log")
    above.set_ylim(least / 20, 5 * float(np.nanmax(scores, initial=least)))  # with room for the legend
    above.set_title(f"score {name}".strip(), loc="left", fontsize=10, parse_math=False)
    above.legend(fontsize=8, loc="upper left", ncols=2)
    for axis, panel in zip(axes, panels, strict=True):
        axis.plot(panel.x, panel.expected, color="C0", linewidth=1.2, label="expected")
        axis.plot(panel.x, panel.values, color="k", linewidth=1, label="value")
        marked = panel.x[panel.unusual], panel.values[panel.unusual]
        axis.plot(*marked, ".", color="C3", markersize=5, label="unusual row")
        axis.set_title(panel.title, loc="left", fontsize=10, parse_math=False)
    if axes:
        axes[0].legend(fontsize=8, loc="best")
    for axis in (above, *axes):
        axis.grid(alpha=0.3)
        axis.margins(x=0.01)
        if x.dtype.kind == "M":
            axis.xaxis.set_major_formatter(ConciseDateFormatter(axis.xaxis.get_major_locator()))
        elif x.dtype.kind == "i":
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    (above, *axes)[-1].set_xlabel(along, parse_math=False)
    return figure


def trials(scores: Sequence[tuple[int, float | None]], score: str, higher_is_better: bool) -> Figure:
    """Draws the score of every training of a search; those that were stopped early stand on the lower edge.

    score: what it is called, with its unit.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    complete = [(number, value) for number, value in scores if value is not None]
    if complete:
        axis.plot(*zip(*complete, strict=True), "o", label="trained to the end")
    stopped = [number for number, value in scores if value is None]
    if stopped:
        edge = {"transform": axis.get_xaxis_transform(), "clip_on": False}  # not a place among the scores
        axis.plot(stopped, [0.0] * len(stopped), "x", color="0.6", label="stopped early", **edge)
    axis.set_xlabel("trial")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.set_ylabel(f"{score} ({'higher' if higher_is_better else 'lower'} is better)")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def check_path(path: Path) -> None:
    """Raises InputError if no picture can be written there, so that this is said before the work and not after it."""
    _kind(path)
    check_writable(path)


def _kind(path: Path) -> str:
    kind = path.suffix.lstrip(".").lower() or "png"
    if kind not in FORMATS:
        raise InputError(f"{path}: pictures are not written as .{kind}; choose png, svg or pdf")
    return kind


def save(figure: Figure, path: Path) -> None:
    """Writes a picture in the format that its file name ends with. The file is written whole or not at all."""
    content, kind = io.BytesIO(), _kind(path)
    fonts.complete(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # `complete` has said so
        figure.savefig(content, format=kind, dpi=130)
    write_atomically(path, content.getvalue())
