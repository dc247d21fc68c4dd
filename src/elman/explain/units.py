"""Units of a language model that track something in the text which takes memory, such as whether a quotation is open."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elman.datasets.vocabulary import WORD, Characters, Vocabulary, Words
from elman.tasks.language_model import LanguageModel

MARGIN = 0.1  # the score of a unit must exceed that of the last token alone by this much
LEAST = 0.5  # and the score must reach this: units of random networks, whose memory fades, have the margin by chance
VARIED = 30  # tokens of each half, at least, whose value is not the most common one

Array = NDArray[np.float64]
States = dict[tuple[int, str], NDArray[Any]]  # by layer and name, each (H, T)


# What a reader of the text may have to remember. Each function gives a value for every character: what holds once that
# character is read. To add a property, write such a function and enter it in _PROPERTIES.


def _quotes(text: str) -> Iterator[float]:
    """1 inside double quotes, straight or typographic. A blank line ends a quotation that nobody closed."""
    ends, inside = _blank_lines(text), False
    for place, character in enumerate(text):
        if place in ends or character == "”":
            inside = False
        elif character == "“":
            inside = True
        elif character == '"':
            inside = not inside
        yield inside


def _brackets(text: str) -> Iterator[float]:
    """1 inside round, square or curly brackets. A blank line ends all brackets that nobody closed."""
    ends, depth = _blank_lines(text), 0
    for place, character in enumerate(text):
        if place in ends:
            depth = 0
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth = max(0, depth - 1)
        yield depth > 0


def _line(text: str) -> Iterator[float]:
    """The number of characters in the line so far."""
    length = 0
    for character in text:
        length = 0 if character == "\n" else length + 1
        yield length


def _indent(text: str) -> Iterator[float]:
    """The number of spaces and tabs before the first other character of the line."""
    indent, leading = 0, True
    for character in text:
        if character == "\n":
            indent, leading = 0, True
        elif leading and character in " \t":
            indent += 1
        else:
            leading = False
        yield indent


def _word(text: str) -> Iterator[float]:
    """The number of letters in the word so far."""
    letters = 0
    for character in text:
        letters = letters + 1 if character.isalpha() else 0
        yield letters


def _blank_lines(text: str) -> set[int]:
    """Returns the places of the newlines that end a blank line."""
    return {found.end() - 1 for found in re.finditer(r"\n[ \t\r]*\n", text)}


_PROPERTIES: dict[str, tuple[str, Callable[[str], Iterator[float]]]] = {
    "quotes": ("flag", _quotes),
    "brackets": ("flag", _brackets),
    "line": ("number", _line),
    "indent": ("number", _indent),
    "word": ("number", _word),
}
PROPERTIES = tuple(_PROPERTIES)


def along(written: Sequence[str], key: str) -> Array:
    """Returns the value of a property after every token, (T,): that after the last character which is complete by then.

    written: the text of each token; "" for one that completes no character.
    """
    # The first token may complete no character, so a value of 0 stands before all.
    values = np.array([0, *_PROPERTIES[key][1]("".join(written))], dtype=np.float64)
    return values[np.cumsum([len(piece) for piece in written], dtype=np.int64)]


def spell(vocabulary: Vocabulary, tokens: Tensor) -> list[str]:
    """Returns the text of each token. Of the bytes of a character the last one has it, and those before it have nothing."""
    decode = vocabulary.decoder()
    return [decode(token) for token in tokens.tolist()]


def pieces(vocabulary: Vocabulary, text: str, tokens: Tensor) -> list[str]:
    """Returns a text in tokens, as it is written: with the characters and words that the vocabulary lacks."""
    if isinstance(vocabulary, Characters):
        return list(text)
    return WORD.findall(text) if isinstance(vocabulary, Words) else spell(vocabulary, tokens)


class Tracking(NamedTuple):
    """A unit and the property that it tracks. Score, alone, precision and recall are measured on the second half."""

    property: str  # one of PROPERTIES
    kind: str  # "flag" or "number"
    layer: int  # from 0
    state: str
    unit: int
    sign: int  # -1 if a flag holds where the unit is low, or a number grows as the unit falls
    threshold: float | None  # a flag holds where sign * unit >= sign * threshold; None for a number
    score: float  # F1 of a flag, correlation of a number
    alone: float  # the same of the best guess from the last token alone
    precision: float | None  # None for a number, as recall
    recall: float | None
    low: float  # the 2nd percentile of the unit's value
    high: float  # the 98th


def find(model: LanguageModel, vocabulary: Vocabulary, tokens: Tensor) -> list[Tracking]:
    """Returns the unit that tracks a property best, for every property that one tracks, in the order of PROPERTIES.

    model: in eval mode. tokens: (T,), held out from training. The first half of them chooses the unit, its sign and its
    threshold, and the second half judges, so that a unit which fits by chance is not believed. A property that hardly
    varies in one of the halves is left out.
    """
    written = spell(vocabulary, tokens)
    values = {key: along(written, key) for key in PROPERTIES}
    varied = {key: value for key, value in values.items() if all(map(_varies, _halves(value)))}
    return tracking(states_along(model, tokens), tokens.cpu().numpy(), varied) if varied else []


@torch.inference_mode()
def states_along(model: LanguageModel, tokens: Tensor) -> States:
    """Runs the model over tokens (T,) from a zero state and returns every state after every token."""
    inputs = model.embedding(tokens.long().to(model.output.weight.device))[:, None]  # (T, 1, E)
    recurrent, state = model.recurrent, None
    steps: list[tuple[Tensor, ...]] = []
    for x in inputs:  # a trace, which also keeps the gates, takes more than twice as long
        _, state = recurrent.step(x, state)
        steps.append((state,) if isinstance(state, Tensor) else state)
    states: States = {}
    for name, of_steps in zip(recurrent.cell.states, zip(*steps, strict=True), strict=True):
        layers = torch.cat(of_steps, 1).float().nan_to_num(0, 0, 0).cpu()  # (L, T, H)
        for layer in range(recurrent.num_layers):
            states[layer, name] = layers[layer].T.contiguous().numpy()
    return states


def tracking(states: States, tokens: NDArray[Any], properties: dict[str, Array]) -> list[Tracking]:
    """Returns what `find` returns. properties: by key the values (T,) of those that vary."""
    found = [_best(states, tokens, key, values) for key, values in properties.items()]
    return [unit for unit in found if unit.score >= max(unit.alone + MARGIN, LEAST)]


def _best(states: States, tokens: NDArray[Any], key: str, values: Array) -> Tracking:
    kind = _PROPERTIES[key][0]
    fit, judge = (_fit_flag, _judge_flag) if kind == "flag" else (_fit_number, _judge_number)
    first, second = _halves(values)
    fits = (
        (fit(_halves(unit)[0], first), layer, state, number)
        for (layer, state), units in states.items()
        for number, unit in enumerate(units)
    )
    chosen, layer, state, number = max(fits, key=lambda each: each[0].strength)
    unit = states[layer, state][number]
    score, precision, recall = judge(_halves(unit)[1], second, chosen)
    # The same guess everywhere may score more than one that the last token decides: where a flag mostly holds, for example.
    guesses = _from_last_token(tokens, values), np.zeros(len(values))
    alone = max(judge(_halves(guess)[1], second, fit(_halves(guess)[0], first))[0] for guess in guesses)
    low, high = np.percentile(unit, [2, 98])
    return Tracking(
        key,
        kind,
        layer,
        state,
        number,
        chosen.sign,
        chosen.threshold,
        score,
        alone,
        precision,
        recall,
        float(low),
        float(high),
    )


def _halves(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    middle = len(values) // 2
    return values[:middle], values[middle:]


def _varies(values: Array) -> bool:
    counts = np.unique(values, return_counts=True)[1]
    return len(values) - counts.max(initial=0) >= VARIED


def _from_last_token(tokens: NDArray[Any], values: Array) -> Array:
    """Returns for every token the mean of the values where the first half has this token; for one it lacks, the mean of all."""
    ids = np.unique(tokens, return_inverse=True)[1]
    (first_ids, _), (first, _) = _halves(ids), _halves(values)
    count, total = (np.bincount(first_ids, weights, minlength=ids.max() + 1) for weights in (None, first))
    return np.where(count > 0, total / np.maximum(count, 1), first.mean())[ids]


class _Fit(NamedTuple):
    """How to read a unit."""

    strength: float  # the score where it was chosen
    sign: int
    threshold: float | None


def _fit_flag(unit: NDArray[Any], holds: Array) -> _Fit:
    order = np.argsort(unit)
    value, held = unit[order].astype(np.float64), holds[order]
    above, below = _cut(value, held), _cut(-value[::-1], held[::-1])
    return _Fit(above[0], 1, above[1]) if above[0] >= below[0] else _Fit(below[0], -1, -below[1])


def _cut(value: Array, held: Array) -> tuple[float, float]:
    """Returns the largest F1 of "value >= threshold", and this threshold. value: in ascending order."""
    lit = np.arange(len(value), 0, -1)  # how many are at least as large as each value
    hits = held[::-1].cumsum()[::-1]  # in how many of these the flag holds
    f1 = 2 * hits / (lit + hits[0])
    f1[1:][value[1:] == value[:-1]] = 0  # no threshold parts equal values
    place = int(f1.argmax())
    return float(f1[place]), float(value[max(place - 1, 0)] + value[place]) / 2


def _judge_flag(unit: NDArray[Any], holds: Array, fit: _Fit) -> tuple[float, float, float]:
    """Returns F1, precision and recall."""
    assert fit.threshold is not None
    lit = fit.sign * unit.astype(np.float64) >= fit.sign * fit.threshold
    hits, claimed, true = float(holds[lit].sum()), int(lit.sum()), float(holds.sum())
    return 2 * hits / (claimed + true), hits / max(claimed, 1), hits / true


def _fit_number(unit: NDArray[Any], values: Array) -> _Fit:
    correlation = _correlation(unit, values)
    return _Fit(abs(correlation), -1 if correlation < 0 else 1, None)


def _judge_number(unit: NDArray[Any], values: Array, fit: _Fit) -> tuple[float, None, None]:
    return fit.sign * _correlation(unit, values), None, None


def _correlation(unit: NDArray[Any], values: Array) -> float:
    x, y = unit.astype(np.float64), values - values.mean()
    x -= x.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm > 0 else 0.0
