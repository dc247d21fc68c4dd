"""The layers of one recurrent node of ONNX: its attributes, its sizes and its weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from onnx import AttributeProto, GraphProto, NodeProto
from torch import Tensor

from elman.cell import Cell
from elman.layout import Call, Direction, Onnx, Weights, parameter_name
from elman.onnx.activations import Problem, activations_of
from elman.onnx.steps import STANDARD, Step, cell_of
from elman.recurrent import Recurrent

OPERATORS = tuple(STANDARD)
RECURRENT = (*OPERATORS, "Scan", "DynamicQuantizeLSTM")  # that a file may have
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
TYPES = {  # of the attributes
    "activations": AttributeProto.STRINGS,
    "activation_alpha": AttributeProto.FLOATS,
    "activation_beta": AttributeProto.FLOATS,
    "clip": AttributeProto.FLOAT,
    "direction": AttributeProto.STRING,
    "hidden_size": AttributeProto.INT,
    "layout": AttributeProto.INT,
    "input_forget": AttributeProto.INT,
    "linear_before_reset": AttributeProto.INT,
    "output_sequence": AttributeProto.INT,  # of the first version of the operators
}


def is_recurrent(node: NodeProto) -> bool:
    return node.op_type in OPERATORS and node.domain in ("", "ai.onnx")


class Reverse(Recurrent):
    """A layer of one direction that reads the sequence from its end, as a node with direction="reverse" does.

    Its parameters have the names of a reverse direction, such as `weight_ih_l0_reverse`. Arguments, shapes and results
    are those of `Recurrent`: the output at step t belongs to the input at step t, and the final state is that after the
    first step of the sequence.
    """

    @property
    def _directions(self) -> tuple[bool, ...]:
        return (True,)

    def weights(self, layer: int, reverse: bool = True) -> Weights:
        """The parameters of one layer, whatever `reverse` says: it has no others."""
        return super().weights(layer, True)

    def call(self, *arguments: Any, **options: Any) -> Call:
        made = super().call(*arguments, **options)
        return made._replace(directions=(Direction(made.directions[0].weights, True),))


class Attributes(NamedTuple):
    """What a node's attributes say."""

    steps: tuple[Step, ...]  # one for each direction
    reverse: bool  # whether the first direction reads from the end
    batch_first: bool
    hidden_size: int | None


def attributes_of(node: NodeProto) -> Attributes:
    """Reads the attributes of a recurrent node. Raises Problem for values that ONNX does not allow."""
    own = {}
    for attribute in node.attribute:
        name = attribute.name
        if name not in TYPES:
            raise Problem(f"it has an unknown attribute {name!r}; take it away")
        if attribute.ref_attr_name or attribute.type != TYPES[name]:
            kind = AttributeProto.AttributeType.Name(TYPES[name])
            raise Problem(f"its attribute {name!r} is not of the type {kind}; give it as such")
        own[name] = value_of(attribute)
    operator = node.op_type
    direction = own.get("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise Problem(f"its direction is {direction!r}; give forward, reverse or bidirectional")
    for name in ("layout", "input_forget"):
        if own.get(name, 0) not in (0, 1):
            raise Problem(f"its {name} is {own[name]}; give 0 or 1")
    clip = own.get("clip")
    if clip is not None and not clip > 0:
        raise Problem(f"its clip is {clip}; give a positive number, or none")
    count = 2 if direction == "bidirectional" else 1
    functions = len(STANDARD[operator])
    names = own.get("activations", list(STANDARD[operator]) * count)
    if operator == "RNN" and names == ["Tanh", "Tanh"]:  # ONNX's default for any direction
        names = names[:count]
    if len(names) != functions * count:
        raise Problem(
            f"it has {len(names)} activations ({', '.join(map(repr, names))}), but {operator} with direction "
            f"{direction!r} has {functions * count}; give as many"
        )
    all_of = activations_of(names, own.get("activation_alpha", []), own.get("activation_beta", []))
    steps = [
        Step(
            operator,
            tuple(all_of[d * functions : (d + 1) * functions]),
            None if clip is None or math.isinf(clip) else clip,
            operator == "GRU" and bool(own.get("linear_before_reset", 0)),
            operator == "LSTM" and bool(own.get("input_forget", 0)),
            operator == "LSTM" and len(node.input) > 7 and bool(node.input[7]),
        )
        for d in range(count)
    ]
    return Attributes(tuple(steps), direction == "reverse", bool(own.get("layout", 0)), own.get("hidden_size"))


def bodies(node: NodeProto) -> list[GraphProto]:
    """The graphs in a node, such as the body of a Loop and the branches of an If."""
    return [
        body for each in node.attribute for body in ([each.g] if each.type == AttributeProto.GRAPH else each.graphs)
    ]


def value_of(attribute: AttributeProto) -> Any:
    """The value of an attribute that is a number, a text, or a list of these."""
    kinds = AttributeProto
    if attribute.type == kinds.STRINGS:
        return [text.decode(errors="replace") for text in attribute.strings]
    if attribute.type in (kinds.FLOATS, kinds.INTS):
        return list(attribute.floats or attribute.ints)
    if attribute.type == kinds.STRING:
        return attribute.s.decode(errors="replace")
    return attribute.f if attribute.type == kinds.FLOAT else attribute.i


def layers_of(node: NodeProto, weight: Callable[[str], Tensor]) -> dict[str, Recurrent]:
    """The layers of a node, by what to add to the node's name: "", and ".reverse" for a second layer.

    weight: returns the value of an input of the node.
    """
    attributes = attributes_of(node)
    order = {"W": 1, "R": 2, "B": 3} | ({"P": 7} if node.op_type == "LSTM" else {})
    names = {key: node.input[k] for key, k in order.items() if len(node.input) > k and node.input[k]}
    for key in ("W", "R"):
        if key not in names:
            raise Problem(f"it has no input {key}; give it its weights")
    given = {}
    for key, name in names.items():
        try:
            given[key] = weight(name)
        except Problem as problem:
            raise Problem(f"its input {key}, {name!r}, {problem}") from None
    hidden_size = _check_shapes(node.op_type, attributes, given)
    if len(set(attributes.steps)) == 1:
        kind = Reverse if attributes.reverse else Recurrent
        return {"": _layer(kind, attributes, attributes.steps[0], hidden_size, given)}
    split = [{key: value[d : d + 1] for key, value in given.items()} for d in (0, 1)]
    return {
        "": _layer(Recurrent, attributes, attributes.steps[0], hidden_size, split[0]),
        ".reverse": _layer(Reverse, attributes, attributes.steps[1], hidden_size, split[1]),
    }


def _check_shapes(operator: str, attributes: Attributes, given: dict[str, Tensor]) -> int:
    """Returns hidden_size. Raises Problem if the shapes do not fit each other."""
    W, R = given["W"], given["R"]
    for key, rank in {"W": 3, "R": 3, "B": 2, "P": 2}.items():
        if key in given and given[key].dim() != rank:
            raise Problem(f"its {key} is {tuple(given[key].shape)} but must have {rank} dimensions; reshape it")
    H, count, gates = R.shape[2], len(attributes.steps), _GATES[operator]
    if attributes.hidden_size not in (None, H):
        raise Problem(
            f"its hidden_size is {attributes.hidden_size} but its R is {tuple(R.shape)} = (directions, {gates}*{H}, {H}); "
            "make them the same"
        )
    want = {"W": (count, gates * H, W.shape[2]), "R": (count, gates * H, H), "B": (count, 2 * gates * H)}
    for key, shape in (want | {"P": (count, 3 * H)}).items():
        if key in given and given[key].shape != shape:
            raise Problem(
                f"its {key} is {tuple(given[key].shape)} but must be {shape} for {count} directions, {gates} gates and "
                f"an R of {tuple(R.shape)}; make them fit"
            )
        if key in given and not given[key].numel():
            raise Problem(
                f"its {key} is {tuple(given[key].shape)}, which is empty; give at least one unit and one input"
            )
    for key, value in given.items():
        if value.dtype != W.dtype:
            raise Problem(f"its {key} is {value.dtype} but its W is {W.dtype}; convert one of them")
        if not value.is_floating_point():
            raise Problem(f"its {key} is {value.dtype}; give floating-point numbers")
    return H


def _layer(
    kind: type[Recurrent], attributes: Attributes, step: Step, hidden_size: int, given: dict[str, Tensor]
) -> Recurrent:
    cell, form = cell_of(step)
    W, count = given["W"], given["W"].shape[0]
    # On the meta device, no parameter is drawn, and torch's random state stays as it was.
    layer = kind(
        cell,
        W.shape[2],
        hidden_size,
        bias="B" in given,
        batch_first=attributes.batch_first,
        bidirectional=count == 2,
        device="meta",
        dtype=W.dtype,
    )
    weights = {}
    for d in range(count):
        own = unpacked(cell, form, {key: value[d] for key, value in given.items()})
        reverse = d == 1 or kind is Reverse
        weights |= {
            parameter_name(field, 0, reverse): weight for field, weight in own._asdict().items() if weight is not None
        }
    layer.load_state_dict(weights, assign=True)
    return layer


def unpacked(cell: Cell, form: Onnx, packed: dict[str, Tensor]) -> Weights:
    """The weights of one direction in elman's layout, from W, R, B and P as ONNX has them: undoes `translations._packed`."""

    def rows(tensor: Tensor) -> Tensor:
        return _blocks(tensor, form.rows, cell.gates).flatten(0, 1)

    b_ih, b_hh = map(rows, packed["B"].chunk(2)) if "B" in packed else (None, None)
    ch = _blocks(packed["P"], form.peepholes, cell.vectors) if "P" in packed else None
    return Weights(rows(packed["W"]), rows(packed["R"]), b_ih, b_hh, None, ch)


def _blocks(tensor: Tensor, have: tuple[str, ...], want: tuple[str, ...]) -> Tensor:
    """Reorders the blocks of rows of a tensor; "-f" in `have` stands for minus block f, "" for one that is ignored."""
    blocks = dict(zip(have, tensor.unflatten(0, (len(have), -1)), strict=False))
    return torch.stack([blocks[name] if name in blocks else -blocks[f"-{name}"] for name in want])
