"""Turns sequences of different lengths into packed rows: cuts them at resets, sorts them by length, packs them.

Each piece of a sequence between two resets is a row of its own. The longest row comes first. Every step then has the
first rows of the step before it: from step to step, rows only leave. In memory, the rows of a step follow each other,
and the steps follow each other. Nothing is kept or computed for steps that a sequence does not have. The reverse
direction reads these rows from their ends, so that one form of kernel serves both directions (recurrence.py, `RUN`).

T steps, B sequences, R rows, S steps of the longest row, N rows of all steps together.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from elman.cpu.kernels.recurrence import RUN

NOTHING, OWN = -1, -2  # entries of an index: zeros; a row handed on from another array, where it has the same number

# The names of the arrays that a script is given. Each direction has its own array of a name that ends with a dot.
INDICES = ("runs", "runs back", "before", "index.", "places.", "starts.", "ends.", "turns.", "final.", "first.")
INDICES += ("fresh.",)


class Rows(NamedTuple):
    """The packed rows of a batch. `arrays` holds whole numbers, by the names of `INDICES`:

    runs, runs back   a record of `RUN` for each run of steps with equally many rows; forward and backward
    before            (N,) the number, among N, of the row in the step before; OWN in the first step: the initial state
    index.            (N,) the place in (T, B) of the step that a row reads
    places.           (T*B,) the inverse of `index.`, or NOTHING for a place that no row reads
    starts.           (R,) the sequence whose initial state the row begins with, or OWN where it starts afresh
    fresh.            (R,) the number of the row itself where it starts afresh, otherwise NOTHING
    ends.             (B,) the number, among N, of the row with the final state; OWN without steps: the initial state
    turns.            (B,) where `ends.` leads in an array of two places of R rows, which steps use in turn; or OWN
    final.            (R,) the sequence whose final state the row ends with, or NOTHING
    first.            (B,) the row that begins with the initial state; NOTHING if none does, OWN without steps
    """

    steps: int  # S
    rows: int  # R
    total: int  # N
    runs: int  # records in `runs`
    last: int  # rows of the last step
    work: np.ndarray  # (R,) steps of each row and all rows before it together
    arrays: dict[str, np.ndarray]
    addresses: dict[str, int]  # of the arrays, by name

    def edges(self, parts: int) -> tuple[int, ...]:
        """Divides the rows into parts with about equally many steps, one for each thread.

        Returns the first row of each part, and the number of rows.
        """
        if parts == 1:
            return 0, self.rows
        inside = np.searchsorted(self.work, self.total * np.arange(1, parts) / parts)
        return 0, *np.minimum(inside + 1, self.rows).tolist(), self.rows


def rows_of(lengths: Tensor | None, reset: Tensor | None, steps: int, batch: int, reverse: tuple[bool, ...]) -> Rows:
    """Returns the packed rows of a batch (T, B). reverse: for each direction, whether it runs backward in time."""
    whole = np.full(batch, steps) if lengths is None else lengths.numpy()
    cuts = None if reset is None else reset.numpy()
    return _rows(whole.tobytes(), None if cuts is None else cuts.tobytes(), steps, batch, reverse)


@lru_cache(maxsize=8)  # every layer asks for its batch, forward and backward
def _rows(lengths: bytes, reset: bytes | None, steps: int, batch: int, reverse: tuple[bool, ...]) -> Rows:
    length = np.frombuffer(lengths, np.int64)
    if reset is None:
        of = np.flatnonzero(length)  # the sequence of each piece
        begin, size = np.zeros_like(of), length[of]
        is_first = is_last = with_initial = np.ones(len(of), bool)
    else:
        cuts: Any = np.frombuffer(reset, bool).reshape(steps, batch).T & (np.arange(steps) < length[:, None])
        discards = cuts[:, :1].any(axis=1) if steps else np.zeros(batch, bool)
        cuts[:, :1] = length[:, None] > 0
        of, begin = np.nonzero(cuts)  # ordered by sequence
        is_last = np.diff(of, append=-1) != 0
        size = np.where(is_last, length[of], np.append(begin[1:], 0)) - begin
        is_first = begin == 0
        with_initial = is_first & ~discards[of]
    if not len(of):
        return Rows(0, 0, 0, 0, 0, size, {}, {})
    order = np.argsort(-size, kind="stable")
    of, begin, size = of[order], begin[order], size[order]
    is_first, is_last, with_initial = is_first[order], is_last[order], with_initial[order]

    rows, longest = len(size), int(size[0])
    counts = rows - np.cumsum(np.bincount(size, minlength=longest + 1))[:longest]  # rows of each step
    offsets = np.cumsum(counts) - counts
    step = np.repeat(np.arange(longest), counts)
    row = np.arange(len(step)) - offsets[step]
    before = np.where(step > 0, offsets[step - 1] + row, OWN)
    arrays = {"before": before, **_runs(counts)}
    numbers, all_rows, of_row = np.arange(rows), np.arange(len(step)), of[row]
    ends_at, turn = offsets[size - 1] + numbers, (size - 1) % 2 * rows + numbers
    for d, back in enumerate(reverse):
        index = ((begin + size)[row] - 1 - step if back else begin[row] + step) * batch + of_row
        places = np.full(steps * batch, NOTHING)
        places[index] = all_rows
        begins, ends = (is_last, is_first) if back else (with_initial, is_last)
        last, turns, first = (np.full(batch, OWN) for _ in range(3))
        last[of[ends]], turns[of[ends]] = ends_at[ends], turn[ends]
        first[of] = NOTHING
        first[of[begins]] = numbers[begins]
        own = {"index": index, "places": places, "ends": last, "turns": turns, "first": first}
        own |= {"starts": np.where(begins, of, OWN), "fresh": np.where(begins, NOTHING, numbers)}
        own |= {"final": np.where(ends, of, NOTHING)}
        arrays |= {f"{name}.{d}": value for name, value in own.items()}
    addresses = {name: array.ctypes.data for name, array in arrays.items()}
    return Rows(longest, rows, len(step), len(arrays["runs"]), int(counts[-1]), np.cumsum(size), arrays, addresses)


def _runs(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the records of `RUN`, forward and backward, from the number of rows of each step.

    The time of a step is the number of its first row. So time advances by the number of rows of the step.
    """
    edges = np.flatnonzero(np.diff(counts, prepend=-1, append=-1))
    steps, rows = np.diff(edges), counts[edges[:-1]]
    back = rows[::-1]
    forward = {"steps": steps, "rows": rows, "enter": np.append(0, rows[:-1]), "advance": rows, "leave": rows}
    backward = {
        "steps": steps[::-1],
        "rows": back,
        "enter": -back,
        "advance": -back,
        "leave": -np.append(back[1:], 0),
    }
    both = {"runs": forward, "runs back": backward}
    return {name: np.stack([of[field] for field in RUN], axis=1).astype(np.int64) for name, of in both.items()}
