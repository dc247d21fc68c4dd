"""Triton's interpreter, without what it works out again for each operation: the types and shapes of its values.

Of the time that a test takes in the interpreter, most was spent on these. Values are computed as before.
"""

from __future__ import annotations

import inspect
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


_remember_blocks()
_remember_shapes()
_remember_formats()
_leave_equal_shapes()
_remember_builtins()
