"""A cell's equations as mathematics, read from the source of its step, or else from its graph."""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from elman.cell import ARGUMENTS, Cell
from elman.graph import Graph, Node, symbols, trace

_FUNCTIONS = {"sigmoid": "σ", "relu": "ReLU", "silu": "SiLU", "gelu": "GELU"}
_FUNCTIONS |= {"layer_norm": "LayerNorm", "rms_norm": "RMSNorm"}
# The arguments that are shown of calls over all units.
_SHOWN: dict[str, tuple[str, ...]] = dict.fromkeys(("mean", "sum", "var", "std"), ("v",))
_SHOWN |= dict.fromkeys(("layer_norm", "rms_norm"), ("v", "", "weight", "bias"))
_COMPARISONS = {ast.Lt: "<", ast.LtE: "≤", ast.Gt: ">", ast.GtE: "≥", ast.Eq: "=", ast.NotEq: "≠"}
_JOINTS = {ast.BitAnd: "and", ast.BitOr: "or", ast.BitXor: "xor"}
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
    elementwise product. Where a name has several values, the earlier ones have a prime, such as `c'_t`. A step with
    statements that are no equations, such as loops, is written as the operations that it does, in which `v1_t` and so on
    stand for values that are used more than once. Raises ValueError if the source of the step cannot be read or is not a function with def.
    """
    return [_text(line) for line in terms(cell)]


def terms(cell: Cell) -> list[list[Term]]:
    """The pieces of each line of `equations`, with the values that they stand for.

    The name on the left stands for the value of the line, `W_f x_t + b_f` for the input's share, and `tanh(` for the
    value of the call. A product with R or P is one piece, as in `R_f h_{t-1} + b'_f`, if its operand is. Otherwise `R_f `
    stands for the product, and the pieces of the operand follow. Signs, parentheses, constants and comparisons stand for
    no value. No piece has a value if the step cannot be traced, and its statements that are no equations are shown as source.
    """
    function = _Assignments().visit(_function(cell))
    values = _values(cell, function)
    body: list[ast.stmt] = _Calls(cell).visit(function).body
    if not values or not _are_equations(body):
        with suppress(TypeError, ValueError):  # if it cannot be traced
            body, values = _unrolled(cell, trace(cell))
    write = _Writer(values, body)
    lines: list[list[Term]] = []
    for statement in body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            lines.append(write.equation(statement.targets[0].id, statement.value))
        elif isinstance(statement, ast.Return) and isinstance(statement.value, ast.Call):
            written = [(new, write.inside(new.value)) for new in statement.value.keywords if not _is_known(new)]
            lines += [write.equation(str(new.arg), new.value, right) for new, right in written]
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


class _Assignments(ast.NodeTransformer):
    """Writes `v += w` and `v: Any = w` as assignments."""

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        if not isinstance(node.target, ast.Name):
            return node
        before = ast.Name(node.target.id, ast.Load())
        return ast.copy_location(ast.Assign([node.target], ast.BinOp(before, node.op, node.value)), node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None or not isinstance(node.target, ast.Name):
            return node
        return ast.copy_location(ast.Assign([node.target], node.value), node)


def _is_known(new: ast.keyword) -> bool:
    """Whether a new state is the value of that name, which has its equation already."""
    return isinstance(new.value, ast.Name) and new.value.id == new.arg


def _are_equations(body: list[ast.stmt]) -> bool:
    """Whether all statements of a step are equations that can be written, up to the new state."""
    *statements, last = body
    if not isinstance(last, ast.Return) or not isinstance(last.value, ast.Call) or last.value.args:
        return False
    for statement in statements:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # its docstring
        if not isinstance(statement, ast.Assign) or not _is_expression(statement.value):
            return False
        if len(statement.targets) != 1 or not isinstance(statement.targets[0], ast.Name):
            return False
    return all(new.arg is not None and _is_expression(new.value) for new in last.value.keywords)


def _is_expression(node: ast.AST) -> bool:
    """Whether `_Writer` knows how to write an expression."""
    parts: Sequence[ast.AST]
    if isinstance(node, ast.Attribute):
        return isinstance(node.value, ast.Name) and node.value.id in ARGUMENTS
    if isinstance(node, ast.Name):
        return node.id not in ARGUMENTS
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.Call):
        parts = [*node.args, *(option.value for option in node.keywords)]
        known = isinstance(node.func, ast.Name) and all(option.arg for option in node.keywords)
    elif isinstance(node, ast.BinOp):
        parts, known = [node.left, node.right], isinstance(node.op, _WRITTEN) or type(node.op) in _JOINTS
    elif isinstance(node, ast.Compare):
        parts, known = [node.left, *node.comparators], len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS
    elif isinstance(node, ast.UnaryOp):
        parts, known = [node.operand], not isinstance(node.op, ast.Not)
    else:
        return False
    return known and all(map(_is_expression, parts))


_WRITTEN = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.MatMult)
_DEEPEST = 12  # operations in one another that an equation may have
_OPERATORS: dict[str, ast.operator] = {"add": ast.Add(), "sub": ast.Sub(), "mul": ast.Mult(), "div": ast.Div()}
_CHOICES: dict[str, ast.cmpop] = {"where_less": ast.Lt(), "where_less_equal": ast.LtE(), "where_equal": ast.Eq()}


def _unrolled(cell: Cell, graph: Graph) -> tuple[list[ast.stmt], dict[ast.AST, int]]:
    """Statements that do what a graph does, and the index of the node of each expression in them.

    A gate has its name if it is a function of its sum, and a new state has that of the state. Other values have a name if
    they are used more than once, or their expression would be too deep.
    """
    values: dict[ast.AST, int] = {}
    names: dict[int, str] = {}
    inner = [node for node in graph.live() if node.arguments]
    uses = Counter(a.index for node in inner for a in node.arguments)
    for state, node in graph.outputs.items():
        if node.arguments:
            names.setdefault(node.index, state)
    for gate in cell.gates:
        node = graph.gate(gate)
        if node.nonlinear and gate not in cell.states:
            names.setdefault(node.index, gate)
    free = (name for name in map("v{}".format, range(1, len(inner) + 99)) if name not in (*cell.states, *cell.gates))
    depth: dict[int, int] = {}
    for node in inner:
        depth[node.index] = 1 + max(depth.get(a.index, 0) for a in node.arguments)
        if node.index not in names and (uses[node.index] > 1 or depth[node.index] > _DEEPEST):
            names[node.index] = next(free)
        if node.index in names:
            depth[node.index] = 0

    def written(node: Node) -> ast.expr:
        return noted(ast.Name(names[node.index], ast.Load()), node) if node.index in names else spelled(node)

    def noted(expression: ast.expr, node: Node) -> ast.expr:
        values[expression] = node.index
        return expression

    def spelled(node: Node) -> ast.expr:
        if node.op == "number":
            number = ast.Constant(int(abs(node.value)) if node.value.is_integer() else abs(node.value))
            return ast.UnaryOp(ast.USub(), number) if node.value < 0 else number
        arguments = list(map(written, node.arguments))
        of_cell = ast.Attribute(ast.Name(node.op, ast.Load()), node.name, ast.Load())
        if node.op in _OPERATORS:
            return noted(ast.BinOp(arguments[0], _OPERATORS[node.op], arguments[1]), node)
        if node.op in _CHOICES:
            a, b, x, y = arguments
            return noted(ast.Call(ast.Name("where"), [ast.Compare(a, [_CHOICES[node.op]], [b]), x, y], []), node)
        if node.op == "neg":
            return noted(ast.UnaryOp(ast.USub(), arguments[0]), node)
        if not node.name:
            return noted(ast.Call(ast.Name(node.op), arguments, []), node)
        return noted(ast.BinOp(of_cell, ast.MatMult(), arguments[0]) if arguments else of_cell, node)

    body: list[ast.stmt] = [
        ast.Assign([ast.Name(names[node.index])], spelled(node)) for node in inner if node.index in names
    ]
    new = [ast.keyword(state, written(node)) for state, node in graph.outputs.items()]
    return [*body, ast.Return(ast.Call(ast.Name("State"), [], new))], values


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
    """Writes every call in one way: `torch.relu(v)` and `v.relu()` both become `relu(v)`.

    What only says that a function is over all units of a row is left out.
    """

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
        shown = _SHOWN.get(node.func.id) if isinstance(node.func, ast.Name) else None
        if shown is not None:
            node.args = [argument for argument, name in zip(node.args, shown, strict=False) if name]
            node.keywords = [option for option in node.keywords if option.arg in shown]
        return node


class _Writer:
    """Writes expressions as terms. `values` has the index of the node of each expression that has a value.

    body: the statements whose equations will be written, in their order.
    """

    def __init__(self, values: dict[ast.AST, int], body: list[ast.stmt]) -> None:
        self.values = values
        self.later: Counter[str] = Counter()  # how many more values each name will get
        for statement in body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                self.later[statement.targets[0].id] += 1
            elif isinstance(statement, ast.Return) and isinstance(statement.value, ast.Call):
                self.later.update(str(new.arg) for new in statement.value.keywords if not _is_known(new))
        self.values_of = Counter(self.later)  # how many values each name gets in all

    def symbol(self, name: str) -> str:
        """A name with a prime for each value that it gets later."""
        return name + "'" * self.later[name] + "_t"

    def equation(self, name: str, value: ast.expr, right: list[Term] | None = None) -> list[Term]:
        right = self.inside(value) if right is None else right
        self.later[name] -= 1
        return [Term(self.symbol(name), self.values.get(value)), Term(" = "), *right]

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
            if source == "u":
                return [Term(name + "'" * self.values_of[name] + "_t", value)], _ATOM  # the first value of its name
            if source == "s":
                return [Term(f"{name}_{{t-1}}", value)], _ATOM
            return [Term(f"{source}_{name}", value)], _ATOM
        if isinstance(node, ast.Name):
            return [Term(self.symbol(node.id), value)], _ATOM
        if isinstance(node, ast.Constant):
            return [Term(str(node.value))], _ATOM
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return [Term("-"), *self.inside(node.operand, _ATOM)], _MULTIPLY
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd):
            return self.bound(node.operand)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
            return [Term("not "), *self.inside(node.operand, _ATOM)], _COMPARE
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name == "where" and len(node.args) == 3:
                condition, yes, no = node.args
                yes, condition, no = self.inside(yes, _COMPARE), self.inside(condition), self.inside(no)
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
