"""A cell: the equations of one time step, and a record of the names that they use.

The equations are a plain Python function of up to six arguments. Their names say what it needs:

    x   the input's contribution to a gate:   x.i   is  W_i x_t + b_ih,i         (B, H)
    R   the recurrent contribution to a gate: R.i @ v  is  R_i v + b_hh,i        (B, H)
    s   the previous state:                   s.h, s.c                           (B, width)
    p   one weight per unit:                  p.i * s.c  (peepholes)             (H,)
    P   a projection onto a narrower state:   P.h @ v  is  weight_hr v           (B, proj_size)
    u   a stream, which the caller gives:     u.dt, one value for each step      (B, H)

The function returns the new state, `State(h=..., c=...)`; the first state is the layer's output. It may use
only arithmetic and the functions of torch that docs/cells.md lists. The same function then runs on tensors (the reference engine)
and, unchanged, on symbols (`elman.graph`), from which kernels are made.
"""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from inspect import isfunction
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from elman.mistakes import LEARNED, NO_UNITS, Mistake, Undeclared, Watch, failed, in_place_on, remedy

ARGUMENTS = ("x", "R", "s", "p", "P", "u")


class State(SimpleNamespace):
    """Named values in order: the new state that a step returns, or the `x`, `s` or `p` that it receives."""

    def __iter__(self) -> Iterator[Any]:
        return iter(vars(self).values())

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"there is no {name!r} here, only {', '.join(vars(self)) or 'nothing'}")


class Factor:
    """The left factor of a product in a step, such as `R.i` or `P.h`: `R.i @ v` returns multiply("i", v)."""

    __slots__ = ("kind", "multiply", "name")

    def __init__(self, name: str, multiply: Callable[[str, Any], Any], kind: str = "R"):
        self.name = name
        self.multiply = multiply
        self.kind = kind

    def __matmul__(self, operand: Any) -> Any:
        return self.multiply(self.name, operand)

    def no_value(self) -> str:
        this = f"{self.kind}.{self.name}"
        return f"{this} is a matrix, and stands on the left of @; write {this} @ v, such as {this} @ s.h"


def factors(names: tuple[str, ...], multiply: Callable[[str, Any], Any], kind: str = "R") -> State:
    """Returns `R` or `P`: a State with a `Factor` for every name, whose `@` returns multiply(name, operand)."""
    return State(**{name: Factor(name, multiply, kind) for name in names})


def _refusing(cls: type, *also: str) -> None:
    """Makes a class refuse to be used as a value, with the sentence that its `no_value` returns."""

    def refuse(self: Any, *others: Any) -> Any:
        raise Mistake(self.no_value())

    def refuse_torch(cls: type, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise Mistake(next(a for a in args if isinstance(a, cls)).no_value())

    arithmetic = "add radd sub rsub mul rmul truediv rtruediv pow rpow neg abs rmatmul lt le gt ge getitem call bool"
    for name in (*arithmetic.split(), *also):
        setattr(cls, f"__{name}__", refuse)
    cls.__torch_function__ = classmethod(refuse_torch)  # pyright: ignore[reportAttributeAccessIssue]


_refusing(Factor)


class Anatomy(NamedTuple):
    """The gates that a step uses, as found in a dry run on two units."""

    input_gates: tuple[str, ...]  # gates read as x.g; they have rows in weight_ih
    recurrent_gates: tuple[str, ...]  # gates used as R.g; they have rows in weight_hh
    groups: tuple[tuple[str, ...], ...]  # gates that multiply the same operand share one product
    untyped: bool = (
        False  # whether it makes values of comparisons and plain numbers alone, whose dtype torch would choose
    )


@dataclass(frozen=True, eq=False)
class Cell:
    """The equations of one step and the names they use. To add a cell, write one of these records.

    step: the equations, a function as described in the docstring of `elman.cell`.
    gates: gate names, in the order of their rows in `weight_ih` and `weight_hh`.
    states: state names; the first is the output.
    vectors: names of the per-unit weights, in the order of the rows of `weight_ch`.
    projected: the states that are proj_size wide instead of hidden_size.
    reference: where the equations were published.
    streams: names of what the caller gives for every step besides the input, each as wide as hidden_size.

    Raises TypeError or ValueError: immediately if the record itself is wrong, or on first use if the step does not fit it.
    """

    step: Callable[..., State]
    gates: tuple[str, ...]
    states: tuple[str, ...] = ("h",)
    vectors: tuple[str, ...] = ()
    projected: tuple[str, ...] = ()
    reference: str = ""
    name: str = ""
    streams: tuple[str, ...] = ()
    key = ""  # the name that `elman.names.register` gave the cell; not a field of the record

    def __post_init__(self) -> None:
        if not callable(self.step):
            raise TypeError(
                f"the step of a cell is a function of x, R and s, got {self.step!r}; give the function itself"
            )
        if not self.name:
            if not hasattr(self.step, "__name__"):
                raise TypeError(f"the step {self.step!r} has no name; give the cell one: Cell(step, ..., name='mine')")
            object.__setattr__(self, "name", self.step.__name__)
        for field in ("gates", "states", "vectors", "projected", "streams"):
            names = getattr(self, field)
            if isinstance(names, str):
                raise TypeError(
                    f"cell {self.name!r}: {field} must be a tuple of names, got {names!r}: write {field}=({names!r},) for one"
                )
            if not all(isinstance(n, str) and n.isidentifier() for n in names):
                raise TypeError(f"cell {self.name!r}: {field} must be a tuple of names, got {names!r}")
            if hidden := [n for n in names if n.startswith("_")]:
                raise ValueError(f"cell {self.name!r}: {field} has {hidden[0]!r}; let no name begin with an underscore")
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
        object.__setattr__(self, "__module__", getattr(self.step, "__module__", None))
        object.__setattr__(self, "__doc__", self.step.__doc__)

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self.step).parameters)

    def __call__(self, **available: Any) -> State:
        """Runs one step. Give x, R, s, p, P and u by name; the step receives the ones it has parameters for."""
        return self.step(**{name: available[name] for name in self.arguments})

    def widths(self, hidden_size: int, proj_size: int = 0) -> tuple[int, ...]:
        """The width of each state: proj_size if it is projected, else hidden_size."""
        return tuple(proj_size if state in self.projected else hidden_size for state in self.states)

    @cached_property
    def anatomy(self) -> Anatomy:
        return _dry_run(self)

    @cached_property
    def kept(self) -> Cell:
        """This cell as engines keep it for as long as the process runs, with kernels and plans.

        A step may hold much more than its equations: a method holds its object, such as a whole model. So where it does,
        this is a cell of its own, which finds the step as long as this cell is there.
        """
        if isinstance(self.step, _Found) or (isfunction(self.step) and self.step.__closure__ is None):
            return self
        found = Cell(_Found(self), *[getattr(self, field.name) for field in fields(self)[1:]])
        object.__setattr__(found, "anatomy", self.anatomy)
        return found

    @property
    def holder(self) -> Cell | None:
        """The cell of which this is `kept`, if it is still there; it holds the step."""
        return self.step.cell() if isinstance(self.step, _Found) else self

    @cached_property
    def masked(self) -> Cell:
        """This cell with one stream more, the last, which multiplies what its recurrent products read: R.i @ (mask * v).

        See `elman.inner_dropout`.
        """
        mask = "mask"
        while mask in self.streams:
            mask += "_"

        def step(x: Any, R: Any, s: Any, p: Any, P: Any, u: Any) -> State:
            seen: dict[int, tuple[Any, Any]] = {}  # by id; the operand is held, so that no other value gets its id

            def multiply(gate: str, operand: Any) -> Any:
                if id(operand) not in seen:
                    seen[id(operand)] = operand, operand * getattr(u, mask)
                return getattr(R, gate) @ seen[id(operand)][1]

            own = State(**{name: getattr(u, name) for name in self.streams})
            return self(x=x, R=factors(self.gates, multiply), s=s, p=p, P=P, u=own)

        return replace(self, step=step, streams=(*self.streams, mask))

    # A cell is a constant, so copies of a layer share it. A pickle stores the cell's name in its module, or all of its
    # fields if the module does not hold the cell under that name.

    def __copy__(self) -> Cell:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Cell:
        return self

    def __reduce__(self) -> str | tuple[Any, ...]:
        name = getattr(self.step, "__qualname__", "")
        if name and getattr(sys.modules.get(self.step.__module__), name, None) is self:
            return name
        return Cell, tuple(getattr(self, field.name) for field in fields(self))


class _Found:
    """The step of a cell, found when it runs."""

    def __init__(self, of: Cell) -> None:
        self.cell, self.__doc__ = weakref.ref(of), of.step.__doc__
        self.__signature__ = inspect.signature(of.step)

    def __call__(self, **available: Any) -> State:
        cell = self.cell()
        if cell is None:
            raise ReferenceError("the cell is no longer there; keep it, or a layer of it, as long as it is used")
        return cell.step(**available)


def cell(**record: Any) -> Callable[[Callable[..., State]], Cell]:
    """Returns a decorator that replaces a step with `Cell(step, **record)`."""
    return lambda step: Cell(step, **record)


class _Given(State):
    """`x`, `R`, `s`, `p` or `P` in the dry run: notes the names that are read, and refuses others and itself as a value."""

    __slots__ = ("_about",)

    def __init__(self, kind: str, of: str, read: list[str], names: dict[str, Any]) -> None:
        super().__init__(**names)
        object.__setattr__(self, "_about", (kind, of, read))

    def __iter__(self) -> Iterator[Any]:
        return iter([getattr(self, name) for name in vars(self)])

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name in vars(self):
            self._about[2].append(name)
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        kind, of, _ = self._about
        names = ", ".join(vars(self))
        others = f", or read one of {names}" if names else ""
        raise Undeclared(f"the step reads {kind}.{name}, which the cell does not declare; add {name!r} to {of}{others}")

    def __setattr__(self, name: str, value: Any) -> None:
        kind = self._about[0]
        raise Mistake(
            f"the step writes to {kind}.{name}; give the new value a name"
            + (f", and return it in State({name}=...)" if kind == "s" else "")
        )

    def no_value(self) -> str:
        kind, of, _ = self._about
        name = next(iter(vars(self)), "")
        product = " @ v" if kind in "RP" else ""
        return f"{kind} alone is no value: it holds the {of} by name; write {kind}.{name}{product}"


_refusing(_Given, "matmul")


@torch.inference_mode(False)  # whose tensors do not count changes
def _dry_run(cell: Cell) -> Anatomy:
    """Runs the step once on two units, and notes which gates and products it uses.

    What the step does wrong becomes an error that names the cell and the remedy.
    """
    batch, hidden, proj = 1, 2, 1
    read: list[str] = []
    operands: list[Any] = []
    groups: list[list[str]] = []
    widths = dict(zip(cell.states, cell.widths(hidden, proj), strict=True))
    value = torch.full((batch, hidden), 0.5)
    x = {gate: value.clone() for gate in cell.gates}
    s = {state: torch.full((batch, width), 0.5) for state, width in widths.items()}
    p = {name: value[0].clone() for name in cell.vectors}
    u = {name: value.clone() for name in cell.streams}
    given = {f"{kind}.{name}": v for kind, of in (("x", x), ("s", s), ("p", p), ("u", u)) for name, v in of.items()}
    watch = Watch(given)
    versions = {name: v._version for name, v in given.items()}  # one more for each change in place

    def check_operand(this: str, operand: Any, width: int, like: str) -> None:
        if isinstance(operand, (_Given, Factor)):
            raise Mistake(operand.no_value())
        if not isinstance(operand, Tensor):
            raise Mistake(f"{this} multiplies a {type(operand).__name__}; write {this} @ v, such as {this} @ s.h")
        if operand.shape[-1:] != (width,):
            made_by = watch.made_by(operand)
            why = remedy(made_by) or f"it multiplies values as wide as {like}"
            if made_by in ("mean", "sum", "var", "std") and operand.shape[-1:] == (1,):
                why = f"{NO_UNITS}, so add 0 * v of a value v that has them"
            raise Mistake(f"{this} multiplies a value of another width, {tuple(operand.shape)} for two units; {why}")

    def multiply(gate: str, operand: Any) -> Any:
        check_operand(f"R.{gate}", operand, next(iter(widths.values())), f"the state {cell.states[0]}")
        group = next((number for number, seen in enumerate(operands) if seen is operand), len(operands))
        if group == len(operands):
            operands.append(operand)
            groups.append([])
        if gate not in groups[group]:
            groups[group].append(gate)
        return watch.know(torch.full((batch, hidden), 0.5))

    def project(name: str, operand: Any) -> Any:
        check_operand(f"P.{name}", operand, hidden, "the gates, hidden_size")
        return watch.know(torch.full((batch, proj), 0.5))

    read_vectors: list[str] = []
    read_streams: list[str] = []
    try:
        with torch.enable_grad(), watch:
            new = cell(
                x=_Given("x", "gates", read, x),
                R=_Given("R", "gates", [], vars(factors(cell.gates, multiply))),
                s=_Given("s", "states", [], s),
                p=_Given("p", "vectors", read_vectors, p),
                P=_Given("P", "projected", [], vars(factors(cell.projected, project, "P"))),
                u=_Given("u", "streams", read_streams, u),
            )
        changed = next((name for name, v in given.items() if v._version != versions[name]), None)
        if changed:  # by an option, such as inplace=True or out=
            raise Mistake(in_place_on(changed))
    except Undeclared as error:
        raise ValueError(f"cell {cell.name!r}: {error}") from error
    except Mistake as error:
        raise TypeError(f"cell {cell.name!r}: {error}") from error
    except Exception as error:
        raise TypeError(f"cell {cell.name!r}: {failed(error, watch.last)}") from error

    if not isinstance(new, State) or tuple(vars(new)) != cell.states:
        got = "nothing" if new is None else tuple(vars(new)) if type(new) is State else f"a {type(new).__name__}"
        write = ", ".join(f"{state}=..." for state in cell.states)
        raise ValueError(
            f"cell {cell.name!r} declares the states {cell.states} but its step returns {got}; "
            f"end it with return State({write})"
        )
    for name, result in vars(new).items():
        if not isinstance(result, Tensor):
            raise TypeError(
                f"cell {cell.name!r}: the step returns a {type(result).__name__} as the state {name}; "
                "a new state is made of what the step is given"
            )
        if result.requires_grad:  # nothing that the step was given here needs a gradient
            raise TypeError(f"cell {cell.name!r}: {LEARNED}")
        if tuple(result.shape) != (batch, widths[name]):
            alone = f"; p alone has no sequences, so add 0 * s.{name}" if result.dim() < 2 else ""
            if tuple(result.shape) == (batch, 1):
                alone = f"; {NO_UNITS}, so add 0 * s.{name}"
            elif tuple(result.shape) == (batch,):
                alone = f"; {NO_UNITS}, so keep its dimension (keepdim=True) and add 0 * s.{name}"
            projected = ", projected to one" if cell.projected else ""
            raise ValueError(
                f"cell {cell.name!r}: for one sequence of two units{projected}, the state {name} came out as "
                f"{tuple(result.shape)} instead of {(batch, widths[name])}{alone}"
            )
    used = {gate for group in groups for gate in group}
    unused = [gate for gate in cell.gates if gate not in read and gate not in used]
    if unused:
        raise ValueError(
            f"cell {cell.name!r} declares the gates {unused} but its step uses neither x.g nor R.g of them; "
            "leave them out of gates"
        )
    for field, kind, used_names in (("vectors", "p", read_vectors), ("streams", "u", read_streams)):
        unread = [name for name in getattr(cell, field) if name not in used_names]
        if unread:
            raise ValueError(
                f"cell {cell.name!r} declares the {field} {unread} but its step does not use {kind}.v of them; "
                f"leave them out of {field}"
            )
    return Anatomy(
        input_gates=tuple(gate for gate in cell.gates if gate in read),
        recurrent_gates=tuple(gate for gate in cell.gates if gate in used),
        groups=tuple(tuple(gate for gate in cell.gates if gate in group) for group in groups),
        untyped=watch.untyped,
    )
