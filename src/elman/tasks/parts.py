"""Which sequences a model learns from, which choose its best parameters, and which judge it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from elman.datasets.audio import Hearing
from elman.datasets.events import Events
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Columns, Labelled, sequences
from elman.errors import InputError
from elman.tasks.encoded import Inputs
from elman.tasks.gathered import Gathered
from elman.tasks.options import ClassificationOptions, LabelOptions, RegressionOptions, SequenceOptions
from elman.tasks.separate import folds, group_folds, held_out, held_out_groups


class Parts(NamedTuple):
    """Sequences, and the places of those to learn from, to choose by, and to judge by at the end, which there need not be."""

    sequences: Gathered
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def unit_of(options: SequenceOptions) -> str | None:
    """Returns what texts are read in, None for numbers."""
    return None if options.text is None else options.unit


def hearing_of(options: SequenceOptions, samples: int = 0) -> Hearing:
    """Returns how recordings are heard. samples: as `Hearing` has it."""
    o = options
    return Hearing(o.audio or "", o.sample_rate, o.bands, o.hop, samples)


def events_of(options: SequenceOptions) -> Events | None:
    """Returns how the labels of moments of recordings are written; None if there are none."""
    o = options
    if not isinstance(o, LabelOptions) or not o.each_step or o.seconds is None:
        return None
    elsewhere = o.elsewhere if isinstance(o, ClassificationOptions | RegressionOptions) else None
    return Events(o.begin, o.end, elsewhere, o.seconds, o.between_classes is not None, o.numeric)


def columns_of(options: SequenceOptions, inputs: Inputs | None = None) -> Columns:
    """Returns what is read of a table. inputs: what was learned; channels are then its own, whatever their order."""
    o, own = options, options.column_list
    if inputs is not None and o.audio is None and (inputs.channels or not inputs.mean):
        own = tuple(inputs.channels)
    several = o.label_columns if len(o.label_columns) > 1 else ()
    flags = o.between_classes is None and o.several and not o.numeric
    return Columns(
        ",".join(o.label_columns),
        o.sequence,
        o.text,
        own,
        o.category_list,
        o.fill_gaps,
        o.mark_gaps,
        o.time,
        o.numeric or flags,
        o.label_each_step,
        o.empty_label,
        several=several,
        flags=flags,
        between=o.between_classes,
        audio=None if o.audio is None else hearing_of(o, 0 if inputs is None else inputs.samples),
        events=events_of(o),
    )


def empty(options: SequenceOptions, unit: str | None, inputs: Inputs | None) -> Gathered:
    """Returns none yet, of the kind that the options say. inputs: what was learned of the data before."""
    o, channels = options, None if inputs is None else len(inputs.mean)
    found = Gathered(unit, channels, o.label_each_step, o.mark_gaps, o.forward_only, o.time, o.category_list)
    found.dates = None if inputs is None else inputs.dates
    found.events = events_of(o)
    return found


def gathered(
    path: Path | None, options: SequenceOptions, bad: BadRows, built_in: Iterable[Labelled], inputs: Inputs | None
) -> tuple[Gathered, int]:
    """Returns all sequences, and how many of them are not of the validation file.

    built_in: what is read without a file. inputs: what was learned of the data before, whose channels they must have.
    """
    o, columns = options, columns_of(options, inputs)
    found = empty(o, unit_of(o) if path or o.built_in_texts else None, inputs)
    own = columns._replace(group=o.group if o.validation is None or o.fold else None)
    every = iter(built_in if path is None else sequences(path, own, bad=bad))
    if o.label_each_step and o.validation is None:
        start = list(islice(every, 2))
        found.in_time = len(start) == 1
        every = chain(_cut(start[0], o.held_out) if found.in_time else start, every)
    found.add(every, path or Path("the built-in data"))
    count = len(found)
    if o.validation is not None:
        if o.audio is None and (found.names or not found.channels):
            columns = columns._replace(channels=found.names)
        found.add(sequences(Path(o.validation), columns, bad=bad), Path(o.validation))
    return found, count


def _cut(only: Labelled, held_out: float) -> Iterator[Labelled]:
    """Yields the beginning of a sequence whose steps have labels, to learn from, and its end, to judge by."""
    steps = len(only.content)
    cut = max(1, steps - max(1, round(steps * held_out)))
    yield only.part(0, cut, only.name)
    if cut < steps:
        yield only.part(cut, steps, f"{only.name}, its end")


def left_out(
    sequences: Gathered, options: SequenceOptions, count: int, kinds: NDArray[Any], path: Path | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the places of the sequences that --fold leaves for training and validation, and of those that it leaves out.

    count: how many sequences are not of the validation file. kinds: (N,), of which each part has the same share. Raises
    InputError if there are fewer sequences, or groups of them, than parts.
    """
    own = np.arange(count)
    if options.fold_of is None:
        return own, own[:0]
    if sequences.in_time:
        raise InputError(f"--fold leaves whole sequences out, and {path} is one; give several")
    k, n = options.fold_of
    items, what = (len(sequences.groups), f"values of {options.group!r}") if sequences.groups else (count, "sequences")
    if items < n:
        raise InputError(f"--fold {options.fold} wants {n} parts, but {path} has {items} {what}; give fewer parts")
    if sequences.groups:
        part = group_folds(np.array(sequences.group_of), n, options.seed)
    else:
        part = folds(kinds[:count], n, options.seed)
    return own[part != k - 1], own[part == k - 1]


def divided(
    sequences: Gathered, options: SequenceOptions, count: int, own: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the places of the sequences for training and for validation: those of the validation file, or what `parted` takes.

    count: how many sequences are not of the validation file. own: those that --fold leaves.
    """
    if options.validation is not None:
        return own, np.arange(count, len(sequences))
    return parted(sequences, options, own)


def parted(
    sequences: Gathered, options: SequenceOptions, own: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the places of the sequences for training and for validation: drawn at random, or the end of the only one.

    own: the places of the sequences that are drawn from. Those of the same group stay together. Raises InputError if there
    is only one group.
    """
    if sequences.groups and len(own):
        names, of = np.unique(np.array(sequences.group_of)[own], return_inverse=True)
        if len(names) < 2:
            only = list(sequences.groups)[names[0]]
            if options.fold:
                raise InputError(
                    f"--fold {options.fold} leaves only sequences with {only!r} in {options.group!r}, and some must be held out; give those of more, or make more parts"
                )
            raise InputError(
                f"all sequences have {only!r} in {options.group!r}; give those of several, or leave --group out"
            )
        apart = np.isin(of, held_out_groups(of, options.held_out, options.seed))
        return own[~apart], own[apart]
    if sequences.in_time:
        return np.arange(1), np.arange(1, len(sequences))
    if not len(own):
        return own, own
    train, validation = held_out(len(own), options.held_out, options.seed)
    return own[train], own[validation]


def halves(kinds: NDArray[np.int64], options: SequenceOptions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the indices for training and validation, with the same share of each kind. A lone sequence of a kind is for training.

    kinds: (N,), numbers from 0.
    """
    apart = np.zeros(len(kinds), dtype=bool)
    by_kind = np.argsort(kinds, kind="stable")
    for own in np.split(by_kind, np.bincount(kinds).cumsum()[:-1]):
        if len(own) > 1:
            apart[own[held_out(len(own), options.held_out, options.seed)[1]]] = True
    return np.flatnonzero(~apart), np.flatnonzero(apart)


def check_labels(
    parts: Parts,
    path: Path,
    least: str,
    few: int,
    bad: BadRows,
) -> None:
    """Raises InputError if there are less than `few` sequences to learn from, no one to judge by, or no labels in them.

    least: how many whole ones are needed, in words. bad: what was left out.
    """
    sequences, train, validation, test = parts
    if sequences.each_step:
        least, few = "give at least two sequences, or one of at least two steps", 1
    if len(train) < few or not len(validation):
        counts = f"{len(train)} sequence{'s' * (len(train) != 1)} for training and {len(validation)} for validation"
        skipped = f", with {bad.count} malformed skipped, the first: {bad.first}" if bad.count else ""
        raise InputError(f"{path} leaves {counts}{skipped}; {least}")
    if sequences.each_step:
        remedy = "give at least one there" if sequences.in_time else "give labels in more sequences, or another --seed"
        for own, where in ((train, "training"), (validation, "validation"), (test, "testing")):
            if len(own) and not (sequences.given(own) >= 0).any():
                raise InputError(f"no step that {path} leaves for {where} has a label; {remedy}")


def check_tokens(inputs: Inputs, sequences: Gathered, path: Path | None, count: int) -> None:
    """Raises InputError if nothing was learned of texts. count: how many there are."""
    if sequences.unit is not None and not inputs.tokens:
        lacks = "word that occurs in two" if sequences.unit == "words" else "character in any"
        remedy = (
            "read them with --unit characters, or give more" if sequences.unit == "words" else "give texts with some"
        )
        raise InputError(f"{path} has no {lacks} of its {count} training texts; {remedy}")
