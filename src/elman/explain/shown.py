"""Which sequences the pages of several tasks show, and their numbers and words."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman.datasets import sequences
from elman.datasets.codes import Codes
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Labelled
from elman.errors import InputError
from elman.explain.contents import described, held_out_part, rounded
from elman.tasks import texts
from elman.tasks.gathered import Gathered, split
from elman.tasks.parts import columns_of, unit_of
from elman.tasks.whole import Trained

SHOWN = 8  # sentences or sequences


def head(run: Path, trained: Trained[Any, Any], classes: Sequence[str], text: str | None) -> dict[str, Any]:
    """Returns how what a page holds begins. classes: what the model chooses from. Raises InputError if it reads no text and is given one."""
    options, reading = trained.options, trained.reading
    if text is not None and options.text is None:
        what = "numbers" if options.audio is None else "recordings"
        raise InputError(f"{run} reads {what} and not a text; give --data instead of --text")
    page = {"task": options.task} | described(run, trained.model, options, classes)
    page["unit"] = unit_of(options)
    page["channels"], page["time"], page["gaps"] = list(reading.channels), options.time, options.mark_gaps
    page["categories"], page["audio"] = list(reading.categories), options.seconds  # of a step of audio
    return page


def beginning(sequence: Labelled, unit: str | None, most: int) -> tuple[Labelled, int]:
    """Returns the first steps of a sequence, as many as a page shows, and how many it has. unit: what a text is read in."""
    content = sequence.content
    if not isinstance(content, str):
        return (sequence if len(content) <= most else sequence.part(0, most, sequence.name)), len(content)
    tokens = split(content, unit or "words")
    if len(tokens) <= most:
        return sequence, len(tokens)
    return sequence._replace(content=texts.written(tokens[:most], unit or "words"), label=None), len(tokens)


def chosen_sequences(
    run: Path,
    trained: Trained[Any, Any],
    text: str | None,
    data: Path | None,
    order: Callable[[Gathered, NDArray[np.int64]], list[int]] = lambda found, own: own.tolist(),
) -> tuple[Iterator[Labelled], Path]:
    """Yields the sequences that a page shows, and says where they come from: a text, a file, or the held-out part.

    order: in which held-out ones are shown. Raises InputError if there is none.
    """
    every, source = _sequences(run, trained, text, data, order)
    every = iter(every)
    first = next(every, None)
    if first is None:
        raise InputError(f"{source} has no sequence; give at least one")
    return chain([first], every), source


def _sequences(
    run: Path,
    trained: Trained[Any, Any],
    text: str | None,
    data: Path | None,
    order: Callable[[Gathered, NDArray[np.int64]], list[int]],
) -> tuple[Iterable[Labelled], Path]:
    options = trained.options
    if text is not None:
        return (Labelled(str(n), line, None) for n, line in enumerate(text.splitlines(), 1) if line.strip()), Path(
            "--text"
        )
    columns = columns_of(options, trained.reading)
    if data is not None:
        return _with_labels_if_any(data, columns, options.skip_bad), data
    with held_out_part(run, "--data" if options.text is None else "--data or --text"):
        found, _, validation, _ = trained.read_again()
    places = order(found, validation)
    return found.labelled(map(int, places)), trained.path or Path("the built-in data")


def _with_labels_if_any(data: Path, columns: sequences.Columns, skip_bad: bool) -> Iterator[Labelled]:
    found = list[Labelled]()
    with contextlib.suppress(InputError):
        found = list(islice(sequences.sequences(data, columns, bad=BadRows(skip_bad)), SHOWN))
    # It may have none: this is an error, or all sequences are skipped.
    yield from found or sequences.sequences(data, columns, labelled=False, bad=BadRows(skip_bad))


def series_of(sequence: Labelled, stride: int = 1) -> list[list[float | None]]:
    """Returns the numbers of each channel, None where one is missing, and the time since the step
    before if it is read; of each stride-th step."""
    rows = np.asarray(sequence.content).T
    if sequence.times is not None:
        rows = np.concatenate([rows, np.diff(sequence.times, prepend=sequence.times[:1])[None]])
    found = list[list[float | None]]()
    for row in rows:
        there = row[~np.isnan(row)]
        deviation = float(there.std()) if len(there) else 0.0
        found.append([None if np.isnan(v) else rounded(float(v), deviation) for v in row[::stride]])
    return found


def words_of(trained: Trained[Any, Any], sequence: Labelled, stride: int = 1) -> list[dict[str, list[Any]]]:
    """Returns the words of each category, and their codes, 0 for one that is unknown; of each stride-th step.

    Those of a text are its tokens.
    """
    if isinstance(sequence.content, str):
        codes = {token: code for code, token in enumerate(trained.reading.tokens, 1)}
        tokens = split(sequence.content, trained.options.unit) or [""]
        return [{"words": tokens[::stride], "codes": [codes.get(token, 0) for token in tokens[::stride]]}]
    found = list[dict[str, list[Any]]]()
    for column, known in zip(
        () if sequence.words is None else sequence.words.T, trained.reading.categories.values(), strict=True
    ):
        codes, words = Codes(known), column[::stride].tolist()
        found.append({"words": words, "codes": [codes[word] for word in words]})
    return found
