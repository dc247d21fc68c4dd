"""What a script depends on (`Form`). Scripts, once written, are kept and fitted to other sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from itertools import islice
from typing import Any, Concatenate, NamedTuple, ParamSpec, cast

from elman.cell import Cell
from elman.cpu.codegen.formats import Format
from elman.cpu.layer.kernel_tasks import Packed, Sizes, multiplications
from elman.cpu.scripts import threads
from elman.cpu.scripts.script import Script
from elman.cpu.scripts.tape import Tape

TEMPLATES = 16  # scripts that are kept for a form without sizes, at most

P = ParamSpec("P")


class Form(NamedTuple):
    """What a script depends on, besides the cell."""

    steps: int
    batch: int
    inputs: int
    units: int
    proj: int  # 0 where no state is projected
    format: Format  # of every number
    threads: int
    reverse: tuple[bool, ...]
    names: tuple[str, ...]  # of the arrays that the script may be given
    strides: tuple[tuple[int, ...] | None, ...]  # of each of these arrays; None for one that is missing
    # Where there are lengths or resets. `steps` is then that of the longest packed row, `batch` their number.
    packed: Packed | None = None

    def given(self) -> dict[str, tuple[int, ...]]:
        """Returns the strides of the arrays that are not missing, by name."""
        return {name: stride for name, stride in zip(self.names, self.strides, strict=True) if stride is not None}

    def opened(self) -> tuple[Form, list[int]]:
        """Returns the form with zero for every size that changes from batch to batch, and a list of these sizes.

        They are T, B, the strides of sequences and states, and the numbers of `packed`.
        """
        sizes = [self.steps, self.batch]
        strides: list[tuple[int, ...] | None] = []
        for stride in self.strides:
            if stride is not None and len(stride) == 3:
                sizes += stride
                stride = 0, 0, 0
            strides.append(stride)
        if self.packed is not None:
            *numbers, edges = self.packed
            sizes += *numbers, *edges
            packed = Packed(0, 0, 0, 0, 0, (0,) * len(edges))
            return self._replace(steps=0, batch=0, strides=tuple(strides), packed=packed), sizes
        return self._replace(steps=0, batch=0, strides=tuple(strides)), sizes

    def with_sizes(self, sizes: Sequence[int]) -> Form:
        """Returns the form with these sizes in it: the inverse of `opened`."""
        steps, batch, *rest = sizes
        numbers = iter(rest)
        strides = [
            tuple(islice(numbers, 3)) if stride is not None and len(stride) == 3 else stride for stride in self.strides
        ]
        packed = self.packed
        if packed is not None:
            total, length, sequences, runs, last = islice(numbers, 5)
            packed = Packed(total, length, sequences, runs, last, tuple(numbers))
        return self._replace(steps=steps, batch=batch, strides=tuple(strides), packed=packed)

    def sizes(self, cell: Cell, products: int = 1) -> Sizes:
        """Returns the sizes of the layer, with one thread if the work is too small for a team.

        products: how many products a pass does with every weight.
        """
        directions = len(self.reverse)
        row = len(cell.anatomy.input_gates) * self.inputs * self.units + multiplications(cell, self.units, self.proj)
        sizes = Sizes(*self[:6], directions, self.threads, packed=self.packed)
        return sizes._replace(
            threads=threads.team_size(products * threads.effective_rows(sizes.total) * row * directions, self.threads)
        )


@lru_cache(maxsize=128)
def templates(*_: Any) -> list[tuple[Tape, Script]]:
    """Returns the list of the scripts kept for these arguments, the one used last first.

    The arguments are the function that writes the script, the cell, the form without sizes, and what else the function
    is given. The cache returns the list itself, and `for_all_sizes` changes it.
    """
    return []


def for_all_sizes(write: Callable[Concatenate[Cell, Form, P], Script]) -> Callable[Concatenate[Cell, Form, P], Script]:
    """Returns a function that returns the scripts of `write`, and keeps them.

    A script is written on a tape (tape.py). For other sizes the tape is played again.
    """

    def script(cell: Cell, form: Form, *more: P.args, **named: P.kwargs) -> Script:
        form, sizes = form.opened()
        known = templates(write, cell, form, *more, *named.items())
        for template in known:
            values = template[0].play(sizes)
            if values is not None:
                known[:] = template, *(other for other in known if other is not template)
                return template[1].again(values)
        tape = Tape(sizes)
        written = write(cell, form.with_sizes(tape.sizes), *more, **named)
        known[:] = (tape, written), *known[: TEMPLATES - 1]
        return written

    return wraps(write)(cast("Callable[Concatenate[Cell, Form, P], Script]", lru_cache(maxsize=256)(script)))
