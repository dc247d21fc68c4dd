"""A thousand damaged ONNX files: each is refused in a sentence, or loaded. `damage` makes and loads them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from elman.errors import InputError
from elman.onnx.loading import load
from onnx_nodes import case, model_of


def seeds() -> list[bytes]:
    """Files to damage: all three operators, weights stored in all ways, a body, external data."""
    found = []
    for number, operator in enumerate(["LSTM", "GRU", "RNN", "LSTM"]):
        extra = ["P"] if operator == "LSTM" else []
        names = ["Elu", "HardSigmoid", "Tanh", "Tanh", "Elu", "Relu"][: {"LSTM": 6, "GRU": 4, "RNN": 2}[operator]]
        options = {"activations": names, "clip": 1.5, "activation_alpha": [0.5]} if number else {}
        of = case(operator, "B", *extra, direction="bidirectional", sizes=(2, 2, 2, 2), **options)
        model = model_of(of, seed=number)
        model.graph.node.append(
            helper.make_node(
                "If",
                ["c"],
                ["Z"],
                then_branch=helper.make_graph([of.node()], "body", [], [onnx.ValueInfoProto(name="Y")]),
            )
        )
        found.append(model)
    w = next(tensor for model in found for tensor in model.graph.initializer)
    w.ClearField("raw_data")
    w.data_location = TensorProto.EXTERNAL
    w.external_data.add(key="location", value="w.bin")
    return [model.SerializeToString() for model in found]


def flip(draw: random.Random, content: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 5, 40])):
        damaged[draw.randrange(len(damaged))] = draw.choice([0, 1, 2, 127, 128, 255, draw.randrange(256)])
    return bytes(damaged)


def cut(draw: random.Random, content: bytes) -> bytes:
    first, last = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return draw.choice([content[:last], content[:first] + content[last:], content[:last] + content[first:]])


def of_model(change: Callable[[random.Random, ModelProto], None]) -> Callable[[random.Random, bytes], bytes]:
    def damage(draw: random.Random, content: bytes) -> bytes:
        model = onnx.load_model_from_string(content)
        change(draw, model)
        return model.SerializeToString()

    return damage


def delete(draw: random.Random, model: ModelProto) -> None:
    part = draw.choice(
        [model.graph.initializer, model.graph.node, *(n.attribute for n in model.graph.node), model.opset_import]
    )
    if len(part):
        del part[draw.randrange(len(part))]


def swap(draw: random.Random, model: ModelProto) -> None:
    weights, nodes = [*model.graph.initializer], [*model.graph.node]
    if len(weights) > 1 and draw.random() < 0.5:
        one, other = draw.sample(weights, 2)
        one.name, other.name = other.name, one.name
    elif len(nodes) > 1:
        first, second = draw.sample(nodes, 2)
        first.input[:], second.input[:] = list(second.input), list(first.input)


def resize(draw: random.Random, model: ModelProto) -> None:
    for tensor in draw.sample([*model.graph.initializer], min(2, len(model.graph.initializer))):
        absurd = [0, 1, -1, 2, 3, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63)]
        if draw.random() < 0.5 and len(tensor.dims):
            tensor.dims[draw.randrange(len(tensor.dims))] = draw.choice(absurd)
        else:
            tensor.dims.append(draw.choice(absurd))
        if draw.random() < 0.3:
            tensor.data_type = draw.randrange(30)


def renumber(draw: random.Random, model: ModelProto) -> None:
    attribute = draw.choice([a for node in model.graph.node for a in node.attribute])
    attribute.i = draw.choice([0, 2, -1, 1 << 40, (1 << 63) - 1])
    attribute.f = draw.choice([0.0, float("nan"), -float("inf"), 1e38])
    attribute.type = draw.choice([attribute.type, *range(1, 15)])  # pyright: ignore[reportAttributeAccessIssue]
    for entry in model.opset_import:
        entry.version = draw.choice([entry.version, entry.version, 1, 9, 1000, -1, 1 << 62])


DAMAGE = (flip, flip, flip, cut, *map(of_model, (delete, swap, resize, renumber)))


def damage(folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """Loads damaged files, and counts those that were loaded and refused. Any other end is an error."""
    draw, ends, sources = random.Random(seed), {"loaded": 0, "refused": 0}, seeds()
    (folder / "w.bin").write_bytes(np.ones(64, "float32").tobytes())
    for _ in range(count):
        content = draw.choice(DAMAGE)(draw, draw.choice(sources))
        path = folder / "damaged.onnx"
        path.write_bytes(content)
        try:
            layers = load(path)
        except InputError as error:
            ends["refused"] += str(path) in str(error)
        else:
            ends["loaded"] += 1
            assert layers
            assert sum(p.numel() for layer in layers.values() for p in layer.parameters()) < 10_000
    return ends


def test_damaged_files_are_refused_or_loaded(tmp_path: Path) -> None:
    for content in seeds():
        (tmp_path / "whole.onnx").write_bytes(content)
        (tmp_path / "w.bin").write_bytes(np.ones(64, "float32").tobytes())
        assert len(load(tmp_path / "whole.onnx")) >= 2
    ends = damage(tmp_path, 200)
    assert sum(ends.values()) == 200
    assert min(ends.values()) > 20
