"""The constants of an ONNX model: tensors, and what nodes compute from tensors alone.

Nothing of a file is believed. A tensor is read only if the bytes that its shape needs are there. Only a few kinds of
nodes are computed, and what they make together is bounded.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from elman.onnx.activations import Problem
from elman.onnx.external import External

Array = NDArray[Any]
CONSTANT = "give it as an initializer, for example by a constant-folding optimizer such as that of onnxscript"

_ROOM = 1 << 26  # what nodes may make in bytes, besides
_TIMES = 32  # this many times what was read

_TYPES = "FLOAT DOUBLE FLOAT16 BFLOAT16 INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64 BOOL"
_NUMBERS = set(map(TensorProto.DataType.Value, _TYPES.split()))
_SHAPED = "Identity Cast Reshape Transpose Squeeze Unsqueeze Flatten Slice Split Concat Neg Sqrt Reciprocal Shape"
_BROADCAST = "Add Sub Mul Div Where DequantizeLinear"
_COMPUTED = {*_SHAPED.split(), *_BROADCAST.split(), "Constant", "Gather", "Expand", "Tile", "ConstantOfShape"}


class Scope:
    """The values of a graph by name, each with what makes it. A graph inside another also sees the values of that."""

    def __init__(self, opsets: Mapping[str, int], outer: Scope | None = None) -> None:
        self.opsets, self.outer = opsets, outer
        self.makers: dict[str, Any] = {}  # a tensor, a node, an array, or words: why there is no value

    def add(self, name: str, maker: Any) -> None:
        twice = name in self.makers
        self.makers[name] = "is made in two places; keep one of them" if twice else maker

    def find(self, name: str) -> tuple[Scope, Any]:
        """What makes a value, and the scope that has it."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.makers:
                return scope, scope.makers[name]
            scope = scope.outer
        return self, f"reads {name!r}, which nothing in the file makes; restore it"


class Constants:
    """Finds the values of constants, each once.

    external: the files beside the model that hold tensors.
    """

    def __init__(self, external: External) -> None:
        self.external = external
        self.room = _ROOM
        self.known: dict[tuple[Scope, str], Array] = {}

    def value(self, name: str, scope: Scope) -> Array:
        """The value of a name. Raises Problem, to be read after the name, if it is no constant or cannot be read."""
        scope, maker = scope.find(name)
        first = scope, name
        waiting = [(first, maker)]
        begun: set[tuple[Scope, str]] = set()
        while waiting:
            (scope, name), maker = waiting[-1]
            key = scope, name
            if key in self.known:
                waiting.pop()
                continue
            if isinstance(maker, str):
                raise Problem(maker)
            if isinstance(maker, np.ndarray):
                self.known[key] = maker
                continue
            if not isinstance(maker, NodeProto):
                self.known[key] = self.tensor(maker)
                continue
            _check_computed(maker)
            sources = [(n, *scope.find(n)) for n in maker.input if n]
            missing = [((s, n), m) for n, s, m in sources if (s, n) not in self.known]
            if missing and key in begun:
                raise Problem("depends on itself; break the circle")
            if missing:
                begun.add(key)
                waiting += missing
                continue
            found = {n: self.known[s, n] for n, s, _ in sources}
            results = self._compute(maker, [found.get(n) for n in maker.input], scope.opsets)
            for output, result in zip(maker.output, results, strict=False):
                self.known[scope, output] = result
            if key not in self.known:
                raise Problem(f"is an output that its {maker.op_type} does not have; {CONSTANT}")
        return self.known[first]

    def tensor(self, tensor: Any) -> Array:
        """The numbers of a tensor. Raises Problem if the file does not hold as many as its shape has."""
        if not isinstance(tensor, TensorProto):
            raise Problem("is a sparse tensor; give it as a dense one")
        if tensor.data_type not in _NUMBERS:
            raise Problem(f"has the data type {tensor.data_type}; give one of numbers of 8 to 64 bits")
        shape = tuple(tensor.dims)
        if any(size < 0 for size in shape):
            raise Problem(f"is a tensor of shape {shape}; give sizes that are not negative")
        count = math.prod(shape)
        size = count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        if tensor.data_location == TensorProto.EXTERNAL:
            raw = self.external.read(tensor, size)
            copy = TensorProto(dims=shape, data_type=tensor.data_type, raw_data=raw)
        elif tensor.HasField("raw_data"):
            if len(tensor.raw_data) != size:
                raise Problem(
                    f"is a tensor of shape {shape}, which takes {size} bytes, but the file has {len(tensor.raw_data)}; "
                    "restore the file"
                )
            copy = tensor
        else:
            held = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
            if held != count:
                raise Problem(
                    f"is a tensor of shape {shape}, which has {count} numbers, but the file has {held}; restore the file"
                )
            copy = tensor
        self.room += _TIMES * size
        try:
            return numpy_helper.to_array(copy)
        except Exception as error:
            raise Problem(f"cannot be read ({_first_line(error)}); restore the file") from error

    def _compute(self, node: NodeProto, inputs: list[Array | None], opsets: Mapping[str, int]) -> list[Array]:
        if node.op_type == "Constant":
            return [self._constant(node)]
        try:
            size = 8 * _elements(node, inputs)
        except Exception as error:
            raise Problem(
                f"comes from {_called(node)}, which cannot be computed ({_first_line(error)}); {CONSTANT}"
            ) from error
        if size > self.room:
            raise Problem(
                f"comes from {_called(node)}, which would make {size} bytes where {self.room} are left; {CONSTANT}"
            )
        self.room -= size
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                results = _run(self._with_tensors(node), inputs, opsets)
                if any(result.dtype.kind in "OSUV" and result.dtype.name != "bfloat16" for result in results):
                    raise TypeError("the result is no number")
            except Problem:
                raise
            except Exception as error:  # whatever ONNX's implementation says of wrong operands
                raise Problem(
                    f"comes from {_called(node)}, which cannot be computed ({_first_line(error)}); {CONSTANT}"
                ) from error
        return results

    def _constant(self, node: NodeProto) -> Array:
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.type == AttributeProto.TENSOR:
                return self.tensor(attribute.t)
            if attribute.name == "value_float":
                return np.array(attribute.f, np.float32)
            if attribute.name == "value_floats":
                return np.array(attribute.floats, np.float32)
            if attribute.name == "value_int":
                return np.array(attribute.i, np.int64)
            if attribute.name == "value_ints":
                return np.array(attribute.ints, np.int64)
        raise Problem("comes from a Constant that has no dense numbers; give it as an initializer")

    def _with_tensors(self, node: NodeProto) -> NodeProto:
        """A copy of the node whose tensors are checked and inside it: ONNX's implementation would open any file."""
        copy = NodeProto()
        copy.CopyFrom(node)
        for attribute in copy.attribute:
            if attribute.type not in _PLAIN and attribute.type != AttributeProto.TENSOR:
                raise Problem(f"comes from {_called(node)} with an attribute {attribute.name!r} of its own; {CONSTANT}")
            if attribute.HasField("t"):
                attribute.t.CopyFrom(numpy_helper.from_array(self.tensor(attribute.t)))
        return copy


_PLAIN = {getattr(AttributeProto, kind) for kind in ("INT", "INTS", "FLOAT", "FLOATS", "STRING", "STRINGS")}


def _check_computed(node: NodeProto) -> None:
    if node.op_type not in _COMPUTED or node.domain not in ("", "ai.onnx"):
        raise Problem(f"is not constant: it comes from {_called(node)}, which is not computed here; {CONSTANT}")


def _called(node: NodeProto) -> str:
    return f"the node {node.name!r} ({node.op_type})" if node.name else f"a node {node.op_type}"


def _elements(node: NodeProto, inputs: list[Array | None]) -> int:
    """At most how many numbers a node makes."""
    given = [value for value in inputs if value is not None]
    if node.op_type == "Gather":
        data, indices = given
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        return indices.size * max(1, data.size // max(1, data.shape[axis]))
    if node.op_type == "ConstantOfShape":
        return _product(given[0])
    if node.op_type == "Tile":
        return given[0].size * _product(given[1])
    if node.op_type == "Expand":
        return _broadcast([given[0].shape, tuple(map(int, given[1].ravel()))])
    if node.op_type in _BROADCAST.split():
        return _broadcast([value.shape for value in given])
    return sum(value.size for value in given) + 8 * len(node.output)


def _product(sizes: Array) -> int:
    return math.prod(max(0, int(size)) for size in sizes.ravel())


def _broadcast(shapes: Iterable[tuple[int, ...]]) -> int:
    return math.prod(max(sizes) for sizes in zip_longest(*[reversed(shape) for shape in shapes], fillvalue=1))


def _run(node: NodeProto, inputs: list[Array | None], opsets: Mapping[str, int]) -> list[Array]:
    """Computes a node with ONNX's own implementation."""
    from onnx.reference import ReferenceEvaluator

    feed = {f"i{k}": value for k, value in enumerate(inputs) if value is not None}
    del node.input[:]
    node.input.extend([f"i{k}" if f"i{k}" in feed else "" for k in range(len(inputs))])
    outputs = [f"o{k}" for k in range(len(node.output))]
    del node.output[:]
    node.output.extend(outputs)
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feed.items()
    ]
    graph = helper.make_graph(
        [node], "one", infos, [onnx.ValueInfoProto(name=name) for name in outputs]
    )  # the types of results are not known
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    results = ReferenceEvaluator(helper.make_model(graph, opset_imports=imports)).run(None, feed)
    return [np.asarray(result) for result in results]  # pyright: ignore[reportGeneralTypeIssues]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
