"""Labelled sequences: of numbers, from tables in long form, JSON lines or the UEA/UCR archive's form; of text; or of audio.

A sequence has one label, or each of its steps has one; those of a recording are written as events. A label is a text. Several
numbers, or a set of classes, are a text, too, which has a sign between them that occurs nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count, groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from elman.datasets import tables
from elman.datasets.audio import Hearing, heard, located, recordings
from elman.datasets.events import BETWEEN, Event, Events, event, of_steps, track
from elman.datasets.gaps import filled
from elman.datasets.reading import BadRows, json_lines, text_lines
from elman.datasets.tables import JSON_LINES, form
from elman.datasets.times import as_seconds
from elman.errors import InputError

FILL = "mark missing numbers with --mark-gaps, fill them in with --fill-gaps"
NAME = "name the columns of numbers with --columns and those of words with --categories"
MOST = float(np.finfo(np.float32).max)  # how far from zero a number may be: squares are summed in float64
# What says, in small letters, whether a label has the class that its column is called; as it is kept.
FLAGS = {"1": "1", "1.0": "1", "true": "1", "yes": "1", "0": "0", "0.0": "0", "false": "0", "no": "0"}


class Columns(NamedTuple):
    """What the columns of a table, or the names of a JSON line, are called."""

    label: str = "label"
    sequence: str | None = None  # what tells the sequences of a table in long form apart
    text: str | None = None  # a column with a text in each row, in place of numbers
    channels: tuple[str, ...] | None = None  # all others if None
    categories: tuple[str, ...] = ()  # columns of words or codes that are read besides the numbers
    fill: bool = False  # whether missing numbers are filled in, as `gaps.filled` does
    mark: bool = False  # whether numbers may be missing, and are then NaN
    time: str | None = None  # when each step is: dates or numbers
    numeric: bool = False  # whether labels are numbers
    each_step: bool = False  # whether every step has a label of its own, or none; a table may then be one sequence
    empty: bool = False  # whether a label may be an empty text
    group: str | None = None  # what is not to be both learned and judged, such as a person
    several: tuple[str, ...] = ()  # columns of numbers that are the label together, in place of `label`
    flags: bool = False  # whether these numbers are 1 where a label has the class that the column is called, or 0
    between: str | None = None  # what stands between the classes in a cell, where a label is a set of them
    audio: Hearing | None = None  # a column with a recording in each row, in place of numbers
    events: Events | None = None  # how the labels of its steps are written, if they have labels: a row has one of them

    @property
    def one_in_a_row(self) -> str | None:
        """The column of a table that has a whole sequence in each row; None if it has a row for each step."""
        return self.text if self.audio is None else self.audio.column

    @property
    def of_label(self) -> tuple[str, ...]:
        """The columns that a label has its values from."""
        return self.several or (self.label,)

    @property
    def lacking(self) -> bool:
        """Whether a number may be missing."""
        return self.fill or self.mark


class Labelled(NamedTuple):
    name: str  # what the sequence is called in its file, or its own file of audio, or the number of its row, from 1
    content: NDArray[Any] | str  # (T, channels), NaN where a number is missing; or a text
    label: str | None  # of the whole sequence
    channels: tuple[str, ...] = ()  # the columns of a table that the numbers come from
    labels: Sequence[str | None] | None = None  # (T,), where every step has its own; None for a step without one
    group: str | None = None  # who or what it is of
    times: NDArray[np.float64] | None = None  # (T,), of the steps: numbers, or dates in seconds
    words: NDArray[Any] | None = None  # (T, categories), texts, of which one that is missing is empty
    dates: bool = False  # whether the times were dates
    digest: bytes = b""  # that of a recording, whose numbers depend on the machine in their last digits

    def part(self, begin: int, end: int, name: str) -> Labelled:
        """Returns these steps of a sequence, under another name. What the whole says, a part does not say."""
        labels, times, words = (None if e is None else e[begin:end] for e in (self.labels, self.times, self.words))
        content = self.content[begin:end]
        return self._replace(name=name, content=content, label=None, labels=labels, times=times, words=words)


def sequences(path: Path, columns: Columns, labelled: bool = True, bad: BadRows | None = None) -> Iterator[Labelled]:
    """Yields the sequences of a file, one after the other, so that the file may be larger than memory.

    labelled: whether every sequence must have a label. Raises InputError with the file, the line and the value where
    something is wrong, unless bad rows are skipped.
    """
    bad = bad or BadRows()
    kind = form(path)
    given = {
        "--sequence": columns.sequence,
        "--columns": columns.channels,
        "--text": columns.text if kind == ".ts" else None,
        "--group": columns.group if kind == ".ts" else None,
        "--categories": columns.categories if kind == ".ts" else None,
    }
    for flag, value in given.items():
        if kind in (".ts", *JSON_LINES) and value:
            raise InputError(
                f"{path} is not a table, so {flag} selects nothing in it; leave it out",
                None if flag == "--group" else f"{path} is not a table, and the run was trained on one; give a table",
            )
    if columns.audio is not None and kind == ".ts":
        raise InputError(
            f"{path} has numbers, so --audio selects nothing in it; leave it out",
            f"{path} has numbers, and the run was trained on recordings; give a table or a folder of them",
        )
    if columns.time is not None and kind == ".ts":
        raise InputError(
            f"{path} has no times, so --time selects nothing in it; leave it out",
            f"{path} has no times, which the run reads; give a table or JSON lines",
        )
    if columns.each_step and kind == ".ts":
        raise InputError(
            f"{path} has a label for each sequence, but --each-step wants one for each step; give a table or JSON lines, or leave --each-step out",
            f"{path} has a label for each sequence, and the run was trained on one for each step; give a table or JSON lines",
        )
    if columns.several and kind == ".ts":
        one = f"{path} has one {'label' if columns.flags else 'number'} for each sequence"
        raise InputError(
            f"{one}, but --label names {len(columns.several)} columns; give a table or JSON lines, or leave --label out",
            f"{one}, and the run was trained on {len(columns.several)}; give a table or JSON lines",
        )
    if not path.exists() and (tables.is_audio(path) or not (path.suffix or columns.one_in_a_row)):
        raise InputError(f"cannot read {path}: there is no such file or folder; give one that exists")
    if tables.is_audio(path):
        yield from _recordings(path, columns, labelled, bad)
    elif kind == ".ts":
        yield from _archive(path, columns, labelled, bad)
    elif kind in JSON_LINES:
        yield from _json_lines(path, columns, labelled, bad)
    elif columns.events is not None:
        yield from _marked(path, columns, labelled, bad)
    elif columns.one_in_a_row is not None:
        yield from _rows(path, columns, labelled, bad)
    else:
        yield from _long_form(path, columns, labelled, bad)


def _archive(path: Path, columns: Columns, labelled: bool, bad: BadRows) -> Iterator[Labelled]:
    """Yields the sequences of a .ts file: dimensions between colons, values between commas, at last the label.

    A missing value is written as a question mark.

    Source: A. Bagnall et al., The UEA multivariate time series classification archive (2018).
    """
    found, in_data, channels, before, unlabelled = 0, False, None, bad.count, False
    for number, line in text_lines(path):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if not in_data:
            if not line.startswith("@"):
                raise InputError(f"{path}, line {number}: {line[:60]!r} is before @data; is this a .ts file?")
            words = line.lower().split()
            if words[0] == "@timestamps" and words[1:2] == ["true"]:
                raise InputError(
                    f"{path}, line {number}: values with timestamps are not supported; leave the timestamps out"
                )
            lacks = "targetlabel" if columns.numeric else "classlabel"
            unlabelled = unlabelled or (words[0] == f"@{lacks}" and words[1:2] == ["false"])
            if unlabelled and labelled:
                what = "values to predict" if columns.numeric else "class labels"
                raise InputError(f"{path}, line {number}: the file says that it has no {what}; give a file with some")
            if words[0] == "@targetlabel" and words[1:2] == ["true"] and not columns.numeric:
                raise InputError(
                    f"{path}, line {number}: the file says that its labels are numbers; learn them with elman train regress"
                )
            in_data = words[0] == "@data"
            continue
        dimensions = line.split(":")
        label = None if unlabelled else dimensions.pop().strip()
        try:
            rows = [[_number(value) for value in dimension.split(",")] for dimension in dimensions]
            if len(lengths := {len(row) for row in rows}) > 1:
                raise ValueError(
                    f"its dimensions have {min(lengths)} to {max(lengths)} values, but should have as many"
                )
            values = np.array(rows, dtype=np.float64).T
            values = filled(values) if columns.fill else values
            problem = _unfit(values, channels, columns) if dimensions else "no colon before the label"
            problem = problem or (no_number(label, columns, "the label") if labelled else None)
        except ValueError as error:
            values, problem = np.empty((0, 0)), str(error)
        if problem:
            bad.found(f"{path}, line {number}: {problem}", _remedy(values, columns))
            continue
        found, channels = found + 1, values.shape[1]
        label = label if columns.between is None or label is None else class_set(label, columns.between)
        yield Labelled(str(found + bad.count - before), values, label)
    if not in_data:
        raise InputError(f"{path} has no @data line; is this a .ts file?")


def number_of(label: Any) -> float:
    """Returns the number that a label is; NaN if it is none, or one too far from zero."""
    try:
        # Python reads 1_000 as a number, which tables do not.
        value = np.nan if isinstance(label, bool) or "_" in str(label) else float(label)
    except (ValueError, TypeError, OverflowError):
        value = np.nan
    return value if abs(value) <= MOST else np.nan


def numbers_in(label: str | None, count: int) -> list[float]:
    """Returns the values of a label, of which it has so many; NaN for each that it lacks."""
    return [number_of(cell) for cell in _cells(label, count)]


def class_set(value: Any, between: str) -> str | None:
    """Returns the label that is a set of classes, in alphabetical order; None if the value is none.

    value: a list of them, or a text with `between` in between. An empty one is the label that has no class.
    """
    if isinstance(value, str):
        value = value.split(BETWEEN if BETWEEN in value else between)
    given = [_whole(each) for each in value if each is not None] if isinstance(value, list) else [_whole(value)]
    if not all(isinstance(each, (str, int)) for each in given):
        return None
    return BETWEEN.join(sorted({str(each).strip() for each in given} - {""}))


def classes_in(label: str) -> list[str]:
    """Returns the classes of a label that `class_set` returned."""
    return label.split(BETWEEN) if label else []


def _flag(cell: str | None) -> str | None:
    """Returns how a cell that says whether a label has a class is kept. What says neither stays as it is."""
    return None if cell is None else FLAGS.get(cell.lower(), cell)


def _cells(label: Any, count: int) -> list[Any]:
    """Returns the values of a label as they are written, None for each that it lacks."""
    if count == 1 or label is None:
        return [label] * count
    found = [cell or None for cell in label.split(BETWEEN, count - 1)]
    return found + [None] * (count - len(found))


def _joined(cells: Sequence[str | None]) -> str | None:
    """Returns the label that has these values: of several, a text that has them all, or None if it lacks all of them."""
    if len(cells) == 1 or not any(cells):
        return cells[0]
    return BETWEEN.join(cell or "" for cell in cells)


def no_number(label: Any, columns: Columns, what: str) -> str | None:
    """Returns what is wrong with a label that should be a number, or several, or None.

    what: what it is called, with {!r} in place of the name of its column. Of several numbers some may be missing.
    """
    if not columns.numeric:
        return None
    if label is None and columns.several:
        kind = "1 or 0" if columns.flags else "number"
        return f"there is no {kind} in {' or '.join(map(repr, columns.several))}, and at least one is needed"
    wanted = "1 or 0" if columns.flags else f"a finite number, at most {MOST:.3g} from zero"
    for name, cell in zip(columns.of_label, _cells(label, len(columns.of_label)), strict=True):
        wrong = cell not in FLAGS if columns.flags else np.isnan(number_of(cell))
        if wrong and (cell is not None or not columns.several):
            own = "there is none" if cell is None else f"is {str(cell).strip()[:60]!r}"
            return f"{what.format(name)} should be {wanted}, but {own}"
    return None


def _number(value: str) -> float:
    return np.nan if value.strip() == "?" else float(value)


def _remedy(values: NDArray[Any], columns: Columns) -> str:
    """Returns what else helps with values that are unfit."""
    return "" if columns.lacking or not np.isnan(values).any() else FILL


def _unfit(values: NDArray[Any], channels: int | None, columns: Columns) -> str | None:
    """Returns what is wrong with the values (T, channels) of a sequence, or None."""
    if values.ndim != 2 or not len(values) or not (values.shape[1] or columns.categories):
        return "the values should be a list of steps, each a list of numbers of the same length"
    if channels is not None and values.shape[1] != channels:
        return f"the sequence has {values.shape[1]} channels, but those before it have {channels}"
    wrong = np.argwhere((np.abs(values) > MOST) if columns.mark else ~(np.abs(values) <= MOST))
    if len(wrong):
        step, channel = wrong[0]
        value = values[step, channel]
        if np.isnan(values[:, channel]).all():
            return f"channel {channel + 1} has no numbers"
        if np.isnan(value):
            return f"step {step + 1} of channel {channel + 1} has no number"
        what = f"more than {MOST:.3g}" if np.isfinite(value) else "not a finite number"
        return f"step {step + 1} of channel {channel + 1} is {value}, which is {what}"
    return None


def _json_lines(path: Path, columns: Columns, labelled: bool, bad: BadRows) -> Iterator[Labelled]:
    channels, name, names = None, columns.one_in_a_row or "values", columns.audio.names if columns.audio else ()
    for number, _, row in json_lines(path, bad):
        where = f"{path}, line {number}"
        content, label = row.get(name), row.get(columns.label)
        absent = not any(each in row for each in columns.of_label)
        if columns.categories and (content is None or columns.channels == ()):  # beside which there need not be numbers
            first = row.get(columns.categories[0])
            content = np.empty((len(first) if isinstance(first, list) and first else 1, 0))
        problem, digest, length = None, b"", 0.0
        if content is None:
            problem = f"there is no {name!r}; the names are {', '.join(map(repr, row))}"
        elif columns.audio is not None:
            try:
                content, digest, length = heard(content, columns.audio, path.parent)
            except ValueError as error:
                problem = f"{name!r} {error}"
        elif columns.text is None:
            try:
                content = np.array(content, dtype=np.float64)
                content = content[:, None] if content.ndim == 1 else content  # one channel may do without inner lists
                content = filled(content) if columns.fill else content
                problem = _unfit(content, channels, columns)
            except (ValueError, TypeError, OverflowError):
                problem = f"{name!r} should be a list of steps, each a list of numbers, but is {str(row[name])[:60]}"
        elif not isinstance(content, str) or not content.strip():
            problem = f"{name!r} should be a text but is {content!r}"
        words = None
        if problem is None and columns.categories and isinstance(content, np.ndarray):
            words, problem = _words(row, columns.categories, len(content))
        labels = None
        if problem is None and columns.each_step and isinstance(content, np.ndarray):
            if columns.events is None:
                labels, problem = _of_steps(row, len(content), columns)
            else:
                labels, problem = _of_events(row, len(content), length, columns, columns.events)
            if not labelled:
                labels, problem = labels or [None] * len(content), None
            label = None
        times, dates = None, False
        if problem is None and columns.time is not None and isinstance(content, np.ndarray):
            times, dates, problem = _times(row.get(columns.time), len(content), columns.time, path)
        written, label = label, label.strip() if isinstance(label, str) else label
        if columns.several and labels is None:
            label = _joined([_cell(row.get(each), columns) for each in columns.several])
        elif columns.between is not None:
            label = class_set(label, columns.between)
        if problem is None and labelled and labels is None:
            if absent:
                problem = (
                    f"there is no {' or '.join(map(repr, columns.of_label))}; the names are {', '.join(map(repr, row))}"
                )
            elif columns.numeric:
                problem = no_number(label, columns, "{!r}")
            elif columns.between is not None:
                problem = _no_set(label, written, columns, repr(columns.label))
            elif not isinstance(label, (str, int)) or (label == "" and not columns.empty):
                problem = f"{columns.label!r} should be a label but is {label!r}"
        given = None if columns.group is None else row.get(columns.group)
        group = _whole(given.strip() if isinstance(given, str) else given)
        if problem is None and columns.group is not None and (not isinstance(group, (str, int, float)) or group == ""):
            problem = f"{columns.group!r} should be a name or a number but is {given!r}"
        if problem is not None:
            bad.found(f"{where}: {problem}", _remedy(content, columns) if isinstance(content, np.ndarray) else "")
            continue
        assert content is not None
        if not isinstance(content, str):
            channels = content.shape[1]
        label, group = (None if each is None else str(each) for each in (label, group))
        called = row[name] if columns.audio and isinstance(row[name], str) else number
        yield Labelled(str(row.get("id", called)), content, label, names, labels, group, times, words, dates, digest)


def _cell(value: Any, columns: Columns) -> str | None:
    """Returns one of the several values of a label as a table would have it: None if it is missing."""
    text = None if value is None or value != value else str(value).strip() or None
    return _flag(text) if columns.flags else text


def _no_set(label: str | None, written: Any, columns: Columns, what: str) -> str | None:
    """Returns what is wrong with a label that should be a set of classes, or None. what: what it is called."""
    if label is not None:
        return None
    return f"{what} should be a list of classes, or a text with {columns.between!r} between them, but is {str(written)[:60]}"


def _whole(value: Any) -> Any:
    """Returns 1 for 1.0, None for NaN, and any other value as it is."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else None if np.isnan(value) else value
    return value


def _words(row: Mapping[str, Any], names: Sequence[str], steps: int) -> tuple[NDArray[Any] | None, str | None]:
    """Returns the words of the steps of a line of JSON, (T, categories), and None; or None, and what is wrong with them."""
    found = list[list[str]]()
    for name in names:
        given, wanted = row.get(name), f"{name!r} should be a list of {steps} words or codes, one for each step"
        if not isinstance(given, list):
            return None, f"{wanted}, but is {str(given)[:60]}"
        if len(given) != steps:
            return None, f"{wanted}, but has {len(given)}"
        for step, value in enumerate(given, 1):
            if not isinstance(value, (str, int, float)) and value is not None:
                return None, f"step {step} of {name!r} should be a word or a code but is {str(value)[:60]}"
        found.append([_word(value) for value in given])
    return np.array(found, dtype=object).T, None


def _word(value: str | float | None) -> str:
    """Returns a value as a table would have it: empty if it is missing."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None or value != value else re.sub(tables.WHOLE, r"\1", str(value).strip())


def _times(given: Any, steps: int, name: str, path: Path) -> tuple[NDArray[np.float64] | None, bool, str | None]:
    """Returns the times of the steps of a line of JSON, whether they are dates, and None; or what is wrong with them at last."""
    wanted, dates = f"{name!r} should be a list of {steps} times, one for each step", False
    if not isinstance(given, list):
        return None, False, f"{wanted}, but is {str(given)[:60]}"
    if len(given) != steps:
        return None, False, f"{wanted}, but has {len(given)}"
    if all(isinstance(time, str) for time in given):
        piece = pl.DataFrame({name: given, tables.LINE: np.arange(steps)})
        found, (which, dates) = np.full(steps, np.nan), as_seconds(piece, name, path, BadRows(skip=True), MOST)
        found[which[tables.LINE].to_numpy()] = which[name].to_numpy()
    else:
        found = np.array([number_of(time) for time in given])
    for step in np.flatnonzero(np.isnan(found))[:1]:
        return (
            None,
            False,
            f"step {step + 1} of {name!r} should be a time such as 2026-01-31 12:00:00 or a number, but is {str(given[step])[:60]!r}",
        )
    for step in np.flatnonzero(np.diff(found) < 0)[:1]:
        return (
            None,
            False,
            f"step {step + 2} of {name!r}, {given[step + 1]}, is earlier than the step before it, {given[step]}",
        )
    return found, dates, None


def _of_events(
    row: Mapping[str, Any], steps: int, length: float, columns: Columns, how: Events
) -> tuple[Sequence[str | None] | None, str | None]:
    """Returns the labels of the steps of a recording that a line of JSON has, and None; or None, and what is wrong with them."""
    names = [how.begin, how.end, *columns.of_label]
    if all(name in row and row[name] is None for name in names):
        return of_steps([], steps, length, how), None
    sides: list[Any] = [row.get(name) for name in names[:2]]
    for name, given in zip((how.begin, how.end), sides, strict=True):
        if not isinstance(given, list):
            return (
                None,
                f"{name!r} should be a list of seconds, one for each event and empty if there is none, but is {str(given)[:60]}",
            )
    begins, ends = sides
    if len(begins) != len(ends):
        return None, f"{how.begin!r} has {len(begins)} seconds, and {how.end!r} has {len(ends)}"
    labels, problem = _of_steps(row, len(begins), columns, "event")
    if labels is None:
        return None, problem
    try:
        rows = enumerate(zip(begins, ends, labels, strict=True), 1)
        own = (event(begin, end, label, f"event {n}") for n, (begin, end, label) in rows)
        return of_steps(own, steps, length, how), None
    except ValueError as error:
        return None, str(error)


def _of_steps(
    row: Mapping[str, Any], steps: int, columns: Columns, of: str = "step"
) -> tuple[list[str | None] | None, str | None]:
    """Returns the labels of the steps of a line of JSON, and None; or None, and what is wrong with them. of: what they are of."""
    found = list[list[str | None]]()
    for name in columns.of_label:
        given, wanted = row.get(name), f"{name!r} should be a list of {steps} labels, one for each {of}"
        if given is None and any(row.get(each) is not None for each in columns.several):
            given = [None] * steps
        if not isinstance(given, list):
            return None, f"{wanted}, but is {str(given)[:60]}"
        if len(given) != steps:
            return None, f"{wanted}, but has {len(given)}"
        found.append([])
        for step, label in enumerate(given, 1):
            own, problem = _of_step(label, columns, f"{of} {step} of {name!r}")
            if problem is not None:
                return None, problem
            found[-1].append(own)
    labels = [_joined(cells) for cells in zip(*found, strict=True)]
    for step, label in enumerate(labels, 1):
        if label is not None and (problem := no_number(label, columns, f"{of} {step} of {{!r}}")):
            return None, problem
    return labels, None


def _of_step(label: Any, columns: Columns, what: str) -> tuple[str | None, str | None]:
    """Returns the label of a step, or one of its values, and None; or None, and what is wrong with it. what: what it is called."""
    label = label if columns.numeric and label == label else _whole(label)  # NaN is no number
    if label is None:
        return None, None
    if columns.between is not None:
        own = class_set(label, columns.between)
        return own, _no_set(own, label, columns, what)
    if not isinstance(label, (str, int, float) if columns.numeric else (str, int)):
        return None, f"{what} should be a label but is {str(label)[:60]}"
    return _cell(label, columns), None


def _stripped(piece: pl.DataFrame, columns: Columns, path: Path) -> pl.DataFrame:
    """Returns a piece of a table with its labels, groups and categories as words. NaN is missing where it cannot be the name of a class."""
    label, others = (
        [name for name in names if name in piece.columns]
        for names in (columns.of_label, (columns.group, *columns.categories))
    )
    whole = columns.each_step and not columns.numeric
    missing = tables.MISSING if columns.numeric and (columns.each_step or columns.several) else ("",)
    lists = [
        name for name in label if isinstance(piece.schema[name], (pl.List, pl.Array)) and columns.between is not None
    ]
    # Each list ends with the sign, so that one of a single class is one, too.
    joined = (pl.col(name).cast(pl.List(pl.String)).list.join(BETWEEN) + BETWEEN for name in lists)
    piece = tables.words(tables.words(piece.with_columns(joined), label, path, whole, missing), others, path)
    # An empty cell of text is a set without a class.
    texts = [name for name in label if name not in lists] if columns.between is not None else []
    return piece.with_columns(pl.col(name).fill_null("") for name in texts)


def _labels_in(piece: pl.DataFrame, columns: Columns) -> list[str | None]:
    """Returns the labels of the rows of a piece of a table, as `_stripped` returns it; None where there is none."""
    none: list[str | None] = [None] * len(piece)
    cells = [piece[name].to_list() if name in piece.columns else none for name in columns.of_label]
    if columns.between is not None and columns.label in piece.columns:
        return [None if cell is None else class_set(cell, columns.between) for cell in cells[0]]
    if columns.flags:
        cells = [[_flag(cell) for cell in column] for column in cells]
    return cells[0] if len(cells) == 1 else [_joined(row) for row in zip(*cells, strict=True)]


def _rows(path: Path, columns: Columns, labelled: bool, bad: BadRows) -> Iterator[Labelled]:
    """Yields the sequences of a table that has one in each row: a text, or a recording."""
    name, hearing = columns.one_in_a_row, columns.audio
    assert name is not None
    wanted = [name, *(columns.of_label if labelled else ()), *([columns.group] if columns.group else [])]
    whole = [each for each in wanted if each not in columns.several]  # columns in which nothing may be missing
    done = 0
    for piece in tables.pieces(path, None if not labelled else wanted):
        tables.check_columns(wanted, [each for each in piece.columns if each != tables.LINE], path)
        piece = _stripped(piece, columns, path)
        rows, done = dict(zip(piece[tables.LINE], count(done + 1))), done + len(piece)
        piece = tables.texts(piece, whole, path, bad)
        labels = _labels_in(piece, columns)
        groups = piece[columns.group].to_list() if columns.group else [None] * len(piece)
        for line, text, label, group in zip(piece[tables.LINE], piece[name], labels, groups, strict=True):
            if labelled and (problem := no_number(label, columns, "column {!r}")):
                bad.found(f"{path}, line {line}: {problem}")
                continue
            found = Labelled(str(rows[line]), text, label, group=group)
            if hearing is not None:
                try:
                    content, digest, _ = heard(text, hearing, path.parent)
                except ValueError as error:
                    bad.found(f"{path}, line {line}: column {name!r} {error}")
                    continue
                found = found._replace(name=text, content=content, channels=hearing.names, digest=digest)
            yield found


def _marked(path: Path, columns: Columns, labelled: bool, bad: BadRows) -> Iterator[Labelled]:
    """Yields the recordings of a table that has a row for each event. The rows of a recording follow each other."""
    hearing, how, seen = columns.audio, columns.events, set[Path]()
    assert hearing is not None
    assert how is not None

    def resolved(row: _Row) -> Path:
        try:
            return located(row.file, path.parent).resolve()
        except (OSError, ValueError, RuntimeError):  # no name of a file, of which `heard` tells
            return Path(row.file)

    for found, rows in groupby(_event_rows(path, columns, labelled, bad), resolved):
        first, *others = rows
        file = first.file
        if found in seen:
            raise InputError(
                f"{path}, line {first.line}: recording {file!r} continues after another one began; sort the rows by {hearing.column!r}"
            )
        seen.add(found)
        what, where = f"recording {file!r}", f"{path}, line {first.line}"
        try:
            for row in (first, *others):
                of_group = _elsewhere(row.group, first.group, what, columns) if columns.group else None
                if problem := row.problem or of_group:
                    raise ValueError(f"{path}, line {row.line}: {problem}")
            try:
                content, digest, length = heard(file, hearing, path.parent)
            except ValueError as error:
                raise ValueError(f"{where}: column {hearing.column!r} {error}") from error
            labels: Sequence[str | None] = [None] * len(content)
            if labelled:
                events = (event(row.begin, row.end, row.label, f"{path}, line {row.line}") for row in (first, *others))
                labels = of_steps(events, len(content), length, how)
        except ValueError as error:
            bad.found(str(error))
            continue
        yield Labelled(file, content, None, hearing.names, labels, first.group, digest=digest)


class _Row(NamedTuple):
    """A row of a table of events."""

    line: int
    file: str
    begin: str | None
    end: str | None
    label: str | None
    group: str | None
    problem: str | None  # of its label


def _event_rows(path: Path, columns: Columns, labelled: bool, bad: BadRows) -> Iterator[_Row]:
    hearing, how = columns.audio, columns.events
    assert hearing is not None
    assert how is not None
    name, sides = hearing.column, [how.begin, how.end]
    wanted = [name, *((*sides, *columns.of_label) if labelled else ()), *([columns.group] if columns.group else [])]
    for piece in tables.pieces(path, wanted):
        piece = tables.texts(_stripped(piece, columns, path), [name], path, bad)
        none: list[str | None] = [None] * len(piece)
        if labelled:
            lengths = [
                pl.col(side).dt.total_microseconds() / 1e6 for side in sides if piece.schema[side] == pl.Duration
            ]
            piece = tables.words(piece.with_columns(lengths), sides, path, False, tables.MISSING)
        begins, ends = ([*piece[side]] if labelled else none for side in sides)
        groups = [*piece[columns.group]] if columns.group else none
        given = zip(piece[tables.LINE], piece[name], begins, ends, _labels_in(piece, columns), groups, strict=True)
        for line, file, begin, end, label, group in given:
            problem = None if label is None else no_number(label, columns, "column {!r}")
            yield _Row(line, file, begin, end, label, group, problem)


def _recordings(path: Path, columns: Columns, labelled: bool, bad: BadRows) -> Iterator[Labelled]:
    """Yields a recording, or all those in a folder: the label of each is the name of the folder that it lies in."""
    folder, files = (path, recordings(path)) if path.is_dir() else (path.parent, [path])
    if columns.audio is None:
        what, kind = "a folder" if path.is_dir() else "a recording", "texts" if columns.text else "numbers"
        raise InputError(
            f"{path} is {what}, but {kind} are read; give a file of {kind}, or learn from recordings with --audio",
            f"{path} is {what}, and the run was trained on {kind}; give a file of {kind}",
        )
    if columns.group is not None:
        raise InputError(f"{path} is no table, so --group selects nothing in it; leave it out")
    for file in files:
        # In a name that is no Unicode, as a file may have, the wrong signs are replaced.
        name, label, problem = str(file.relative_to(folder)).encode(errors="replace").decode(), None, None
        if labelled and columns.events is None:
            label = file.parent.name
            if file.parent == folder:
                problem = "lies in no folder whose name is its label; put it into one, or give a table with --audio"
            else:
                label = label if columns.between is None else class_set(label, columns.between)
                problem = no_number(label, columns, "the name of its folder")
        if problem is not None:
            bad.found(f"{folder / name}: {problem}")
            continue
        try:
            content, digest, length = heard(file, columns.audio, folder)
        except ValueError as error:
            bad.found(f"{folder / name}: the recording {error}")
            continue
        labels: Sequence[str | None] | None = None if columns.events is None else [None] * len(content)
        if labelled and columns.events is not None:
            try:
                labels = of_steps(_in_track(file, columns), len(content), length, columns.events)
            except ValueError as error:
                bad.found(str(error))
                continue
        yield Labelled(name, content, label, columns.audio.names, labels, digest=digest)


def _in_track(recording: Path, columns: Columns) -> Iterator[Event]:
    """Yields the events in the text file beside a recording. Raises ValueError for what is none."""
    for begin, end, label, where in track(recording):
        label = label if columns.numeric else re.sub(tables.WHOLE, r"\1", label)
        own = label or None if columns.between is None else class_set(label, columns.between)
        if label and (problem := no_number(own, columns, "the label")):
            raise ValueError(f"{where}: {problem}")
        yield event(begin, end, own, where)


def _misfit(label: str | None, first: str | None, sequence: str, columns: Columns) -> str | None:
    """Returns what is wrong with the label of a step of a sequence, or None. first: that of its first step."""
    if label is None and (columns.each_step or not columns.several):
        return None if columns.each_step else f"column {columns.label!r} has no value"
    if problem := no_number(label, columns, "column {!r}"):
        return problem
    if columns.each_step or label == first:
        return None
    count = len(columns.of_label)
    here, before = _cells(label, count), _cells(first, count)
    differ = [not np.array_equal(number_of(a), number_of(b), equal_nan=True) for a, b in zip(here, before, strict=True)]
    if columns.numeric and not any(differ):
        return None
    if not columns.several:
        here, before = (repr((each or "").replace(BETWEEN, columns.between or "")) for each in (label, first))
        return f"sequence {sequence!r} is labelled {here} here but {before} before"
    k = differ.index(True)
    has = f"sequence {sequence!r} has {here[k] or 'nothing'} in column {columns.several[k]!r}"
    return f"{has} here but {before[k] or 'nothing'} before; write the same in all of its rows"


def _elsewhere(group: str | None, first: str | None, what: str, columns: Columns) -> str | None:
    """Returns what is wrong with the group of a row of a sequence, or None. first: that of its first row. what: the sequence."""
    if group is None:
        return f"column {columns.group!r} has no value"
    return None if group == first else f"{what} is of {group!r} here but of {first!r} before"


def _long_form(path: Path, columns: Columns, labelled: bool, bad: BadRows) -> Iterator[Labelled]:
    """Yields sequences of a table with a row for each step. The rows of a sequence follow each other."""
    if columns.sequence is None and not columns.each_step:
        raise InputError(
            f"{path} is a table: name the column that identifies the sequence with --sequence (a row for each step), or the column with a text in each row with --text, or with an audio file with --audio",
            f"{path} is a table, and the run was not trained on one; give a file of .ts or .jsonl",
        )
    if columns.sequence is None and columns.group is not None:
        raise InputError(
            f"{path} is one sequence, so --group {columns.group} has nothing to put together; name the column that identifies the sequence with --sequence, or leave --group out"
        )
    # The sequence that is being read, its first line, whether it is to be left out; and those that were before.
    name, first, spoiled, seen = "", 0, False, set[str]()
    steps, labels, groups = list[NDArray[np.float64]](), list[str | None](), list[str | None]()
    times, words = list[NDArray[np.float64]](), list[NDArray[Any]]()
    dates: bool | None = None  # whether the times are dates; None where no row was read
    channels = None if columns.channels is None else list(columns.channels)

    def whole() -> Iterator[Labelled]:
        if steps and not spoiled:
            values = np.concatenate(steps)
            values = filled(values) if columns.fill else values
            if np.isnan(values).any() and not columns.mark:
                lacking = (channels or [])[int(np.isnan(values).any(0).argmax())]
                what = f"sequence {name!r}" if columns.sequence else "the table"
                bad.found(f"{path}, line {first}: {what} has no number in column {lacking!r}")
                return
            of_all, of_each = (None, labels) if columns.each_step else (labels[0], None)
            at = None if columns.time is None else np.concatenate(times)
            own = np.concatenate(words) if columns.categories else None
            yield Labelled(str(name), values, of_all, tuple(channels or ()), of_each, groups[0], at, own, bool(dates))

    # Where nothing else tells steps apart, a row without any value is one, too; not so if it lacks a number that must be there.
    empty = (columns.lacking or bool(columns.categories)) and columns.sequence is None and columns.time is None
    for piece in tables.pieces(path, empty=empty):
        have = [each for each in piece.columns if each != tables.LINE]
        keys = [] if columns.sequence is None else [columns.sequence]
        others, clock = [columns.group] if columns.group else [], [columns.time] if columns.time else []
        said = list(columns.categories)
        wanted = [*keys, *(columns.of_label if labelled else ()), *others, *clock, *said, *(channels or [])]
        tables.check_columns(wanted, have, path)
        if channels is None:
            channels = [each for each in have if each not in (*keys, *columns.of_label, *others, *clock, *said)]
        if not channels and not said:
            raise InputError(
                f"{path} has no column of numbers besides {', '.join(map(repr, have))}; add one, or name columns of words with --categories"
            )
        if empty and channels and not columns.lacking:
            piece = piece.filter(~pl.all_horizontal(pl.col(have).is_null()))
        piece = _stripped(piece, columns, path)
        piece = tables.texts(piece, keys, path, bad) if keys else piece
        remedies = "" if columns.lacking else FILL, "" if columns.channels else NAME
        good = tables.numbers(piece, channels, path, bad, MOST, columns.lacking, *remedies)
        if columns.time:
            good, now = as_seconds(good, columns.time, path, bad, MOST)
            if dates not in (None, now):
                raise InputError(
                    f"{path}: column {columns.time!r} has dates in some rows and numbers in others; write all in one form"
                )
            dates = now
        lines, fit = piece[tables.LINE].to_list(), piece[tables.LINE].is_in(good[tables.LINE].implode()).to_numpy()
        values = np.full((len(piece), len(channels)), np.nan)
        for k, channel in enumerate(channels):
            values[fit, k] = good[channel].to_numpy()  # what is missing becomes NaN
        when = np.full(len(piece), np.nan)
        if columns.time:
            when[fit] = good[columns.time].to_numpy()
        spoken = np.empty((len(piece), len(said)), dtype=object)
        for k, category in enumerate(said):
            spoken[:, k] = piece[category].fill_null("").to_list()
        given = _labels_in(piece, columns)
        from_whom: list[str | None] = piece[others[0]].to_list() if others else [None] * len(piece)
        of = piece[keys[0]].to_list() if keys else ["1"] * len(piece)
        begins = [k for k in range(len(of)) if not k or of[k] != of[k - 1]]
        for begin, end in pairwise([*begins, len(of)]):
            if of[begin] != name or not seen:
                yield from whole()
                if of[begin] in seen:
                    raise InputError(
                        f"{path}, line {lines[begin]}: sequence {of[begin]!r} continues after another one began; sort the rows by {columns.sequence!r}"
                    )
                name, first, spoiled = of[begin], lines[begin], False
                steps, times, words, labels, groups = [], [], [], [], []
                seen.add(name)
            # A sequence is left out as a whole: without one of its steps, it would be another one.
            spoiled = spoiled or not fit[begin:end].all()
            own, whose = given[begin:end], from_whom[begin:end]
            of_labels = ((own, each, _misfit(each, (labels or own)[0], name, columns)) for each in dict.fromkeys(own))
            of_groups = ((whose, each, _elsewhere(each, (groups or whose)[0], f"sequence {name!r}", columns)) for each in dict.fromkeys(whose))  # fmt: skip
            checks = chain(of_labels if labelled else (), of_groups if others else ())
            for values_of, value, problem in checks if not spoiled else ():
                if problem is not None:
                    bad.found(f"{path}, line {lines[begin + values_of.index(value)]}: {problem}")
                    spoiled = True
                    break
            before = times[-1][-1:] if times else when[:0]
            for late in np.flatnonzero(np.diff(np.concatenate([before, when[begin:end]])) < 0)[: not spoiled]:
                line = lines[begin + late + 1 - len(before)]
                bad.found(
                    f"{path}, line {line}: the time in {columns.time!r} is earlier than that of the step before it"
                )
                spoiled = True
            steps.append(values[begin:end])
            times.append(when[begin:end])
            words.append(spoken[begin:end])
            labels += own if columns.each_step or not labels else ()
            groups += whose[:1]
    yield from whole()
