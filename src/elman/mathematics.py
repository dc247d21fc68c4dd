"""A cell's equations as mathematics, read from the source of its step."""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
from collections.abc import Iterable
from typing import Any, NamedTuple

from elman.cell import Cell
from elman.graph import Node, symbols, trace

_FUNCTIONS = {"sigmoid": "σ", "relu": "ReLU", "silu": "SiLU", "gelu": "GELU"}
_COMPARISONS = {ast.Lt: "<", ast.LtE: "≤", ast.Gt: ">", ast.GtE: "≥", ast.Eq: "=", ast.NotEq: "≠"}
_JOINTS = {ast.BitAnd: "and", ast.BitOr: "or"}
_COMPARE, _ADD, _MULTIPLY, _ATOM = 1, 2, 3, 4  # how tightly a term binds


class Term(NamedTuple):
    """A piece of an equation's text."""

    text: str
    node: int | None = (
        None  # the index, in `elman.graph.trace(cell).nodes`, of the value that the text stands for, if any
    )


def equations(cell: Cell) -> list[str]:
    """One line per equation: `f_t = σ(W_f x_t + b_f + R_f h_{t-1} + b'_f)`.

    W and b belong to the input's share of a gate (weight_ih, bias_ih), R and b' to the recurrent share
    (weight_hh, bias_hh); p are the per-unit weights (weight_ch), P is the projection (weight_hr); ⊙ is the
    elementwise product. Raises ValueError if the source of the step cannot be read or is not a function with def.
    """
    return [_text(line) for line in terms(cell)]


def terms(cell: Cell) -> list[list[Term]]:
    """The pieces of each line of `equations`, with the values that they stand for.

    The name on the left stands for the value of the line, `W_f x_t + b_f` for the input's share, and `tanh(` for the
    value of the call. A product with R or P is one piece, as in `R_f h_{t-1} + b'_f`, if its operand is. Otherwise `R_f `
    stands for the product, and the pieces of the operand follow. Signs, parentheses, constants and comparisons stand for
    no value, nor does a statement that is shown as source. No piece has a value if the step cannot be traced.
    """
    function = _function(cell)
    write = _Writer(_values(cell, function))
    lines: list[list[Term]] = []
    for statement in _Calls(cell).visit(function).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            lines.append(write.equation(statement.targets[0].id, statement.value))
        elif isinstance(statement, ast.Return) and isinstance(statement.value, ast.Call):
            for new in statement.value.keywords:
                line = write.equation(str(new.arg), new.value)
                if _text(line) != f"{new.arg}_t = {new.arg}_t":
                    lines.append(line)
        elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            lines.append([Term(ast.unparse(statement))])  # a statement of another kind is shown as source
    return lines


def _text(line: list[Term]) -> str:
    return "".join(term.text for term in line)


def _function(cell: Cell) -> ast.FunctionDef:
    """The syntax tree of a cell's step."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cell.step)))
    except (OSError, TypeError, SyntaxError) as error:
        raise ValueError(
            f"the source of cell {cell.name!r} cannot be read ({error}); define its step in a file"
        ) from error
    function = next((node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)), None)
    if function is None:
        raise ValueError(
            f"the step of cell {cell.name!r} is not written as a function with def, so its equations cannot be shown"
        )
    return function


# Values. The step is compiled again, such that each of its expressions notes its value, and is run on the symbols of the
# graph that it was traced into. Equal operations are one node there, so a note is the index of a node of that graph.

_NOTE = ".note"  # not an identifier, so no name in the step is the same


def _values(cell: Cell, function: ast.FunctionDef) -> dict[ast.AST, int]:
    """For every expression of a step that has a value, the index of its node in `trace(cell).nodes`."""
    numbered = list(ast.walk(function))
    found: dict[ast.AST, int] = {}

    def note(number: int, value: Any) -> Any:
        if isinstance(value, Node) and value.index < size:  # the graph had this node before
            found[numbered[number]] = value.index
        return value

    try:
        graph = trace(cell)
        size = len(graph.nodes)
        given = symbols(cell, graph)
        new = _compiled(cell, function, note)(**{name: given[name] for name in cell.arguments})
        same = [node.index for node in new] == [node.index for node in graph.outputs.values()]
    except Exception:  # whatever is raised by a step that cannot run on symbols
        return {}
    return found if same else {}  # a step computes something else than its source if a decorator changes it


def _compiled(cell: Cell, function: ast.FunctionDef, note: Any) -> Any:
    """The step as a function that calls note(number, value) with every value in its equations, numbered as in ast.walk."""
    noting = copy.deepcopy(function)
    mark = _Noting(noting)
    for statement in noting.body:
        if isinstance(statement, (ast.Assign, ast.Return)) and statement.value is not None:
            statement.value = mark.visit(statement.value)
    noting.decorator_list = []  # such as @cell, which would make a record of the function
    code = compile(ast.fix_missing_locations(ast.Module([noting], [])), "<step>", "exec")
    step: Any = inspect.unwrap(cell.step)
    made: dict[str, Any] = {}
    exec(code, step.__globals__ | inspect.getclosurevars(step).nonlocals | {_NOTE: note}, made)
    return made[function.name]


class _Noting(ast.NodeTransformer):
    """Puts a call of note(number, value) around every expression that may have a value."""

    kinds = (ast.Attribute, ast.Name, ast.UnaryOp, ast.BinOp, ast.Call, ast.IfExp, ast.NamedExpr, ast.Subscript)

    def __init__(self, function: ast.FunctionDef) -> None:
        self.numbers = {node: number for number, node in enumerate(ast.walk(function))}

    def visit(self, node: ast.AST) -> Any:
        self.generic_visit(node)
        if not isinstance(node, self.kinds) or isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del)):
            return node
        return ast.Call(ast.Name(_NOTE, ast.Load()), [ast.Constant(self.numbers[node]), node], [])


# Text.


class _Calls(ast.NodeTransformer):
    """Writes every call in one way: `torch.relu(v)` and `v.relu()` both become `relu(v)`."""

    def __init__(self, cell: Cell) -> None:
        known = inspect.getclosurevars(cell.step)
        self.modules = {name for name, v in [*known.globals.items(), *known.nonlocals.items()] if inspect.ismodule(v)}

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute):
            root: ast.AST = node.func
            while isinstance(root, ast.Attribute):
                root = root.value
            if not (isinstance(root, ast.Name) and root.id in self.modules):
                node.args.insert(0, node.func.value)
            node.func = ast.Name(node.func.attr)
        return node


class _Writer:
    """Writes expressions as terms. `values` has the index of the node of each expression that has a value."""

    def __init__(self, values: dict[ast.AST, int]) -> None:
        self.values = values

    def equation(self, name: str, value: ast.expr) -> list[Term]:
        return [Term(f"{name}_t", self.values.get(value)), Term(" = "), *self.inside(value)]

    def inside(self, node: ast.expr, outer: int = 0) -> list[Term]:
        """The mathematics of an expression, in parentheses where it binds less tightly than `outer`."""
        inner, binding = self.bound(node)
        return [Term("("), *inner, Term(")")] if binding < outer else inner

    def bound(self, node: ast.expr) -> tuple[list[Term], int]:
        """The mathematics of an expression, and how tightly its outermost operation binds."""
        value = self.values.get(node)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            source, name = node.value.id, node.attr
            if source == "x":
                return [Term(f"W_{name} x_t + b_{name}", value)], _ADD
            if source == "s":
                return [Term(f"{name}_{{t-1}}", value)], _ATOM
            return [Term(f"{source}_{name}", value)], _ATOM
        if isinstance(node, ast.Name):
            return [Term(f"{node.id}_t", value)], _ATOM
        if isinstance(node, ast.Constant):
            return [Term(str(node.value))], _ATOM
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return [Term("-"), *self.inside(node.operand, _ATOM)], _MULTIPLY
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name == "where" and len(node.args) == 3:
                condition, yes, no = map(self.inside, node.args)
                return [*yes, Term(" if "), *condition, Term(" else "), *no], 0
            given = [self.inside(argument) for argument in node.args]
            given += [[Term(f"{option.arg}="), *self.inside(option.value)] for option in node.keywords]
            return [Term(f"{_FUNCTIONS.get(name, name)}(", value), *_joined(", ", given), Term(")")], _ATOM
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS:
            return self.between(_COMPARISONS[type(node.ops[0])], node.left, node.comparators[0], _ADD, _ADD), _COMPARE
        if isinstance(node, ast.BinOp):
            left, right = node.left, node.right
            if isinstance(node.op, ast.MatMult):
                return self.product(left, right, value)
            if isinstance(node.op, ast.Pow):
                return _joined("^", [self.inside(left, _ATOM), self.inside(right, _ATOM)]), _ATOM
            if type(node.op) in _JOINTS:
                return self.between(_JOINTS[type(node.op)], left, right, _COMPARE, _COMPARE), 0
            if isinstance(node.op, ast.Add):
                return self.between("+", left, right, _ADD, _ADD), _ADD
            if isinstance(node.op, ast.Sub):
                return self.between("-", left, right, _ADD, _MULTIPLY), _ADD
            if isinstance(node.op, ast.Mult):
                return self.between("⊙", left, right, _MULTIPLY, _MULTIPLY), _MULTIPLY
            if isinstance(node.op, ast.Div):
                return self.between("/", left, right, _MULTIPLY, _ATOM), _MULTIPLY
        return [Term(ast.unparse(node), value)], _ATOM

    def between(self, sign: str, left: ast.expr, right: ast.expr, on_left: int, on_right: int) -> list[Term]:
        """Two expressions with a sign between them, each in parentheses where it binds less tightly than given."""
        return _joined(f" {sign} ", [self.inside(left, on_left), self.inside(right, on_right)])

    def product(self, matrix: ast.expr, operand: ast.expr, value: int | None) -> tuple[list[Term], int]:
        """A product with a matrix, in one piece if its operand is one, and its bias."""
        before, after, binding = f"{_text(self.inside(matrix, _ATOM))} ", "", _MULTIPLY
        if isinstance(matrix, ast.Attribute) and isinstance(matrix.value, ast.Name) and matrix.value.id == "R":
            after, binding = f" + b'_{matrix.attr}", _ADD
        inner = self.inside(operand, _ATOM)
        if len(inner) == 1:
            return [Term(f"{before}{inner[0].text}{after}", value)], binding
        return [Term(before, value), *inner, *([Term(after)] if after else [])], binding


def _joined(sign: str, parts: Iterable[list[Term]]) -> list[Term]:
    line: list[Term] = []
    for part in parts:
        line += [Term(sign), *part] if line else part
    return line
