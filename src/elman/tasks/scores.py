"""Scores of labels: accuracy, precision, recall, F1, and entities in BIO tags; and what is said of scores."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from elman.errors import InputError
from elman.tasks.separate import Changed
from elman.tasks.tallies import LEAST, LEVEL, Tally, Units
from elman.training.record import NOT_KEPT
from elman.training.run import Run

SIGNS = 6  # units that must differ before a difference can be told from chance
LETTERS = 60  # of a label that are shown
FEW = 5  # unknown labels are named, at most
BIO = re.compile(r"O|[BIES]-.+")


class Scores(NamedTuple):
    """Scores of K labels, from a table of counts: counts[a, b] is how often label a was called b.

    What has a label that is none of the K counts as wrong where it was called one of them.
    """

    counts: NDArray[np.int64]  # (K, K)
    others: NDArray[np.int64] | int = 0  # (K,): how often what has another label was called k

    @property
    def precision(self) -> NDArray[np.float64]:
        """(K,): of what was called k, the share that is k. Zero where nothing was called k."""
        return np.diag(self.counts) / np.maximum(1, self.counts.sum(0) + self.others)

    @property
    def recall(self) -> NDArray[np.float64]:
        """(K,): of what is k, the share that was called k. Zero where nothing is k."""
        return np.diag(self.counts) / np.maximum(1, self.counts.sum(1))

    @property
    def f1(self) -> NDArray[np.float64]:
        """(K,): 2 p r / (p + r) = 2 right / (is k + called k)."""
        return 2 * np.diag(self.counts) / np.maximum(1, self.counts.sum(0) + self.counts.sum(1) + self.others)

    def by_label(self, labels: Sequence[str], of: str) -> Iterator[tuple[str, str]]:
        """Yields each label with its scores, in words. of: what is counted."""
        for k, label in enumerate(labels):
            scores = f"precision {self.precision[k]:.4f}  recall {self.recall[k]:.4f}  F1 {self.f1[k]:.4f}"
            yield f"  {label}", f"{scores}  {of} {self.counts[k].sum()}"


def counted(truth: NDArray[Any], predicted: NDArray[Any], labels: int) -> Scores:
    """Returns the scores of predicted labels, both (N,), whose ids run from 0 to labels - 1; -1 is any other label."""
    known = truth >= 0
    pairs = truth[known].astype(np.int64) * labels + predicted[known]
    others = np.bincount(predicted[~known], minlength=labels)
    return Scores(np.bincount(pairs, minlength=labels * labels).reshape(labels, labels), others)


def unknown(labels: Counter[str], of: str = "") -> str:
    """Returns how often a model meets labels that it does not know, and a few of them. of: what they are labels of."""
    return f"{labels.total():,}{of}, counted as mistakes: {few(labels)}"


def check_known(unknown: Counter[str], what: str, path: Path | None, run: Run) -> None:
    """Raises InputError if training data have labels that the run, from whose model the training starts, does not know.

    what: what the labels are called.
    """
    if unknown:
        has = f"{path or 'the built-in data'} has {what} that {run.directory} does not know: {few(unknown)}"
        raise InputError(f"{has}; leave them out, or train a new model")


def few(labels: Counter[str]) -> str:
    return ", ".join(repr(label[:LETTERS]) for label, _ in labels.most_common(FEW)) + (
        ", ..." if len(labels) > FEW else ""
    )


def is_bio(tags: Sequence[str]) -> bool:
    """Returns whether the tags mark entities: each is O or begins with B-, I-, E- or S-, and one is not O."""
    return all(BIO.fullmatch(tag) for tag in tags) and any(tag != "O" for tag in tags)


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Returns the entities of a sentence: (kind, first word, word after the last one).

    As CoNLL's evaluation reads them: an entity begins at B- or S-, and at I- or E- where none of its kind goes on; it
    ends before the next beginning, O, or other kind, and after E- or S-.
    """
    found, kind, start = set(), "", 0
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        begins = prefix in ("B", "S") or (prefix in ("I", "E") and name != kind)
        if kind and (begins or prefix == "O"):
            found.add((kind, start, place))
            kind = ""
        if begins:
            kind, start = name, place
        if prefix in ("E", "S") and kind:
            found.add((kind, start, place + 1))
            kind = ""
    return found


def segments(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], sequence: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns at which steps a right segment and a true one first meet, and at which all true and predicted ones begin.

    Segments are steps in a row that have the same label; all (N,), sequence: of which one a step is. A predicted segment
    is right if it and a true one of its label share more than half of the steps that either has.
    Source: C. Lea, M. D. Flynn, R. Vidal, A. Reiter & G. D. Hager, Temporal convolutional networks for action
    segmentation and detection (2017), where half is enough.
    """
    begins = np.ones(len(truth), bool)
    begins[1:] = sequence[1:] != sequence[:-1]
    # Of each step its segment; of each segment its steps, and the first of them.
    of, lengths, first_steps = (list[NDArray[np.int64]]() for _ in range(3))
    for labels in (truth, predicted):
        change = begins.copy()
        change[1:] |= labels[1:] != labels[:-1]
        of.append(np.cumsum(change) - 1)
        lengths.append(np.bincount(of[-1]))
        first_steps.append(np.flatnonzero(change))
    pairs, first, shared = np.unique(of[0] * len(lengths[1]) + of[1], return_index=True, return_counts=True)
    either = lengths[0][pairs // len(lengths[1])] + lengths[1][pairs % len(lengths[1])] - shared
    right = (truth[first] == predicted[first]) & (2 * shared > either)
    return first[right], np.concatenate(first_steps)


def segment_f1(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], sequence: NDArray[np.int64], units: Units
) -> Tally:
    """Returns F1 of segments, as `segments` has them."""
    right, every = (np.bincount(each, minlength=len(truth)) for each in segments(truth, predicted, sequence))
    return Tally.of(units, (2 * right, every), share=True)


def macro_f1(truth: NDArray[Any], predicted: NDArray[Any], labels: int, unknown: int, units: Units) -> Tally:
    """Returns the mean of F1 over all labels that occur, in the data or in the predictions. That of an unknown label is 0.

    truth, predicted, labels: as `counted` has them. unknown: how many labels there are of which -1 is one.
    """
    own, count = units.grouped
    cell, known, right = own * labels, truth >= 0, truth == predicted
    size, shape = count * labels, (count, labels)
    found = 2 * np.bincount((cell + truth)[right], minlength=size)
    either = np.bincount((cell + truth)[known], minlength=size) + np.bincount(cell + predicted, minlength=size)
    sums = np.concatenate([found.reshape(shape), either.reshape(shape)], 1).astype(np.float64)
    return Tally(sums, partial(macro, unknown=unknown), share=True)


def macro(sums: NDArray[np.float64], unknown: int) -> NDArray[np.float64]:
    """Returns the mean of F1 over all labels that occur, (...) of (..., 2 K): 2 right and is + called of each label."""
    right, either = np.split(sums, 2, -1)
    return (right / np.maximum(1, either)).sum(-1) / np.maximum(1, (either > 0).sum(-1) + unknown)


class Judged(NamedTuple):
    """How well a model predicts a file."""

    lines: Iterable[tuple[str, str]]  # names and figures
    table: Callable[[str], Iterator[str]]  # returns a row for each example: true and predicted; in CSV or JSON lines
    tallies: Mapping[str, Tally]  # by what the scores are called
    by: str  # what the model is judged by, in words: "370 labels of 'kind'"
    digest: str  # of this, such as all labels, and whose they are
    unit: Any = None  # in which errors are told


def figure(tally: Tally) -> str:
    """Returns a score, and in brackets its interval."""
    return f"{tally.value:.4f}{between(tally.interval)}"


def named(score: str, unit: str) -> str:
    """Returns what a score is called where it is printed. unit: what nats are counted by."""
    return score.replace("validation_nats", f"nats_per_{unit}").replace("_", " ")


def between(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({' to '.join(f'{round(each, 4) + 0.0:.4f}' for each in interval)})"


def how_sure(count: int, units: str, whole: str = "") -> tuple[str, str]:
    """Returns what there is to say of the intervals of scores.

    count: of the units that are judged. units: these in words, such as "3 sequences". whole: what they are parts of, if it is
    one thing.
    """
    if count >= LEAST:
        return "intervals", f"{LEVEL:.0%}, in brackets: how sure the figures are after {units}"
    few = f"{whole} is too short" if whole else f"{units} {'is' if count == 1 else 'are'} too few"
    remedy = "give a longer one" if whole else f"give at least {LEAST}"
    return "intervals", f"none: {few} to say how sure the figures are; {remedy}"


def on_baselines(
    data: Path | None, find: Callable[[], dict[str, Tally]], unit: str, model: Tally
) -> Iterator[tuple[str, str]]:
    """Yields the names and scores of baselines, or why they are not known: they are fitted to the training data."""
    if data == NOT_KEPT:
        yield "baselines", "not known, because the model's file does not have the training data; evaluate its run"
        return
    try:
        found = find()
    except Changed as error:
        yield "baselines", f"not known, because {error}"
        return
    except InputError as error:
        yield "baselines", f"not known, because the training data cannot be read: {error}"
        return
    for name, each in found.items():
        yield name, f"{each.value:.4f} {unit}, a baseline{compared(model, each)}"


def beside(model: Judged, other: Judged, run: Path, name: Path) -> Iterator[tuple[str, str]]:
    """Yields the scores of another model, and how much better the model is. run, name: where the two come from.

    Raises InputError if they are not judged by the same, or if no score counts the same.
    """
    if model.digest != other.digest:
        raise InputError(
            f"{name} is judged by {other.by}, and {run} by {model.by}, which are not the same; compare models that read the data alike"
        )
    both = {score: (own, other.tallies[score]) for score, own in model.tallies.items() if score in other.tallies}
    if not any(own.counts_as(each) for own, each in both.values()):
        theirs, ours = (", ".join(each.tallies) for each in (other, model))
        raise InputError(
            f"{name} has {theirs}, and {run} {ours}, none of which counts the same in both; compare models that know all labels, characters or words of the data"
        )
    for score, (own, each) in both.items():
        told = f"{each.value:.4f}" if math.isfinite(each.value) else "not known"
        more = compared(own, each) if own.counts_as(each) else "; not compared, because it counts other things"
        yield f"  {score:<20}", told + more


def compared(model: Tally, other: Tally) -> str:
    """Returns how much better a model is than another, or a baseline, in words that follow upon the score of that.

    If they differ in fewer than six units, it may be chance, as a coin may show the same side five times: even 2 / 2^5 is more
    than one case in twenty.
    """
    better, worse = (model, other) if model.share else (other, model)
    difference, interval = better.minus(worse)
    if (better.own | worse.own).sum() < LEAST or not math.isfinite(difference):
        return ""
    differing = better.differing(worse)
    if not differing:
        return "; the model is as good"
    word = "better"
    if difference < 0:
        word, difference, interval = "worse", -difference, interval and (-interval[1], -interval[0])
    if not any(round(each, 4) for each in (difference, *(interval or ()))):
        return "; the model is as good"
    few = differing < SIGNS or better.scarce(worse)
    chance = ", perhaps by chance" if few or (interval is not None and interval[0] <= 0) else ""
    return f"; the model is {word} by {difference:.4f}{between(None if few else interval)}{chance}"


def entity_counts(truth: Sequence[str], predicted: Sequence[str]) -> tuple[int, int, int]:
    """Returns how many entities of a sentence are right, how many are called so, and how many there are.

    One is right if its kind and both its ends are. F1 is 2 right / (called + there).
    Source: E. F. Tjong Kim Sang & F. De Meulder, Introduction to the CoNLL-2003 shared task (2003).
    """
    true, guess = entities(truth), entities(predicted)
    return len(true & guess), len(guess), len(true)


def entity_f1(counts: NDArray[np.int64], units: Units) -> Tally:
    """Returns F1 of entities, given `entity_counts` of sentences, (N, 3)."""
    right, called, there = counts.T
    return Tally.of(units, (2 * right, called + there), share=True)
