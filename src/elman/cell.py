"""A cell: the equations of one time step, and a record of the names that they use.

The equations are a plain Python function of up to five arguments, asked for by name:

    x   the input's share of each gate:       x.i   is  W_i x_t + b_ih,i         (B, H)
    R   the recurrent share of each gate:     R.i @ v  is  R_i v + b_hh,i        (B, H)
    s   the previous state:                   s.h, s.c                           (B, width)
    p   one weight per unit:                  p.i * s.c  (peepholes)             (H,)
    P   a projection onto a narrower state:   P.h @ v  is  weight_hr v           (B, proj_size)

The function returns the new state, `State(h=..., c=...)`; the first state is the layer's output. It may use
only arithmetic and torch's elementwise functions. The same function then runs on tensors (the reference engine)
and, unchanged, on symbols (`elman.graph`), from which kernels are made.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

ARGUMENTS = ("x", "R", "s", "p", "P")


class State(SimpleNamespace):
    """Named values in order: the new state that a step returns, or the `x`, `s` or `p` that it receives."""

    def __iter__(self) -> Iterator[Any]:
        return iter(vars(self).values())

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"there is no {name!r} here, only {', '.join(vars(self)) or 'nothing'}")


class Factor:
    """The left factor of a product in a step, such as `R.i` or `P.h`: `R.i @ v` returns multiply("i", v)."""

    __slots__ = ("multiply", "name")

    def __init__(self, name: str, multiply: Callable[[str, Any], Any]):
        self.name = name
        self.multiply = multiply

    def __matmul__(self, operand: Any) -> Any:
        return self.multiply(self.name, operand)


def factors(names: tuple[str, ...], multiply: Callable[[str, Any], Any]) -> State:
    """Returns `R` or `P`: a State with a `Factor` for every name, whose `@` returns multiply(name, operand)."""
    return State(**{name: Factor(name, multiply) for name in names})


class Anatomy(NamedTuple):
    """The gates that a step uses, as found in a dry run on two units."""

    input_gates: tuple[str, ...]  # gates read as x.g; they have rows in weight_ih
    recurrent_gates: tuple[str, ...]  # gates used as R.g; they have rows in weight_hh
    groups: tuple[tuple[str, ...], ...]  # gates that multiply the same operand share one product


@dataclass(frozen=True, eq=False)
class Cell:
    """The equations of one step and the names they use. To add a cell, write one of these records.

    step: the equations, a function as the docstring of `elman.cell` describes it.
    gates: gate names, in the order of their rows in `weight_ih` and `weight_hh`.
    states: state names; the first is the output.
    vectors: names of the per-unit weights, in the order of the rows of `weight_ch`.
    projected: the states that are proj_size wide instead of hidden_size.
    reference: where the equations were published.

    Raises TypeError or ValueError: at once when the record itself is wrong, on first use when the step does not fit it.
    """

    step: Callable[..., State]
    gates: tuple[str, ...]
    states: tuple[str, ...] = ("h",)
    vectors: tuple[str, ...] = ()
    projected: tuple[str, ...] = ()
    reference: str = ""
    name: str = ""
    key = ""  # the name that `elman.names.register` gave the cell; not a field of the record

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.step.__name__)
        for field in ("gates", "states", "vectors", "projected"):
            names = getattr(self, field)
            if isinstance(names, str) or not all(isinstance(n, str) and n.isidentifier() for n in names):
                raise TypeError(f"cell {self.name!r}: {field} must be a tuple of names, got {names!r}")
            if len(set(names)) != len(names):
                raise ValueError(f"cell {self.name!r}: {field} has a name twice: {names}")
            object.__setattr__(self, field, tuple(names))
        if not self.states:
            raise ValueError(f"cell {self.name!r} needs at least one state; the first is its output")
        unknown = [a for a in self.arguments if a not in ARGUMENTS]
        if unknown:
            raise TypeError(
                f"cell {self.name!r} asks for {unknown}; a step takes arguments named {', '.join(ARGUMENTS)}"
            )
        object.__setattr__(self, "__module__", self.step.__module__)
        object.__setattr__(self, "__doc__", self.step.__doc__)

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self.step).parameters)

    def __call__(self, **available: Any) -> State:
        """Runs one step. Give x, R, s, p and P by name; the step receives the ones it has parameters for."""
        return self.step(**{name: available[name] for name in self.arguments})

    def widths(self, hidden_size: int, proj_size: int = 0) -> tuple[int, ...]:
        """The width of each state: proj_size if it is projected, else hidden_size."""
        return tuple(proj_size if state in self.projected else hidden_size for state in self.states)

    @cached_property
    def anatomy(self) -> Anatomy:
        return _dry_run(self)

    # A cell is a constant, so copies of a layer share it. A pickle stores the cell's name in its module, or all of its
    # fields if the module does not hold the cell under that name.

    def __copy__(self) -> Cell:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Cell:
        return self

    def __reduce__(self) -> str | tuple[Any, ...]:
        name = self.step.__qualname__
        if getattr(sys.modules.get(self.step.__module__), name, None) is self:
            return name
        return Cell, tuple(getattr(self, field.name) for field in fields(self))


def cell(**record: Any) -> Callable[[Callable[..., State]], Cell]:
    """Returns a decorator that replaces a step by `Cell(step, **record)`."""
    return lambda step: Cell(step, **record)


def _dry_run(cell: Cell) -> Anatomy:
    """Runs the step once on two units, and notes which gates and products it uses."""
    batch, hidden, proj = 1, 2, 1
    read: list[str] = []
    operands: list[Any] = []
    groups: list[list[str]] = []

    class Watched(State):
        def __getattribute__(self, name: str) -> Any:
            if name in cell.gates:
                read.append(name)
            return super().__getattribute__(name)

    def multiply(gate: str, operand: Any) -> Any:
        group = next((number for number, seen in enumerate(operands) if seen is operand), len(operands))
        if group == len(operands):
            operands.append(operand)
            groups.append([])
        if gate not in groups[group]:
            groups[group].append(gate)
        return torch.full((batch, hidden), 0.5)

    value = torch.full((batch, hidden), 0.5)
    try:
        new = cell(
            x=Watched(**dict.fromkeys(cell.gates, value)),
            R=factors(cell.gates, multiply),
            s=State(
                **{
                    name: torch.full((batch, width), 0.5)
                    for name, width in zip(cell.states, cell.widths(hidden, proj), strict=True)
                }
            ),
            p=State(**dict.fromkeys(cell.vectors, value[0])),
            P=factors(cell.projected, lambda name, operand: torch.full((batch, proj), 0.5)),
        )
    except AttributeError as error:
        raise ValueError(f"cell {cell.name!r} uses a name it does not declare: {error}") from error

    if not isinstance(new, State) or tuple(vars(new)) != cell.states:
        got = tuple(vars(new)) if isinstance(new, State) else type(new).__name__
        raise ValueError(f"cell {cell.name!r} declares the states {cell.states} but its step returns {got}")
    for name, width, result in zip(cell.states, cell.widths(hidden, proj), new, strict=True):
        if tuple(result.shape) != (batch, width):
            raise ValueError(
                f"cell {cell.name!r}: with hidden_size={hidden} and proj_size={proj}, state {name} came out as "
                f"{tuple(result.shape)} instead of {(batch, width)}"
            )
    used = {gate for group in groups for gate in group}
    unused = [gate for gate in cell.gates if gate not in read and gate not in used]
    if unused:
        raise ValueError(
            f"cell {cell.name!r} declares the gates {unused} but its step uses neither x.g nor R.g of them"
        )
    return Anatomy(
        input_gates=tuple(gate for gate in cell.gates if gate in read),
        recurrent_gates=tuple(gate for gate in cell.gates if gate in used),
        groups=tuple(tuple(gate for gate in cell.gates if gate in group) for group in groups),
    )
