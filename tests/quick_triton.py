"""Triton's interpreter, without what it works out again for each operation: the types and shapes of its values.

Of the time that a test takes in the interpreter, most was spent on these. Values are computed as before.
"""

from __future__ import annotations

import ast
import inspect
import linecache
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from triton.language import core
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter

# The interpreter computes all integers twice, to find those that overflow. Sizes of tests are small.
interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)


def _number(size: Any) -> Any:
    return size.value if type(size) is core.constexpr else size


def _remember_blocks() -> None:
    """A block's size, and whether Triton allows its shape, are found once for each kind of elements and shape."""
    make: Any = core.block_type.__init__
    known: dict[Any, dict[str, Any]] = {}

    def make_once(self: Any, element_ty: Any, shape: Any) -> None:
        key = (element_ty.name, *map(_number, shape))
        if key not in known:
            make(self, element_ty, shape)
            known[key] = {name: value for name, value in vars(self).items() if name != "element_ty"}
        self.__dict__.update(known[key], element_ty=element_ty)

    core.block_type.__init__ = make_once


def _remember_shapes() -> None:
    """The shape of a tensor is made of constants, once for each."""
    make: Any = core.tensor.__init__
    known: dict[Any, tuple[Any, Any]] = {}

    def make_once(self: Any, handle: Any, type: Any) -> None:
        key = tuple(type.shape) if type.is_block() else ()
        if key not in known:
            make(self, handle, type)
            known[key] = self.numel, self.shape
        self.numel, self.shape = known[key]
        self.handle, self.type, self.dtype = handle, type, type.scalar

    core.tensor.__init__ = make_once


def _remember_formats() -> None:
    """numpy's name of each type."""
    find: Any = interpreter._get_np_dtype
    known: dict[Any, np.dtype[Any]] = {}

    def find_once(of: Any) -> np.dtype[Any]:
        name = (of.element_ty if type(of) is core.block_type else of).name
        if name not in known:
            known[name] = find(of)
        return known[name]

    interpreter._get_np_dtype = find_once


def _leave_equal_shapes() -> None:
    """Operands of one shape need no other one, which the interpreter finds out size by size."""
    stretch: Any = TritonSemantic.broadcast_impl_value

    def stretch_others(self: Any, lhs: Any, rhs: Any) -> Any:
        blocks = lhs.type.is_block(), rhs.type.is_block()
        if not any(blocks) or (all(blocks) and lhs.type.shape.values == rhs.type.shape.values):
            return lhs, rhs
        return stretch(self, lhs, rhs)

    TritonSemantic.broadcast_impl_value = stretch_others


def _remember_builtins() -> None:
    """Which functions of a module or class a launch replaces, and by what. To look at all its members takes long."""
    known: dict[Any, list[tuple[str, Any]]] = {}
    checked = core.builtin(lambda: None).__code__  # of what only looks whether it is called within a kernel

    def interpreted(member: Any) -> Any:
        inner = member.__wrapped__ if member.__code__ is checked else member
        return lambda *given, _semantic=None, **named: inner(
            *given, _semantic=interpreter.interpreter_semantic, **named
        )

    def patch(of: Any, builder: Any, scope: Any) -> None:
        if of not in known:
            every = inspect.getmembers(of, core.is_builtin)
            known[of] = [(name, interpreted(member)) for name, member in every]
        for name, instead in known[of]:
            if core.is_builtin(getattr(of, name)):  # and not replaced yet
                scope.set_attr(of, name, instead)

    interpreter._patch_builtin = patch


OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "less_than": np.less,
    "less_equal": np.less_equal,
    "greater_than": np.greater,
    "greater_equal": np.greater_equal,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "and_": np.bitwise_and,
    "or_": np.bitwise_or,
}
OF_BITS = {"and_", "or_"}
NUMBERS = {"int32", "int64", "fp16", "fp32", "fp64"}


def _kind(of: Any) -> str | None:
    """The type of an operand, or None for what is left to the interpreter, such as a number that needs a wide type."""
    if type(of) is core.tensor:
        kind: Any = of.type
        return kind.name
    narrow = abs(of) < 1 << 31 if type(of) is int else type(of) is float and (of == 0 or 1e-37 < abs(of) < 1e38)
    return type(of).__name__ if narrow else None


def _computation(
    name: str, function: Callable[[Any, Any], Any], lhs: Any, rhs: Any, kind: Any
) -> Callable[[Any, Any], Any] | None:
    """Returns what computes an operation on operands of these types, where it is known how."""

    def addresses(lhs: Any, rhs: Any) -> Any:
        data = lhs.handle.data + size * rhs.handle.data.astype(np.uint64)
        return core.tensor(interpreter.TensorHandle(data, lhs.handle.dtype), kind)

    def numbers(lhs: Any, rhs: Any) -> Any:
        operands = [
            of.handle.data.astype(width, copy=False) if type(of) is core.tensor else np.array(of, width)
            for of in (lhs, rhs)
        ]
        return core.tensor(interpreter.TensorHandle(function(*operands), kind.scalar), kind)

    if kind.scalar.is_ptr():
        pointer: Any = lhs.dtype if type(lhs) is core.tensor else None
        size = pointer.element_ty.primitive_bitwidth // 8 if pointer is not None and pointer.is_ptr() else 0
        return addresses if size and type(rhs) is core.tensor and rhs.dtype.is_int_signed() else None
    a, b = interpreter.interpreter_semantic.binary_op_type_checking_impl(lhs, rhs)
    width, known = a.handle.data.dtype, {"int1"} if name in OF_BITS else NUMBERS
    names = {str(each.dtype.name) for each in (lhs, rhs, a, b) if type(each) is core.tensor}
    return numbers if names <= known and a.dtype == b.dtype else None


def _remember_results() -> None:
    """The type of a result, and the one in which it is computed, are found once for operands of two types."""

    def remember(name: str, function: Callable[[Any, Any], Any]) -> None:
        plain: Any = getattr(TritonSemantic, name)
        known: dict[Any, Callable[[Any, Any], Any] | None] = {}

        def quick(self: Any, lhs: Any, rhs: Any, *how: Any) -> Any:
            kinds = _kind(lhs), _kind(rhs)
            if None in kinds or self is not interpreter.interpreter_semantic:
                return plain(self, lhs, rhs, *how)
            compute = known.get(kinds)
            if compute is not None:
                return compute(lhs, rhs)
            result = plain(self, lhs, rhs, *how)
            if kinds not in known:
                known[kinds] = _computation(name, function, lhs, rhs, result.type)
            return result

        setattr(TritonSemantic, name, quick)

    for name, function in OPERATIONS.items():
        remember(name, function)


def _read_sources_by_columns() -> None:
    """The end of a function is found by the first column of its lines, and not by all its words.

    Nor is each node of its tree moved to its line: empty lines before the source do that.
    """
    rewrite: Any = interpreter.FunctionRewriter.rewrite_ast

    def rewrite_quickly(self: Any) -> Any:
        code = self.fn.__code__
        lines = linecache.getlines(code.co_filename)
        firsts = [k for k in range(code.co_firstlineno - 1, len(lines)) if lines[k][0] not in " )\n"]
        begin, end = next(((k, j) for k, j in pairwise([*firsts, len(lines)]) if lines[k][0] != "@"), (0, 0))
        plain = code.co_firstlineno - 1 in firsts and lines[begin].startswith("def ")
        ends = end == len(lines) or lines[end].startswith(
            ("def ", "class ", "@")
        )  # else with a comment, which may be inside
        if not (plain and ends):
            return rewrite(self)
        source = "\n" * begin + "".join(lines[begin:end])
        self.filename = code.co_filename
        tree = self.ast_transformer.visit(ast.parse(source))
        return self._compile_and_exec(ast.fix_missing_locations(tree))

    interpreter.FunctionRewriter.rewrite_ast = rewrite_quickly


_remember_results()
_read_sources_by_columns()
_remember_blocks()
_remember_shapes()
_remember_formats()
_leave_equal_shapes()
_remember_builtins()
