"""Labels of moments in recordings: events, each from a second to another one, as labels of steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from elman.datasets.reading import text_lines

TRACK = ".txt"  # the ending of a file of labels beside a recording
BETWEEN = "\x1f"  # between the values, or classes, of a label that has several: the sign that Unicode has for this


class Events(NamedTuple):
    """How the labels of moments are written, and what steps have them."""

    begin: str  # columns of seconds, or their names in JSON lines
    end: str
    elsewhere: str | None  # the label of all moments without an event; None if they have none
    seconds: float  # of a step
    sets: bool  # whether a label is a set of classes, so that events may overlap, and elsewhere there is no class


class Event(NamedTuple):
    begin: float | None  # in seconds; None for the begin of the recording
    end: float | None  # None for its end
    label: str | None  # None, or an empty text, how nothing
    where: str  # it is in a file


def event(begin: Any, end: Any, label: str | None, where: str) -> Event:
    """Returns an event whose begin and end are as a file has them. Raises ValueError, which says where, if these are no seconds."""
    own = [None if value is None or value != value else _seconds(value) for value in (begin, end)]
    for value, given, does in zip(own, (begin, end), ("begins", "ends"), strict=True):
        if value is not None and not 0 <= value < np.inf:
            raise ValueError(
                f"{where}: the event {does} at {str(given)[:60]!r}, but should at a number of seconds from 0 on"
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


def of_steps(events: Iterable[Event], steps: int, how: Events) -> Sequence[str | None]:
    """Returns the label of each step of a recording, or None: that of the event in which the middle of the step is.

    An event that has the middle of no step is that of the step in which it begins, if this has no other. Raises ValueError,
    which says where, if an event begins after the end of the recording, or if two that cannot be together overlap.
    """
    names: dict[str, int] = {}
    found = np.full((1, steps), -1)  # of labels; of sets a row for each class, in which they are 1
    # Those without the middle of a step come last, and take what is left.
    for each, short, own in sorted(((each, *_covered(each, steps, how)) for each in events), key=lambda it: it[1]):
        for label in (each.label or "").split(BETWEEN) if how.sets else [each.label]:
            if not label:
                continue
            number = names.setdefault(label, len(names))
            if how.sets:
                if number == len(found):
                    found = np.concatenate([found, np.full((1, steps), -1)])
                found[number, own] = 1
                continue
            before = found[0, own]
            clash = np.flatnonzero((before >= 0) & (before != number))
            if not len(clash):
                before[:] = number
            elif not short:
                other, at = list(names)[before[clash[0]]], (own.start + clash[0]) * how.seconds
                raise ValueError(
                    f"{each.where}: {label!r} overlaps {other!r} at {at:.6g} seconds, and a moment has one label; change one of them, or learn several at once with elman train multilabel"
                )
    if how.sets:
        return _sets(found[: len(names)] > 0, list(names))
    labels = [*names, how.elsewhere]
    return [labels[number] for number in found[0]]


def _covered(event: Event, steps: int, how: Events) -> tuple[bool, slice]:
    """Returns whether an event has the middle of no step, and the steps that it has."""
    begin, end, length = event.begin or 0.0, np.inf if event.end is None else event.end, steps * how.seconds
    if begin >= length:
        raise ValueError(
            f"{event.where}: the event begins at {begin:g} seconds, but the recording ends at {length:.6g}"
        )
    first, last = np.searchsorted((np.arange(steps) + 0.5) * how.seconds, [begin, end]).tolist()
    if first < last:
        return False, slice(first, last)
    first = min(int(begin / how.seconds), steps - 1)
    return True, slice(first, first + 1)


def _sets(there: NDArray[np.bool_], names: Sequence[str]) -> list[str | None]:
    """Returns the set of classes that each step has, as a label. there: (classes, steps)."""
    different, numbers = np.unique(there, axis=1, return_inverse=True)
    labels = [
        BETWEEN.join(sorted(name for name, own in zip(names, column, strict=True) if own)) for column in different.T
    ]
    return [labels[number] for number in numbers.ravel()]
