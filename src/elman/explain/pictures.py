"""Pictures of a network's gates, states and gradients along a text."""

from __future__ import annotations

from collections.abc import Sequence
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
from elman.explain.memory import by_memory, encoded
from elman.explain.trace import trace
from elman.explain.units import pieces
from elman.tasks.language_model import LanguageModel

SHOWN = 60  # tokens in a picture at most, the last ones of the text; the model reads the whole text
GRADIENT = "gradient"  # the panel of how far back the loss looks
_VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥"}


class Insight(NamedTuple):
    """What one layer did along a text of T + 1 tokens. The model read the first T and predicted the last."""

    tokens: list[str]  # T + 1
    gates: dict[str, Tensor]  # each (T, H)
    states: dict[str, Tensor]  # each (T, width)
    gradients: dict[str, NDArray[Any]]  # each (T,): the norm of d loss / d state, for the state after step t


def look(model: LanguageModel, vocabulary: Vocabulary, text: str, layer: int) -> Insight:
    """Runs the model over a text. Traces one layer, and differentiates the last prediction's loss by its states."""
    ids = encoded(vocabulary, text)
    layers = model.recurrent.num_layers
    if not 1 <= layer <= layers:
        raise InputError(f"--layer must lie between 1 and {layers}, the layers of this model, got {layer}")
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
    return Insight(
        pieces(vocabulary, text, ids),
        {name: value[:, 0].detach() for name, value in recurrence.gates.items()},
        {name: value[:, 0].detach() for name, value in recurrence.states.items()},
        gradients,
    )


def shown(tokens: list[str]) -> int:
    """Returns which token a picture begins with: with a word, if one begins in the first half of what has room."""
    begin = max(0, len(tokens) - SHOWN)
    words = (k for k in range(begin, begin + SHOWN // 2) if begin and _begins_word(tokens[k - 1], tokens[k]))
    return next(words, begin)


def _begins_word(before: str, token: str) -> bool:
    return (token[:1] == " " and token.strip() != "") or (before[-1:].isspace() and not token[:1].isspace())


def memory(insight: Insight, title: str, units: int, panels: Sequence[str] = ()) -> Figure:
    """Draws heat maps of states and gates along the text, and below them how far back the loss looks.

    The heat maps show the units whose cell state, or output if the cell has no other state, remembers most; they are
    numbered as in `elman.trace`. The lowest panel shows, for each position, the norm of the gradient of the last
    prediction's loss with respect to the state there. panels: names of states and gates, and "gradient"; all if empty.
    """
    begin = shown(insight.tokens)
    tokens = insight.tokens[begin:-1]
    maps = _maps(insight)
    if unknown := [name for name in panels if name not in maps and name != GRADIENT]:
        raise InputError(f"--panels got {unknown[0]!r}; this cell has {', '.join([*maps, GRADIENT])}")
    chosen = panels or [*maps, GRADIENT]
    state = list(insight.states.values())[-1]
    rows = by_memory(state[begin:])[:units]

    heights = [2.0 if name == GRADIENT else max(1.2, 0.5 + 0.14 * len(rows)) for name in chosen]
    figure = Figure(figsize=(max(7.0, 1.9 + 0.155 * len(tokens)), sum(heights) + 1.2), layout="constrained")
    axes: list[Axes] = list(figure.subplots(len(chosen), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0])
    for axis, name in zip(axes, chosen, strict=True):
        if name == GRADIENT:
            _draw_gradients(axis, {of: norms[begin:] for of, norms in insight.gradients.items()})
        else:
            values, what, scale = maps[name]
            _draw_map(axis, values[begin:, rows].T.numpy(), name, what, scale, rows.tolist())
    _write_text(axes, tokens)
    of = f"; the loss is that of predicting {_visible(insight.tokens[-1])!r} after it" if GRADIENT in chosen else ""
    axes[-1].set_xlabel(f"the text{of}", parse_math=False)
    figure.suptitle(title, parse_math=False)
    return figure


def _maps(insight: Insight) -> dict[str, tuple[Tensor, str, str]]:
    """The heat maps by name, in their order: (T, H), what it is, and what its colours say. The longest memory comes first."""
    maps: dict[str, tuple[Tensor, str, str]] = {}
    output = next(iter(insight.states))
    for name, value in reversed(insight.states.items()):
        what = "output" if name == output else "cell state"
        maps[name] = value, f"{what} {name}", f"value of {name}"
    for name, value in insight.gates.items():
        if name in maps:  # an Elman network's only gate is its output
            continue
        opens = bool(value.min() >= 0 and value.max() <= 1)
        maps[name] = value, f"gate {name}", "0 shut, 1 open" if opens else f"value of {name}"
    return maps


def _draw_map(axis: Axes, values: NDArray[Any], name: str, what: str, scale: str, units: list[int]) -> None:
    """values: (units, T)."""
    largest = np.abs(values).max(1, keepdims=True)
    if largest.max() > 1:  # a few large units would leave all others pale
        values, scale = values / np.where(largest > 0, largest, 1), f"{name} / largest |{name}|\nof the unit"
    positive = values.min() >= 0
    image = axis.imshow(
        values,
        aspect="auto",
        interpolation="nearest",
        cmap="viridis" if positive else "RdBu_r",
        vmin=0 if positive else -1,
        vmax=1,
    )
    axis.set_yticks(range(len(units)), [str(unit) for unit in units], fontsize=8)
    axis.tick_params(axis="y", length=0, pad=2)
    axis.set_ylabel(f"{what}\nunit number")
    axis.figure.colorbar(image, ax=axis, pad=0.01, aspect=max(8, len(units)), label=scale)


def _draw_gradients(axis: Axes, gradients: dict[str, NDArray[Any]]) -> None:
    for name, norms in gradients.items():
        axis.semilogy(np.where(norms > 0, norms, np.nan), marker=".", label=f"‖∂loss/∂{name}‖")
    axis.set_ylabel("how far back\nthe loss looks")
    axis.grid(alpha=0.3)
    axis.legend(loc="best")


def _write_text(axes: list[Axes], tokens: list[str]) -> None:
    """Writes the tokens along the top and along the bottom."""
    above, below = axes[0], axes[-1]
    for axis in axes:
        axis.set_xlim(-0.5, len(tokens) - 0.5)
        axis.tick_params(axis="x", length=0, labelbottom=axis is below, labeltop=axis is above)
    for axis in (above, below):
        axis.set_xticks(
            range(len(tokens)),
            [_visible(token) for token in tokens],
            family="monospace",
            fontsize=10,
            rotation=90 if max(map(len, tokens)) > 1 else 0,
            parse_math=False,
        )


def _visible(token: str) -> str:
    """A token with signs for what cannot be seen; a token that is not yet a character is a dot."""
    return "·" if not token else "".join(_VISIBLE.get(c, c if c.isprintable() else "·") for c in token)
