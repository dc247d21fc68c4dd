"""Pictures of a network's gates, states and gradients along a text."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from elman.datasets.vocabulary import Vocabulary
from elman.errors import InputError
from elman.explain.trace import trace
from elman.tasks.language_model import LanguageModel, check_text

SHOWN = 120  # tokens in a picture at most, the last ones of the text; the model reads the whole text
_VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥"}


class Insight(NamedTuple):
    """What one layer did along a text of T + 1 tokens. The model read the first T and predicted the last."""

    tokens: list[str]  # T + 1
    gates: dict[str, Tensor]  # each (T, H)
    states: dict[str, Tensor]  # each (T, width)
    gradients: dict[str, NDArray[Any]]  # each (T,): the norm of d loss / d state, for the state after step t


def look(model: LanguageModel, vocabulary: Vocabulary, text: str, layer: int) -> Insight:
    """Runs the model over a text. Traces one layer, and differentiates the last prediction's loss by its states."""
    check_text(text, "the text")
    ids = torch.from_numpy(vocabulary.encode(text).copy()).long()
    layers = model.recurrent.num_layers
    if not 1 <= layer <= layers:
        raise InputError(f"--layer must lie between 1 and {layers}, the layers of this model, got {layer}")
    if len(ids) < 3:
        raise InputError(f"the text has {len(ids)} tokens; give at least 3, so that there is a past to look back on")
    model.eval()
    with torch.enable_grad():
        traced = trace(model.recurrent, model.embedding(ids[:-1, None]))
        loss = cross_entropy(model.logits(traced.output[-1]), ids[-1:])
        recurrence = traced.recurrences[layer - 1]
        gradients = {}
        for name in recurrence.states:
            found = torch.autograd.grad(
                loss, [step[name] for step in recurrence.steps], retain_graph=True, allow_unused=True
            )
            gradients[name] = np.array([0.0 if g is None else float(g.norm()) for g in found])
    # A new decoder for each token, so that the text of a token does not depend on those before it.
    spell = [vocabulary.decoder()(int(token)) for token in ids]
    return Insight(
        spell,
        {name: value[:, 0].detach() for name, value in recurrence.gates.items()},
        {name: value[:, 0].detach() for name, value in recurrence.states.items()},
        gradients,
    )


def memory(insight: Insight, title: str, units: int) -> Figure:
    """Draws heat maps of gates, states and output along the text, and below them how far back the loss looks.

    The heat maps show the most active units: those whose output varies most along the text. The lowest panel shows,
    for each position, the norm of the gradient of the last prediction's loss with respect to the state there.
    """
    output = next(iter(insight.states.values()))
    active = output.std(0).argsort(descending=True)[:units]
    begin = max(0, len(insight.tokens) - 1 - SHOWN)
    tokens = insight.tokens[begin:-1]
    panels = {f"gate {name}": value for name, value in insight.gates.items()}
    if len(insight.states) > 1:
        panels |= {
            f"state {name}": value for name, value in insight.states.items() if name != next(iter(insight.states))
        }
    panels |= {"output " + next(iter(insight.states)): output}

    height = 1.0 + 0.09 * len(active)
    figure = Figure(figsize=(max(7.0, 1.6 + 0.135 * len(tokens)), height * len(panels) + 3.2), layout="constrained")
    axes = figure.subplots(
        len(panels) + 1, 1, sharex=True, height_ratios=[height] * len(panels) + [2.6], squeeze=False
    )[:, 0]
    for axis, (name, value) in zip(axes, panels.items(), strict=False):
        shown = value[begin:, active].T.numpy()  # (units, T)
        positive = shown.min() >= 0
        top = 1.0 if np.abs(shown).max() <= 1 else float(np.abs(shown).max())
        image = axis.imshow(
            shown,
            aspect="auto",
            interpolation="nearest",
            cmap="viridis" if positive else "RdBu_r",
            vmin=0.0 if positive else -top,
            vmax=top,
        )
        axis.set_ylabel(f"{name}\n({len(active)} units)")
        axis.set_yticks([])
        figure.colorbar(image, ax=axis, pad=0.01, aspect=8)
    last: Axes = axes[-1]
    for name, norms in insight.gradients.items():
        last.semilogy(np.where(norms[begin:] > 0, norms[begin:], np.nan), marker=".", label=f"‖∂loss/∂{name}‖")
    last.set_ylabel("how far back\nthe loss looks")
    last.grid(alpha=0.3)
    last.legend(loc="upper left")
    last.set_xticks(
        range(len(tokens)),
        [_visible(token) for token in tokens],
        family="monospace",
        fontsize=9,
        rotation=90 if max(map(len, tokens)) > 1 else 0,
        parse_math=False,
    )
    last.set_xlabel(
        f"the text; the loss is that of predicting {_visible(insight.tokens[-1])!r} after it", parse_math=False
    )
    last.set_xlim(-0.5, len(tokens) - 0.5)
    figure.suptitle(title)
    return figure


def _visible(token: str) -> str:
    return "".join(_VISIBLE.get(c, c if c.isprintable() else "·") for c in token)
