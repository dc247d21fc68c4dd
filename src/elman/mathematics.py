"""A cell's equations as mathematics, read from the source of its step."""

from __future__ import annotations

import ast
import inspect
import textwrap

from elman.cell import Cell

_FUNCTIONS = {"sigmoid": "σ", "relu": "ReLU", "silu": "SiLU", "gelu": "GELU"}
_COMPARISONS = {ast.Lt: "<", ast.LtE: "≤", ast.Gt: ">", ast.GtE: "≥", ast.Eq: "=", ast.NotEq: "≠"}
_JOINTS = {ast.BitAnd: "and", ast.BitOr: "or"}
_COMPARE, _ADD, _MULTIPLY, _ATOM = 1, 2, 3, 4  # how tightly a term binds


def equations(cell: Cell) -> list[str]:
    """One line per equation: `f_t = σ(W_f x_t + b_f + R_f h_{t-1} + b'_f)`.

    W and b belong to the input's share of a gate (weight_ih, bias_ih), R and b' to the recurrent share
    (weight_hh, bias_hh); p are the per-unit weights (weight_ch), P is the projection (weight_hr); ⊙ is the
    elementwise product. Raises ValueError if the source of the step cannot be read or is not a function with def.
    """
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
    function = _Calls(cell).visit(function)
    lines: list[str] = []
    for statement in function.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            lines.append(f"{statement.targets[0].id}_t = {_term(statement.value)}")
        elif isinstance(statement, ast.Return) and isinstance(statement.value, ast.Call):
            for new in statement.value.keywords:
                line = f"{new.arg}_t = {_term(new.value)}"
                if line != f"{new.arg}_t = {new.arg}_t":
                    lines.append(line)
        elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            lines.append(ast.unparse(statement))  # a statement of another kind is shown as source
    return lines


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


def _term(node: ast.expr, outer: int = 0) -> str:
    """The mathematics of an expression, in parentheses where it binds less tightly than `outer`."""
    text, binding = _bound(node)
    return f"({text})" if binding < outer else text


def _bound(node: ast.expr) -> tuple[str, int]:
    """The mathematics of an expression, and how tightly its outermost operation binds."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        source, name = node.value.id, node.attr
        if source == "x":
            return f"W_{name} x_t + b_{name}", _ADD
        if source == "s":
            return f"{name}_{{t-1}}", _ATOM
        return f"{source}_{name}", _ATOM
    if isinstance(node, ast.Name):
        return f"{node.id}_t", _ATOM
    if isinstance(node, ast.Constant):
        return str(node.value), _ATOM
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return f"-{_term(node.operand, _ATOM)}", _MULTIPLY
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        if name == "where" and len(node.args) == 3:
            condition, yes, no = (_term(argument) for argument in node.args)
            return f"{yes} if {condition} else {no}", 0
        options = [f"{option.arg}={_term(option.value)}" for option in node.keywords]
        return f"{_FUNCTIONS.get(name, name)}({', '.join([*map(_term, node.args), *options])})", _ATOM
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS:
        left, right = _term(node.left, _ADD), _term(node.comparators[0], _ADD)
        return f"{left} {_COMPARISONS[type(node.ops[0])]} {right}", _COMPARE
    if isinstance(node, ast.BinOp):
        left, right = node.left, node.right
        if isinstance(node.op, ast.MatMult):
            product = f"{_term(left, _ATOM)} {_term(right, _ATOM)}"
            if isinstance(left, ast.Attribute) and isinstance(left.value, ast.Name) and left.value.id == "R":
                return f"{product} + b'_{left.attr}", _ADD
            return product, _MULTIPLY
        if isinstance(node.op, ast.Pow):
            return f"{_term(left, _ATOM)}^{_term(right, _ATOM)}", _ATOM
        if type(node.op) in _JOINTS:
            return f"{_term(left, _COMPARE)} {_JOINTS[type(node.op)]} {_term(right, _COMPARE)}", 0
        if isinstance(node.op, ast.Add):
            return f"{_term(left, _ADD)} + {_term(right, _ADD)}", _ADD
        if isinstance(node.op, ast.Sub):
            return f"{_term(left, _ADD)} - {_term(right, _MULTIPLY)}", _ADD
        if isinstance(node.op, ast.Mult):
            return f"{_term(left, _MULTIPLY)} ⊙ {_term(right, _MULTIPLY)}", _MULTIPLY
        if isinstance(node.op, ast.Div):
            return f"{_term(left, _MULTIPLY)} / {_term(right, _ATOM)}", _MULTIPLY
    return ast.unparse(node), _ATOM
