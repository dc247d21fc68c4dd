"""Whole numbers that record how they were computed, so that the same arithmetic can be repeated with other sizes.

A script depends on sizes, and batches of real data keep bringing new sizes. So a script is written with numbers of a
tape (script.py, layer/form.py). Arithmetic with them gives numbers of the same tape. A decision is a comparison or
any use as an ordinary whole number; the tape records its result. For other sizes the tape is played again. If every
decision has the same result, the existing script fits once the numbers in it are replaced.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Tape:
    """A record of arithmetic with some sizes.

    The attribute `sizes` has them as numbers of the tape. It is typed as ints, so that code for ints type-checks.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.values: list[Any] = list(sizes)  # of all numbers on the tape, by place
        # The place of a result, its function and the places of the operands; without a function it is a decision.
        self._steps: list[tuple[int, Callable[[Any, Any], Any] | None, int, int]] = []
        self._places: dict[tuple[Callable[[Any, Any], Any], int, int], int] = {}
        self._constants: dict[int, int] = {}
        self._decided: set[int] = set()
        self.sizes = cast("list[int]", [Number(self, place) for place in range(len(sizes))])

    def apply(self, function: Callable[[Any, Any], Any], a: object, b: object) -> Number:
        """Returns function(a, b) as a number of this tape. At least one of a and b must be a number of it."""
        key = function, self._place(a), self._place(b)
        place = self._places.get(key)
        if place is None:
            self._places[key] = place = len(self.values)
            self.values.append(function(self.values[key[1]], self.values[key[2]]))
            self._steps.append((place, *key))
        return Number(self, place)

    def _place(self, number: object) -> int:
        if isinstance(number, Number):
            if number.tape is not self:
                raise ValueError("a script is written on the numbers of one tape")
            return number.place
        constant = operator.index(cast("int", number))
        if constant not in self._constants:
            self._constants[constant] = len(self.values)
            self.values.append(constant)
        return self._constants[constant]

    def decide(self, number: Number) -> Any:
        """Returns the value of a number. From now on the tape fits only sizes for which the number has this value."""
        if number.place not in self._decided:
            self._decided.add(number.place)
            self._steps.append((number.place, None, 0, 0))
        return self.values[number.place]

    def play(self, sizes: Sequence[int]) -> list[Any] | None:
        """Returns the values for other sizes, by place, or None if a decision has another result for them."""
        values = self.values.copy()
        values[: len(sizes)] = sizes
        for place, function, a, b in self._steps:
            if function is not None:
                values[place] = function(values[a], values[b])
            elif values[place] != self.values[place]:
                return None
        return values


class Number:
    """A whole number on a tape.

    It has no hash, and so cannot be a key: a cached result would hold for one size, and no decision would record it.
    """

    __hash__ = None  # pyright: ignore[reportAssignmentType]
    __slots__ = "place", "tape"

    def __init__(self, tape: Tape, place: int) -> None:
        self.tape, self.place = tape, place

    @property
    def value(self) -> int:
        """The number for the tape's own sizes. Use it only where `play` can supply the value for other sizes."""
        return self.tape.values[self.place]

    def __add__(self, other: object) -> Number:
        return self.tape.apply(operator.add, self, other)

    def __radd__(self, other: object) -> Number:
        return self.tape.apply(operator.add, other, self)

    def __sub__(self, other: object) -> Number:
        return self.tape.apply(operator.sub, self, other)

    def __rsub__(self, other: object) -> Number:
        return self.tape.apply(operator.sub, other, self)

    def __mul__(self, other: object) -> Number:
        return self.tape.apply(operator.mul, self, other)

    def __rmul__(self, other: object) -> Number:
        return self.tape.apply(operator.mul, other, self)

    def __floordiv__(self, other: object) -> Number:
        return self.tape.apply(operator.floordiv, self, other)

    def __rfloordiv__(self, other: object) -> Number:
        return self.tape.apply(operator.floordiv, other, self)

    def __mod__(self, other: object) -> Number:
        return self.tape.apply(operator.mod, self, other)

    def __neg__(self) -> Number:
        return self.tape.apply(operator.sub, 0, self)

    def __lt__(self, other: object) -> bool:
        return self.tape.decide(self.tape.apply(operator.lt, self, other))

    def __le__(self, other: object) -> bool:
        return self.tape.decide(self.tape.apply(operator.le, self, other))

    def __gt__(self, other: object) -> bool:
        return self.tape.decide(self.tape.apply(operator.gt, self, other))

    def __ge__(self, other: object) -> bool:
        return self.tape.decide(self.tape.apply(operator.ge, self, other))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Number) and other.tape is self.tape and other.place == self.place:
            return True
        return self.tape.decide(self.tape.apply(operator.eq, self, other))

    def __bool__(self) -> bool:
        return self != 0

    def __index__(self) -> int:
        return self.tape.decide(self)


def decided(function: Callable[[int], T], number: int) -> T:
    """Returns function(number), and records it as a decision. The result may be anything that can be compared."""
    if not isinstance(number, Number):
        return function(number)
    return number.tape.decide(number.tape.apply(lambda value, _: function(value), number, 0))


def several(function: Callable[[int], Sequence[int]], number: int, count: int) -> Sequence[int]:
    """Returns the `count` numbers of function(number), each as a number of the same tape.

    This is for results that arithmetic with `number` cannot give, such as addresses.
    """
    if not isinstance(number, Number):
        return function(number)
    tape = number.tape
    found = tape.apply(lambda value, _: function(value), number, 0)
    return cast("list[int]", [tape.apply(operator.getitem, found, which) for which in range(count)])
