"""What the page of a forecaster holds: what the network reads of its past."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elman.datasets import series
from elman.datasets.reading import BadRows
from elman.datasets.series import Series
from elman.errors import InputError
from elman.explain.contents import Contents, described, held_out_part, rounded
from elman.recurrence import use_engine
from elman.tasks import forecasting
from elman.tasks.forecasting import Forecaster, Options

WINDOWS = 4  # of so many series or columns
AHEAD = 24  # steps ahead whose gradients are kept at most, at equal distances
BESIDE = 6  # other columns that a page shows


def forecaster(run: Path, text: str | None, data: Path | None) -> Contents:
    """Returns what the page of a forecaster holds: the last window of each column whose true values are known.

    data: a file of series; None for the one that the run was trained on.
    """
    if text is not None:
        raise InputError(f"{run} forecasts numbers and reads no text; give --data instead of --text")
    trained = forecasting.load(run)
    options, scales = trained.options, trained.scales
    page = {"task": "forecast"} | described(run, trained.model, options, scales.targets)
    if data is not None:
        every = _long_enough(_given(data, trained), options, data, "give more")
    else:
        with held_out_part(run, "--data"):
            every = _long_enough(trained.read_again(), options, trained.path, "it has changed")
    columns = range(len(scales.targets))
    # Before the first number of a column stands this one, which no forecast may read.
    whole = [
        (one, k)
        for one, k in product(every, columns)
        if one.given is None or one.given[: len(one.given) - options.horizon, k].any()
    ]
    if not whole:
        raise InputError(
            f"{data or trained.path} has no number before its last {options.horizon} rows, so a forecast has nothing to read; give more"
        )
    windows = [_window(trained, one, k) for one, k in whole[:WINDOWS]]
    remarks = [f"the page shows the first {WINDOWS} of {len(whole)} columns"] if len(whole) > WINDOWS else []
    if len(scales.beside) > BESIDE:
        remarks.append(f"the page shows the first {BESIDE} of {len(scales.beside)} columns beside them")
    return Contents(page | {"lookback": options.lookback, "windows": windows}, [], remarks)


def _given(data: Path, trained: Forecaster) -> list[Series]:
    o = trained.options
    # Only where the last rows alone are read may rows of times ahead follow, whose targets are empty, as for a forecast.
    # Where bad rows are skipped, so are these.
    tail = None if o.skip_bad else o.lookback + o.horizon
    return series.read(data, trained.scales.columns(o), BadRows(o.skip_bad), fill_gaps=o.fill_gaps, tail=tail)[0]


def _long_enough(every: list[Series], options: Options, path: Path | None, remedy: str) -> list[Series]:
    """Returns the series that have a window. Raises InputError if none has."""
    need = options.lookback + options.horizon
    found = [one for one in every if len(one.targets) >= need]
    if not found:
        longest = max((len(one.targets) for one in every), default=0)
        raise InputError(
            f"{path} has {longest} rows in its longest series, but a forecast and its true values need {need}; {remedy}"
        )
    return found


def _window(trained: Forecaster, one: Series, k: int) -> dict[str, Any]:
    """Returns the last window of column k: past, forecast and truth in its unit, and d forecast / d past."""
    o, scales = trained.options, trained.scales
    end, scale = len(one.targets), scales.of_series(one, o)
    mean, deviation = scale.mean[k], scale.deviation[k]
    begin = end - o.lookback - o.horizon
    values = torch.from_numpy((one.targets[begin:, k] - mean) / deviation)  # (lookback + horizon,)
    known = torch.from_numpy(scales.scaled_known(one.known[begin:end]))[:, None].requires_grad_()
    double = Forecaster(deepcopy(trained.model).double().eval(), scales, o)
    past = values[: o.lookback, None].clone().requires_grad_()
    with use_engine("reference"):
        forecast = double.differentiable(past, torch.tensor([k]), known)  # (horizon, 1, outputs)
        middle = double.criterion.middle(forecast)[:, 0]
        ahead = np.unique(np.linspace(0, o.horizon - 1, min(AHEAD, o.horizon)).astype(int)).tolist()
        every = [torch.autograd.grad(middle[j], (past, known), retain_graph=True, allow_unused=True) for j in ahead]
        gradients = [by_past[:, 0] for by_past, _ in every]
        beside = _beside(
            double, past.detach(), known.detach(), k, [by_known for _, by_known in every], middle[ahead].detach(), ahead
        )
        # The model forecasts the change from the last value and adds this value again, so that one counts 1 more. It is
        # taken away before rounding, which would leave little of what remains.
        last = torch.eye(o.lookback, dtype=torch.float64)[-1]

    given = np.ones(o.horizon, bool) if one.given is None else one.given[end - o.horizon :, k]

    def own(these: Tensor) -> list[float]:
        return [rounded(float(v), deviation) for v in these.detach().numpy() * deviation + mean]

    return {
        "column": scales.targets[k],
        "group": one.group,
        "past": own(values[: o.lookback]),
        "truth": [v if told else None for v, told in zip(own(values[o.lookback :]), given, strict=True)],
        "forecast": own(middle),
        "quantiles": o.quantile_list,
        "spread": [own(forecast[:, 0, q]) for q in range(forecast.shape[2])] if len(o.quantile_list) > 1 else [],
        "ahead": ahead,
        # Past and forecast are in one unit, so these are what they are in deviations.
        "gradients": [[rounded(v) for v in (each - last).tolist()] for each in gradients],
        "beside": [
            each | {"bears": [[rounded(v * deviation) for v in row] for row in each["bears"]]} for each in beside
        ],
    }


@torch.no_grad()
def _beside(
    double: Forecaster,
    past: Tensor,
    known: Tensor,
    k: int,
    gradients: Sequence[Tensor | None],
    middle: Tensor,
    ahead: Sequence[int],
) -> list[dict[str, Any]]:
    """Returns how each value of other columns bears on the forecasts of some steps ahead, in deviations of these.

    Of a number it is the gradient, by its own unit. Of a word it is how much higher the forecast is than with the stand-in
    for unknown words in its place. known: (lookback + horizon, 1, n). gradients: by it, for each of the steps; None if
    it has no part in them. middle: (len(ahead),), the forecasts of these steps.
    """
    o, scales, found = double.options, double.scales, list[dict[str, Any]]()
    for n, name in enumerate(scales.beside[:BESIDE]):
        steps = o.lookback + (o.horizon if name in scales.known else 0)
        words = None
        if name in scales.words:
            codes, every = known[:steps, 0, n].long().tolist(), [None, *scales.words[name]]
            words = [every[code] for code in codes]
            others = known.repeat(1, steps, 1)
            others[torch.arange(steps), torch.arange(steps), n] = 0.0
            without = double.differentiable(past.repeat(1, steps), torch.full((steps,), k), others)
            bears = middle[:, None] - double.criterion.middle(without)[ahead]  # (len(ahead), steps)
        else:
            own = scales.deviation[len(scales.targets) + scales.others.index(name)]
            rows = [torch.zeros(steps) if each is None else each[:steps, 0, n] / own for each in gradients]
            bears = torch.stack(rows)
        found.append({"name": name, "words": words, "bears": bears.tolist()})
    return found
