"""Labels of moments in recordings: events, each from a second to another one, as labels of steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from elman.datasets.reading import text_lines

TRACK = ".txt"  # the ending of a file of labels beside a recording
ROUNDED = 1e-9  # of a step: 0.29 / 0.01 is less than 29
FURTHER = 1.0  # seconds that an event may end after the recording: somebody rounded
BETWEEN = "\x1f"  # between the values, or classes, of a label that has several: the sign that Unicode has for this


class Events(NamedTuple):
    """How the labels of moments are written, and what steps have them."""

    begin: str  # columns of seconds, or their names in JSON lines
    end: str
    elsewhere: str | None  # the label of all moments without an event; None if they have none
    seconds: float  # of a step
    sets: bool  # whether a label is a set of classes, so that events may overlap, and elsewhere there is no class
    numbers: bool  # whether a label is a number, or several


class Event(NamedTuple):
    begin: float | None  # in seconds; None for the begin of the recording
    end: float | None  # None for its end
    label: str | None  # None if it is not known. Without a begin and an end there is then no event.
    where: str  # it is in a file


def event(begin: Any, end: Any, label: str | None, where: str) -> Event:
    """Returns an event whose begin and end are as a file has them. Raises ValueError, which says where, if these are no seconds."""
    own = [None if value is None or value != value else _seconds(value) for value in (begin, end)]
    for value, given, does in zip(own, (begin, end), ("begins", "ends"), strict=True):
        if value is not None and not 0 <= value < np.inf:
            raise ValueError(
                f"{where}: the event {does} at {str(given)[:60]!r}, which is no number of seconds from 0 on, such as 1.25"
            )
    if own[0] is not None and own[1] is not None and own[1] < own[0]:
        raise ValueError(f"{where}: the event ends at {own[1]:g} seconds, before it begins, at {own[0]:g}")
    return Event(own[0], own[1], label, where)


def _seconds(value: Any) -> float:
    try:
        return np.nan if isinstance(value, bool) else float(value)
    except (ValueError, TypeError, OverflowError):
        return np.nan


def track(recording: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yields the begin, the end and the label of each line of the text file beside a recording, and where it is.

    The file has the form of label tracks of Audacity: tabs between the three, and perhaps a line of frequencies below, which
    begins with a backslash. Raises ValueError if there is none, or a line is no label.
    """
    path = recording.with_suffix(TRACK)
    if not path.exists() and (other := recording.with_suffix(TRACK.upper())).exists():
        path = other
    if not path.exists():
        raise ValueError(f"{recording}: there is no {path.name} beside it with its labels; it may be empty")
    for number, line in text_lines(path):
        if not line.strip() or line.startswith("\\"):
            continue
        cells = line.split("\t", 2)
        if len(cells) < 3:
            raise ValueError(
                f"{path}, line {number}: {line[:60]!r} should be a begin, an end and a label, with tabs between them"
            )
        begin, end = (cell.strip().replace(",", ".") for cell in cells[:2])  # Audacity writes as the language does
        yield begin, end, cells[2].strip(), f"{path}, line {number}"


def as_track(events: Iterable[Mapping[str, Any]], elsewhere: str | None) -> Iterator[str]:
    """Yields the lines that `track` reads of these events, which have a begin, an end and a class; not those without, or of elsewhere."""
    for each in events:
        if each["class"] not in (None, elsewhere):
            yield f"{each['begin']:.6f}\t{each['end']:.6f}\t{' '.join(each['class'].split())}\n"


def of_steps(events: Iterable[Event], steps: int, length: float, how: Events) -> Sequence[str | None]:
    """Returns the label of each step of a recording, or None: that of the event in which the middle of the step is.

    An event that has the middle of no step is that of the step in which it begins, if this has no other. length: that of the
    recording, in seconds. Raises ValueError, which says where, if an event is not in it, or if two overlap that cannot.
    """
    middles = (np.arange(steps) + 0.5) * how.seconds
    middles[-1:] = ((steps - 1) * how.seconds + length) / 2  # of the samples that the last step has
    placed = [
        (each, *_covered(each, middles, length, how))
        for each in events
        if not each.begin is each.end is each.label is None
    ]
    return _sets(placed, steps) if how.sets else _labels(placed, steps, how)


def _covered(event: Event, middles: NDArray[Any], length: float, how: Events) -> tuple[slice, bool]:
    """Returns the steps that an event has, and whether that is one in which it begins, because it has no middle of a step."""
    begin, end = event.begin or 0.0, length if event.end is None else event.end
    for does, value, most in (("begins", begin, length), ("ends", end, length + FURTHER)):
        if value > most:
            raise ValueError(
                f"{event.where}: the event {does} at {value:g} seconds, but the recording ends at {length:.6g}"
            )
    first, last = np.searchsorted(middles, [begin, end]).tolist()
    if first < last:
        return slice(first, last), False
    first = min(int(begin / how.seconds + ROUNDED), len(middles) - 1)
    return slice(first, first + 1), True


def _labels(placed: Iterable[tuple[Event, slice, bool]], steps: int, how: Events) -> list[str | None]:
    """Returns the labels of steps of which each has one. placed: what `_covered` says of each event."""
    names: dict[str | None, int] = {}
    found = np.full(steps, -1)
    # Those that are short, or of which nothing is known, come last, and take what is left.
    for each, own, short in sorted(placed, key=lambda it: it[2] or it[0].label is None):
        label = _as_number(each.label) if how.numbers else each.label
        number, before = names.setdefault(label, len(names)), found[own]
        clash = np.flatnonzero((before >= 0) & (before != number))
        if len(clash) and not short and label is not None:
            there = ["" if one is None else one.replace(BETWEEN, ", ") for one in ([*names][before[clash[0]]], label)]
            at = (own.start + clash[0]) * how.seconds
            several = "" if how.numbers else ", or learn several at once with elman train multilabel"
            raise ValueError(
                f"{each.where}: {there[1]!r} overlaps {there[0]!r} at {at:.6g} seconds, and a moment has one label; change one of them{several}"
            )
        before[before < 0] = number
    labels = [*names, how.elsewhere]
    return [labels[number] for number in found]


def _as_number(label: str | None) -> str | None:
    """Returns a label of numbers so that those which are equal are written alike."""
    cells = [] if label is None else label.split(BETWEEN)
    return BETWEEN.join(repr(float(cell)).removesuffix(".0") if cell else "" for cell in cells) if cells else None


def _sets(placed: Iterable[tuple[Event, slice, bool]], steps: int) -> list[str | None]:
    """Returns the labels of steps of which each has a set of classes. placed: what `_covered` says of each event."""
    unknown, there = np.zeros(steps, bool), dict[str, NDArray[np.bool_]]()
    for each, own, _ in placed:
        if each.label is None:
            unknown[own] = True
        for name in (each.label or "").split(BETWEEN):
            if name:
                there.setdefault(name, np.zeros(steps, bool))[own] = True
    names = sorted(there)
    every = np.array([unknown, *(there[name] for name in names)])
    starts = [0, *(np.flatnonzero((every[:, 1:] != every[:, :-1]).any(0)) + 1).tolist(), steps]
    found = list[str | None]()
    for begin, end in pairwise(starts):
        label = BETWEEN.join(name for name in names if there[name][begin])
        found += [None if unknown[begin] else label] * (end - begin)
    return found
