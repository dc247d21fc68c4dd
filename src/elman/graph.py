"""A cell's step as an expression graph. The step is run once on symbols, and every operation becomes a node.

Equal operations become the same node. The equations in `elman.cells` are run unchanged: symbols support Python's
arithmetic operators and, through `__torch_function__`, torch's elementwise functions. For anything else NotTraceable is
raised, which names it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from numbers import Real
from typing import Any

import torch

from elman.agreement import disagreement
from elman.cell import Cell, State, factors
from elman.leaves import LEAVES, MATRICES
from elman.mistakes import DECIDES, OWN, remedy
from elman.operations import ALL_UNITS, COMPARISONS, KNOWN, OF_CONDITIONS, OF_TORCH, OPERATIONS, Operation


class NotTraceable(TypeError):
    """The step does something that a graph cannot hold. The reference engine can still run it."""


@dataclass(frozen=True, eq=False)
class Node:
    """One value in a graph. `op` is one of:

    the name of an operation (`elman.operations`), applied to the arguments;
    the kind of a leaf (`elman.leaves.LEAVES`), which has a `name`;
    the kind of a matrix (`elman.leaves.MATRICES`), which has a `name`: the product of that matrix and the one argument;
    "number", a constant, which has a `value`.
    """

    graph: Graph = field(repr=False)
    index: int
    op: str
    arguments: tuple[Node, ...] = ()
    name: str = ""
    value: float = 0.0

    __array_ufunc__ = None  # so that a number of numpy leaves what it is multiplied with to the node

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Node:
        known = OF_TORCH.get(function)
        options = {
            option: given
            for option, given in (kwargs or {}).items()
            if given is not None and (option, given) != ("inplace", False)
        }
        called = getattr(function, "__name__", str(function))
        if known is None or (isinstance(known, Operation) and options):
            said = f" with {', '.join(options)}" if options else ""
            raise NotTraceable(f"the step calls {called}{said}, {_unknown(called)}")
        if known not in OF_CONDITIONS:
            args = tuple(a.number if isinstance(a, Condition) else a for a in args)
        if isinstance(known, Operation):
            return _apply(known.name, *args)
        try:
            return known(*args, **options)
        except NotTraceable:
            raise
        except TypeError as error:
            raise NotTraceable(f"the step calls {called} in a way that a graph does not know: {error}") from error

    @property
    def nonlinear(self) -> bool:
        """Whether the operation is a function other than arithmetic, such as tanh."""
        return self.op in OPERATIONS and OPERATIONS[self.op].nonlinear

    @property
    def whole_row(self) -> bool:
        """Whether the operation is over all units of a row, such as a mean."""
        return self.op in OPERATIONS and OPERATIONS[self.op].whole_row

    @property
    def shape(self) -> _Shape:
        return _Shape()

    def __add__(self, other: Any) -> Node:
        return _apply("add", self, other)

    def __radd__(self, other: Any) -> Node:
        return _apply("add", other, self)

    def __sub__(self, other: Any) -> Node:
        return _apply("sub", self, other)

    def __rsub__(self, other: Any) -> Node:
        return _apply("sub", other, self)

    def __mul__(self, other: Any) -> Node:
        return _apply("mul", self, other)

    def __rmul__(self, other: Any) -> Node:
        return _apply("mul", other, self)

    def __truediv__(self, other: Any) -> Node:
        return _apply("div", self, other)

    def __rtruediv__(self, other: Any) -> Node:
        return _apply("div", other, self)

    def __pow__(self, exponent: Any) -> Node:
        return Node.__torch_function__(torch.pow, (), (self, exponent))

    def __neg__(self) -> Node:
        return _apply("neg", self)

    def __pos__(self) -> Node:
        return self

    def __abs__(self) -> Node:
        return _apply("abs", self)

    def __hash__(self) -> int:
        return hash(self.index)

    def __bool__(self) -> bool:
        raise NotTraceable(DECIDES)

    def __getattr__(self, name: str) -> Any:
        if method := _method(self, name):
            return method
        raise NotTraceable(f"the step asks a value for .{name}, {_unknown(name)}")


class _Shape:
    """The shape of a value. All that a step can know of it is which part is the number of units."""

    def __getitem__(self, part: Any) -> object:
        if part == slice(-1, None):
            return ALL_UNITS
        raise NotTraceable(f"the step asks for the shape of a value, {_unknown('shape')}")

    def __iter__(self) -> Any:
        return self[0]

    def __len__(self) -> Any:
        return self[0]

    def __getattr__(self, name: str) -> Any:
        return self[0]


def _method(self: Node | Condition, name: str) -> Callable[..., Any] | None:
    """A method of torch's tensors that a graph knows, else None."""
    function = getattr(torch.Tensor, name, None)
    if function in OF_TORCH:
        return lambda *others, **options: Node.__torch_function__(function, (), (self, *others), options)
    return None


def _unknown(called: str) -> str:
    return "which a graph does not know; " + (remedy(called) or f"it knows {', '.join(KNOWN)}")


class Condition:
    """A comparison of values, or several joined by &, | and ~. `choose(x, y)` is x where it holds, else y.

    As a value, such as a factor or a term, it is 1 where it holds, else 0, as torch has it.
    """

    __array_ufunc__ = None

    def __init__(self, choose: Callable[[Any, Any], Node]) -> None:
        self.choose = choose

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Node:
        return Node.__torch_function__(function, types, args, kwargs)

    def __and__(self, other: Any) -> Condition:
        other = _condition(other)
        return Condition(lambda x, y: self.choose(other.choose(x, y), y))

    def __or__(self, other: Any) -> Condition:
        other = _condition(other)
        return Condition(lambda x, y: self.choose(x, other.choose(x, y)))

    def __xor__(self, other: Any) -> Condition:
        other = _condition(other)
        return Condition(lambda x, y: self.choose(other.choose(y, x), other.choose(x, y)))

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    @property
    def number(self) -> Node:
        return self.choose(1.0, 0.0)

    # Of two conditions, torch makes a condition. With a value, the value's method is asked first or next.

    def __mul__(self, other: Any) -> Any:
        return self & other if isinstance(other, Condition) else self.number * other

    def __add__(self, other: Any) -> Any:
        return self | other if isinstance(other, Condition) else self.number + other

    __rmul__, __radd__ = __mul__, __add__

    def __truediv__(self, other: Any) -> Node:
        return self.number / (other.number if isinstance(other, Condition) else other)

    def __pow__(self, exponent: Any) -> Node:
        return self.number**exponent

    def __invert__(self) -> Condition:
        return Condition(lambda x, y: self.choose(y, x))

    def __bool__(self) -> bool:
        raise NotTraceable(DECIDES)

    def __getattr__(self, name: str) -> Any:
        if method := _method(self, name):
            return method
        raise NotTraceable(
            f"the step asks a comparison for .{name}, which a graph does not know; write torch.where(condition, v, w)"
        )


def _condition(value: Any) -> Condition:
    """What &, | and ^ join with a comparison."""
    if isinstance(value, Condition):
        return value
    if isinstance(value, bool):
        return Condition(lambda x, y: x if value else y)
    raise NotTraceable(
        f"the step joins a comparison with a value of type {type(value).__name__}; write (v > 0) & (w > 0), of two comparisons"
    )


def _comparing(operation: Operation, swap: bool, otherwise: bool) -> Callable[[Node, Any], Condition]:
    def compare(self: Node, other: Any) -> Condition:
        a, b = (other, self) if swap else (self, other)
        return Condition(lambda x, y: _apply(operation.name, a, b, *((y, x) if otherwise else (x, y))))

    return compare


for _name, _comparison in COMPARISONS.items():
    for _kind in (Node, Condition):
        setattr(_kind, f"__{_name}__", _comparing(*_comparison))


def _refuse(name: str, symbol: str) -> Callable[..., Node]:
    def refuse(self: Node, *others: Any) -> Node:
        raise NotTraceable(f"the step applies {symbol} to a value, {_unknown(name)}")

    return refuse


# Python's operators that a graph does not have, and their signs for the message.
_REFUSED = {"rpow": "**", "mod": "%", "rmod": "%", "floordiv": "//", "rfloordiv": "//", "matmul": "@", "rmatmul": "@"}
_REFUSED |= {"getitem": "[]", "iter": "iteration", "len": "len", "float": "float", "int": "int"}
_REFUSED |= {"invert": "~", "and": "&", "or": "|", "xor": "^"}
for _name, _symbol in _REFUSED.items():
    setattr(Node, f"__{_name}__", _refuse(f"__{_name}__", _symbol))


def _apply(op: str, *arguments: Any) -> Node:
    arguments = tuple(a.number if isinstance(a, Condition) else a for a in arguments)
    for argument in arguments:
        if not isinstance(argument, (Node, Real)):
            raise NotTraceable(OWN.format(type(argument).__name__))
    return OPERATIONS[op](*arguments)


class Graph:
    """The nodes of a cell's step, each after its arguments; `outputs` has those that are the new state, by name."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.outputs: dict[str, Node] = {}
        self._known: dict[tuple[Any, ...], Node] = {}

    def add(self, op: str, arguments: tuple[Node, ...] = (), name: str = "", value: float = 0.0) -> Node:
        """Returns the node of this operation: the existing node if an equal one was added before, else a new node."""
        key = (op, tuple(a.index for a in arguments), name, repr(value))
        if key not in self._known:
            self._known[key] = Node(self, len(self.nodes), op, arguments, name, value)
            self.nodes.append(self._known[key])
        return self._known[key]

    def evaluate(self, **given: Any) -> list[Any]:
        """Returns the value of every node, given the arguments of a step by name."""

        def compute(node: Node, value: Callable[[Node], Any]) -> Any:
            if node.op in MATRICES:
                return getattr(given[node.op], node.name) @ value(node.arguments[0])
            return on_tensors(node, value)

        def read(node: Node) -> Any:
            return node.value if node.op == "number" else getattr(given[node.op], node.name)

        return list(map(walk(self.nodes, compute, read), self.nodes))

    def new_state(self, **given: Any) -> dict[str, Any]:
        """Returns the new state, given the arguments of a step by name."""
        values = self.evaluate(**given)
        return {name: values[node.index] for name, node in self.outputs.items()}

    def live(self) -> list[Node]:
        """Returns the nodes on which an output depends, each after its arguments."""
        live: set[int] = set()
        waiting = list(self.outputs.values())
        while waiting:
            node = waiting.pop()
            if node.index not in live:
                live.add(node.index)
                waiting += node.arguments
        return [node for node in self.nodes if node.index in live]

    def needed(self) -> Graph:
        """Returns a copy of the graph with its live nodes only."""
        graph, same = Graph(), {}
        for node in self.live():
            arguments = tuple(same[a.index] for a in node.arguments)
            same[node.index] = graph.add(node.op, arguments, node.name, node.value)
        graph.outputs = {name: same[node.index] for name, node in self.outputs.items()}
        return graph

    def __str__(self) -> str:
        """One line for each node that is not a number, then one for each output."""

        def name_of(node: Node) -> str:
            return f"{node.value:g}" if node.op == "number" else f"v{node.index}"

        lines = []
        for node in self.nodes:
            inside = ", ".join([*([node.name] if node.name else []), *map(name_of, node.arguments)])
            if node.op != "number":
                lines.append(f"{name_of(node):4} = {node.op}({inside})")
        return "\n".join([*lines, *(f"{name} -> {name_of(node)}" for name, node in self.outputs.items())])

    def gate(self, name: str) -> Node:
        """Returns the node that is the value of gate `name`: the first function that its input share enters.

        The search starts at the input share, or else the recurrent share. It follows sums, and values that are
        normalised over all units, with their scale and shift. It stops early at a value that several nodes read, or one
        other operation. Raises KeyError if the graph has no such gate.
        """
        live = self.live()
        node = next((n for n in self.nodes if n.op in ("x", "R") and n.name == name), None)
        if node is None:
            raise KeyError(name)
        normalised = False
        while not node.nonlinear:
            users = [n for n in live if any(argument is node for argument in n.arguments)]
            one = users[0] if len(users) == 1 else node
            scale = normalised and one.op == "mul" and _is_scale(one, node)
            if one is not node and (one.op in ("add", "sub") or one.nonlinear or scale):
                node = one
            elif (after := self._normalised(node, live)) is not None:
                node, normalised = after, True
            else:
                return node
        return node

    def _normalised(self, node: Node, live: list[Node]) -> Node | None:
        """Returns the first node through which all that depends on a node goes, if a mean or sum of it is on the way."""
        outputs, inside = {output.index for output in self.outputs.values()}, {node.index}

        def reads(other: Node) -> bool:
            return any(argument.index in inside for argument in other.arguments)

        for after in filter(reads, live):
            leave = any(reads(n) and n.index not in {*inside, after.index} for n in live)
            if not leave and not inside & outputs:
                return after if any(n.whole_row for n in live if n.index in inside) else None
            inside.add(after.index)
        return None


def _is_scale(product: Node, of: Node) -> bool:
    """Whether the other factor of a product is made of per-unit weights and numbers alone."""
    waiting = [argument for argument in product.arguments if argument is not of]
    while waiting:
        node = waiting.pop()
        if node.op not in ("p", "number") and not (node.arguments and node.op in OPERATIONS):
            return False
        waiting += node.arguments
    return True


Value = Callable[[Node], Any]


def on_tensors(node: Node, value: Value) -> Any:
    """Computes a node's operation; value(argument) gives the value of an argument, a tensor or a plain number."""
    return OPERATIONS[node.op].compute(*map(value, node.arguments))


def walk(nodes: Iterable[Node], compute: Callable[[Node, Value], Any], read: Callable[[Node], Any]) -> Value:
    """Returns a function that gives the value of a node. It finds each value when it is first asked for, and keeps it.

    compute(node, value): the value of a node of `nodes` that has arguments; value(argument) gives that of an argument.
    read(node): the value of a leaf, or of a node that is not in `nodes`.
    """
    inside = {node.index for node in nodes if node.arguments}
    found: dict[int, Any] = {}

    def value(node: Node) -> Any:
        if node.index not in found:
            found[node.index] = compute(node, value) if node.index in inside else read(node)
        return found[node.index]

    return value


def trace(cell: Cell) -> Graph:
    """The graph of a cell's step. Raises NotTraceable, with the reason, if the step does what a graph cannot hold."""
    graph = Graph()
    given = symbols(cell, graph)
    try:
        new = cell(**given)
    except NotTraceable:
        raise
    except Exception as error:  # of Python's or another library's, about a symbol
        raise NotTraceable(f"the step fails on symbols, {type(error).__name__}: {error}") from error
    for name, node in vars(new).items():
        if not isinstance(node, Node):
            raise NotTraceable(
                f"the step of {cell.name!r} returns {name} = {node!r}, which depends on nothing it was given"
            )
        graph.outputs[name] = node
    if problem := disagreement(cell, graph.new_state):
        raise NotTraceable(problem)
    return graph


def symbols(cell: Cell, graph: Graph) -> dict[str, State]:
    """x, R, s, p and P for a step of the cell. What the step computes with them becomes nodes of the graph."""

    def leaves(kind: str, names: tuple[str, ...]) -> State:
        return State(**{name: graph.add(kind, name=name) for name in names})

    def multiply(kind: str) -> Callable[[str, Node], Node]:
        return lambda name, v: graph.add(kind, (v,), name=name)

    given = {kind: leaves(kind, leaf.names(cell)) for kind, leaf in LEAVES.items()}
    return given | {kind: factors(matrix.names(cell), multiply(kind)) for kind, matrix in MATRICES.items()}


@cache
def fingerprint(cell: Cell) -> str:
    """A hash of everything about a cell that kernels depend on: sixteen hexadecimal digits, the same in every process.

    Raises NotTraceable if the cell's step cannot be traced.
    """
    graph = trace(cell).needed()
    nodes = [(n.op, [a.index for a in n.arguments], n.name, n.value) for n in graph.nodes]
    outputs = [(name, node.index) for name, node in graph.outputs.items()]
    names = cell.gates, cell.states, cell.vectors, cell.projected, *([cell.streams] if cell.streams else [])
    return _digits((*names, cell.anatomy, nodes, outputs))


@cache
def equations(cell: Cell) -> str:
    """A hash of what a step computes: sixteen hexadecimal digits, whatever the order of its gates, terms and lines.

    Raises NotTraceable if the cell's step cannot be traced.
    """
    graph, said = trace(cell), {}
    for node in graph.nodes:
        inside = [said[a.index] for a in node.arguments]
        if node.op in OPERATIONS and OPERATIONS[node.op].commutes:
            inside.sort()
        said[node.index] = _digits((node.op, inside, node.name, node.value))
    return _digits([(state, said[node.index]) for state, node in graph.outputs.items()])


def _digits(form: Any) -> str:
    return hashlib.sha256(repr(form).encode()).hexdigest()[:16]
