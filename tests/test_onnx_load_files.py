"""Files of others: what `load` finds in them, what it refuses and how, and that no file crashes it or leads it astray."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from elman.errors import InputError
from elman.onnx.loading import load
from onnx_nodes import Case, case, model_of, saved

OPSET = [helper.make_opsetid("", 17)]


def refused(path: Path, *words: str) -> str:
    """The sentence with which a file is refused. It names the file, has the words and says what to do."""
    with pytest.raises(InputError) as caught:
        load(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    assert ";" in sentence
    for word in words:
        assert word in sentence, sentence
    return sentence


def in_graph(nodes: list[NodeProto], initializers: list[TensorProto] = [], inputs: list[Any] = []) -> Any:  # noqa: B006
    return helper.make_graph(nodes, "graph", inputs, [onnx.ValueInfoProto(name="Y")], initializers)


def model_with(nodes: list[NodeProto], initializers: list[TensorProto], functions: Any = ()) -> ModelProto:
    return helper.make_model(in_graph(nodes, initializers), opset_imports=OPSET, ir_version=8, functions=functions)


def tensors(of: Case) -> list[TensorProto]:
    return [numpy_helper.from_array(value, name) for name, value in of.values.items() if name in "WRBP"]


def test_nodes_are_found_in_bodies_and_named_apart(tmp_path: Path) -> None:
    of = case("GRU")
    weights = tensors(of)
    shadow = numpy_helper.from_array(of.values["W"] + 1, "W")
    twice = in_graph([of.node("twice")])
    then = in_graph([of.node("")], [shadow])  # its own W hides that of the graph around it
    loop = in_graph([helper.make_node("If", ["c"], ["Y"], then_branch=then, else_branch=twice), of.node("twice")])
    nodes = [
        of.node("GRU"),
        of.node(""),
        helper.make_node("Loop", ["n", "c"], ["Z"], body=loop),
        of.node("single"),
        of.node("twice_2"),
    ]
    layers = load(saved(model_with(nodes, weights), tmp_path))
    assert list(layers) == ["GRU", "GRU_2", "twice", "GRU_3", "twice_3", "single", "twice_2"]
    w = {name: layer.state_dict()["weight_ih_l0"] for name, layer in layers.items()}
    assert torch.equal(w["GRU_3"], w["GRU"] + 1)
    assert torch.equal(w["twice"], w["GRU"])


def test_the_second_layer_of_a_node_takes_no_name_of_another(tmp_path: Path) -> None:
    of = case("RNN", direction="bidirectional", activations=["Tanh", "Relu"])
    layers = load(saved(model_with([of.node("a"), of.node("a.reverse")], tensors(of)), tmp_path))
    assert list(layers) == ["a", "a.reverse_2", "a.reverse", "a.reverse.reverse"]


def test_functions_are_to_be_inlined(tmp_path: Path) -> None:
    of = case("GRU")
    function = helper.make_function("own", "F", ["X", "W", "R"], ["Y"], [of.node()], OPSET)
    path = saved(
        model_with([helper.make_node("F", ["X", "W", "R"], ["Y"], domain="own")], tensors(of), [function]), tmp_path
    )
    refused(path, "'cell' (GRU)", "input W, 'W'", "function 'F'", "onnx.inliner")


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    for name, content in {
        "text": b"no model",
        "empty": b"",
        "other": onnx.TensorProto(name="t").SerializeToString(),
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        refused(path, "not an ONNX file")
    refused(tmp_path / "absent.onnx", "No such file")
    refused(tmp_path, "directory")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")
    refused(Path("/dev/zero"), "not a regular file")
    refused(saved(model_with([helper.make_node("Relu", ["x"], ["Y"])], []), tmp_path), "no recurrent node", "1 nodes")


def changed(of: Case, **values: Any) -> Case:
    return Case(of.operator, of.attributes, of.values | values)


LSTM, BOTH = case("LSTM", "B", "P"), case("LSTM", "B", "P", direction="bidirectional")
WRONG: dict[str, tuple[Case, tuple[str, ...]]] = {
    "W": (changed(LSTM, W=LSTM.values["W"][:, :-1]), ("(1, 11, 4)", "(1, 12, 4)", "(1, 12, 3)")),
    "R": (changed(LSTM, R=LSTM.values["R"][:, :-1]), ("(1, 11, 3)", "(1, 12, 3)")),
    "R rank": (changed(LSTM, R=LSTM.values["R"][0]), ("(12, 3)", "3 dimensions")),
    "B": (changed(LSTM, B=LSTM.values["B"][:, :12]), ("(1, 12)", "(1, 24)", "(1, 12, 3)")),
    "P": (changed(LSTM, P=LSTM.values["P"][:, :8]), ("(1, 8)", "(1, 9)")),
    "directions": (changed(BOTH, R=BOTH.values["R"][:1]), ("(1, 12, 3)", "(2, 12, 3)")),
    "hidden_size": (case("GRU", hidden_size=4), ("hidden_size is 4", "(1, 9, 3)")),
    "empty": (changed(LSTM, W=LSTM.values["W"][:, :, :0]), ("(1, 12, 0)", "empty")),
    "types": (changed(LSTM, R=LSTM.values["R"].astype("float64")), ("torch.float64", "torch.float32")),
    "whole": (changed(case("RNN"), W=np.ones((1, 3, 4), "int64"), R=np.ones((1, 3, 3), "int64")), ("torch.int64",)),
    "direction": (case("RNN", direction="sideways"), ("'sideways'",)),
    "clip": (case("RNN", clip=-1.0), ("clip is -1.0",)),
    "clip NaN": (case("RNN", clip=float("nan")), ("clip is nan",)),
    "layout": (case("RNN", layout=2), ("layout is 2",)),
    "coupling": (case("LSTM", input_forget=7), ("input_forget is 7",)),
    "type": (case("RNN", clip="1"), ("'clip'", "FLOAT")),
    "unknown": (case("RNN", peepholes=1), ("'peepholes'",)),
    "activations": (case("LSTM", activations=["Tanh"]), ("1 activations ('Tanh')", "has 3")),
    "activation": (case("RNN", activations=["Gelu"]), ("'Gelu'", "Softsign")),
    "ThresholdedRelu": (case("RNN", activations=["ThresholdedRelu"]), ("'ThresholdedRelu'", "not supported")),
    "Affine": (case("RNN", activations=["Affine"], activation_alpha=[1.0]), ("Affine has no beta",)),
    "ScaledTanh": (case("RNN", activations=["ScaledTanh"]), ("ScaledTanh has no alpha",)),
    "alphas": (case("RNN", activations=["Elu"], activation_alpha=[1.0, 2.0]), ("2 numbers", "1 of its activations (Elu)")),
    "alpha": (case("RNN", activations=["Elu"], activation_alpha=[float("inf")]), ("activation_alpha holds [inf]",)),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_node_that_is_wrong_is_refused(wrong: str, tmp_path: Path) -> None:
    of, words = WRONG[wrong]
    refused(saved(model_of(of), tmp_path), f"'cell' ({of.operator})", *words)


def test_weights_that_are_not_constant_are_refused(tmp_path: Path) -> None:
    of = case("GRU")
    node, (w, r) = of.node(), tensors(of)
    input_w = helper.make_tensor_value_info("W", TensorProto.FLOAT, w.dims)
    graph = in_graph([node], [r], [input_w])
    refused(saved(helper.make_model(graph), tmp_path), "input W, 'W', is not constant", "input of the model", "fold")
    listed = helper.make_model(in_graph([node], [w, r], [input_w]))  # as old files list their initializers
    assert load(saved(listed, tmp_path))
    drawn = helper.make_node("RandomNormal", [], ["W"], "draw", shape=[1, 9, 4])
    refused(saved(model_with([drawn, node], [r]), tmp_path), "'draw' (RandomNormal)", "not computed here")
    refused(saved(model_with([node], [r]), tmp_path), "reads 'W', which nothing in the file makes")
    refused(saved(model_with([helper.make_node("GRU", ["X", "W"], ["Y"])], [w]), tmp_path), "no input R")
    refused(saved(model_with([node], [w, w, r]), tmp_path), "made in two places")
    sparse = model_with([node], [r])
    sparse.graph.sparse_initializer.add().values.name = "W"
    refused(saved(sparse, tmp_path), "sparse")
    body = helper.make_graph([node], "body", [input_w], [onnx.ValueInfoProto(name="Y")])
    scan = helper.make_node("Scan", ["W"], ["Z"], body=body, num_scan_inputs=1)
    refused(saved(model_with([scan], [w, r]), tmp_path), "input of the body of a Scan")


Folded = tuple[list[NodeProto], list[TensorProto], tuple[str, ...]]


def ints(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, "int64"), name)


def doubling(times: int) -> list[NodeProto]:
    names = ["w", *(f"w{k}" for k in range(1, times)), "W"]
    return [helper.make_node("Concat", [a, a], [b], axis=0) for a, b in pairwise(names)]


def folded() -> dict[str, Folded]:
    """Nodes that make W, and words of the refusal."""
    make, w = helper.make_node, numpy_helper.from_array(np.ones((1, 9, 4), "float32"), "w")
    far = TensorProto(name="W", dims=[1, 9, 4], data_type=1, data_location=TensorProto.EXTERNAL)
    far.external_data.add(key="location", value="secret")
    return {
        "circle": ([make("Add", ["w", "b"], ["W"]), make("Neg", ["W"], ["b"])], [w], ("depends on itself",)),
        "itself": ([make("Neg", ["W"], ["W"])], [], ("depends on itself",)),
        "doubling": (doubling(45), [w], ("which would make",)),
        "filled": ([make("ConstantOfShape", ["n"], ["W"])], [ints("n", 1 << 20, 1 << 20)], ("ConstantOfShape", "would make")),
        "expanded": ([make("Expand", ["w", "n"], ["W"])], [w, ints("n", 1 << 40, 9, 4)], ("Expand", "would make")),
        "tiled": ([make("Tile", ["w", "n"], ["W"])], [w, ints("n", 1 << 20, 1 << 20, 1)], ("Tile", "would make")),
        "broadcast": ([make("Reshape", ["v", "n"], ["c"]), make("Mul", ["v", "c"], ["W"])],
                      [numpy_helper.from_array(np.ones(1 << 16, "float32"), "v"), ints("n", -1, 1)], ("Mul", "would make")),
        "gathered": ([make("Gather", ["v", "i"], ["W"])], [numpy_helper.from_array(np.ones((1, 1 << 14), "float32"), "v"),
                      numpy_helper.from_array(np.zeros(1 << 14, "int64"), "i")], ("Gather", "would make")),
        "axis": ([make("Gather", ["w", "i"], ["W"], axis=9)], [w, ints("i", 0)], ("Gather", "cannot be computed")),
        "wrong": ([make("Reshape", ["w", "n"], ["W"])], [w, ints("n", 5, 5)], ("Reshape", "cannot be computed")),
        "no output": ([make("Neg", ["w"], ["v", "W"])], [w], ("Neg",)),
        "text": ([make("Constant", [], ["W"], value_string="w")], [], ("Constant", "no dense numbers")),
        "text cast": ([make("Cast", ["w"], ["W"], to=TensorProto.STRING)], [w], ("Cast", "cannot be computed")),
        "external attribute": ([make("ConstantOfShape", ["n"], ["W"], value=far)], [ints("n", 1, 9, 4)],
                      ("has external data in 'secret', which cannot be read",)),
    }  # fmt: skip


@pytest.mark.parametrize("name", folded())
def test_nodes_that_cannot_be_computed_are_refused(name: str, tmp_path: Path) -> None:
    nodes, initializers, words = folded()[name]
    of = case("GRU")
    begun = time.perf_counter()
    refused(saved(model_with([*nodes, of.node()], [*initializers, *tensors(of)[1:]]), tmp_path), "input W", *words)
    assert time.perf_counter() - begun < 2


def test_nodes_are_computed_by_the_version_of_the_file(tmp_path: Path) -> None:
    of = case("GRU")
    squeeze = helper.make_node("Squeeze", ["w"], ["W"], axes=[1])  # since version 13, the axes are an input
    w = numpy_helper.from_array(of.values["W"][:, None], "w")
    old = helper.make_model(
        in_graph([squeeze, of.node()], [w, tensors(of)[1]]), opset_imports=[helper.make_opsetid("", 11)]
    )
    assert load(saved(old, tmp_path))["cell"].input_size == 4


def test_a_long_chain_of_nodes_is_computed(tmp_path: Path) -> None:
    of = case("GRU")
    names = ["w", *(f"w{k}" for k in range(2999)), "W"]
    chain = [helper.make_node("Identity", [a], [b]) for a, b in pairwise(names)]
    (w, r) = tensors(of)
    w.name = "w"
    layers = load(saved(model_with([*chain, of.node()], [w, r]), tmp_path))
    assert torch.equal(layers["cell"].state_dict()["weight_ih_l0"][3:6], torch.from_numpy(of.values["W"][0, :3]))


def test_deep_nesting_is_refused_or_loaded(tmp_path: Path) -> None:
    of, graph = case("GRU"), None
    for depth in range(60):
        inner = [] if graph is None else [helper.make_node("If", ["c"], [f"o{depth}"], then_branch=graph)]
        graph = in_graph([*inner, of.node()], tensors(of))
        path = saved(helper.make_model(graph), tmp_path)
        if depth < 25:
            continue
        try:
            found = load(path)
        except InputError:
            refused(path, "damaged")  # protobuf reads no deeper, which bounds the search for nodes
            return
        assert len(found) == depth + 1
    raise AssertionError("protobuf reads any depth, so the search for nodes must not recurse")


@pytest.mark.parametrize("dims", [(1 << 40, 9, 4), (1, 9, 1 << 40), (-1, 9, 4), (1, 1 << 62, 1 << 62), (0, 1 << 62, 4)])
def test_a_tensor_without_the_numbers_of_its_shape_is_refused(dims: tuple[int, ...], tmp_path: Path) -> None:
    of = case("GRU")
    w, r = tensors(of)
    typed = TensorProto(name="W", data_type=TensorProto.FLOAT, float_data=of.values["W"].ravel())
    for tensor in (w, typed):
        del tensor.dims[:]
        tensor.dims.extend(dims)
        refused(saved(model_with([of.node()], [tensor, r]), tmp_path), "W", str(dims))
    del typed.dims[:]
    typed.dims.extend(of.values["W"].shape)
    assert load(saved(model_with([of.node()], [typed, r]), tmp_path))


def with_external(folder: Path, **told: Any) -> tuple[Path, Case]:
    """A file whose W is at `location`, where 16 bytes of something else stand first."""
    of = case("GRU")
    model = model_of(of)
    w = next(tensor for tensor in model.graph.initializer if tensor.name == "W")
    w.ClearField("raw_data")
    w.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "w.bin", "offset": 16} | told).items():
        w.external_data.add(key=key, value=str(value))
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx", of


def test_external_data_in_the_folder_is_read(tmp_path: Path) -> None:
    for location in ("w.bin", "deep/er/w.bin", "./w.bin"):
        path, of = with_external(tmp_path / "model", location=location, length=144)
        (path.parent / location).parent.mkdir(parents=True, exist_ok=True)
        (path.parent / location).write_bytes(bytes(16) + of.values["W"].tobytes() + b"more")
        loaded = load(path)["cell"].state_dict()["weight_ih_l0"]
        assert torch.equal(loaded[3:6], torch.from_numpy(of.values["W"][0, :3]))


def test_external_data_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    outside = tmp_path / "w.bin"
    _, of = with_external(tmp_path / "model")
    outside.write_bytes(bytes(16) + of.values["W"].tobytes())
    folder = tmp_path / "model"
    (folder / "linked").symlink_to(tmp_path)
    (folder / "link.bin").symlink_to(outside)
    (tmp_path / "other.bin").write_bytes(outside.read_bytes())  # since a file with two names is refused by itself
    os.link(tmp_path / "other.bin", folder / "hard.bin")
    os.mkfifo(folder / "pipe")
    (folder / "sub").mkdir()
    for location, words in {
        "../w.bin": "not in the folder",
        "sub/../../w.bin": "not in the folder",
        str(outside): "not in the folder",
        "": "not in the folder",
        "..": "not in the folder",
        "a\0b": "not in the folder",
        "..\\w.bin": "not in the folder",
        "link.bin": "is a link",
        "linked/w.bin": "is a link",
        "hard.bin": "is a link",
        "pipe": "not a regular file",
        "sub": "not a regular file",
        "absent.bin": "No such file",
        "absent/w.bin": "No such file",
        "x" * 5000: "File name too long",
    }.items():
        path, _ = with_external(folder, location=location)
        refused(path, "'cell' (GRU)", "input W", words)


def test_external_data_must_be_as_long_as_its_tensor(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    path, of = with_external(folder)
    (folder / "w.bin").write_bytes(of.values["W"].tobytes())
    refused(path, "at 16 of 144 bytes", "144")
    for told, words in (
        ({"offset": -1}, "at -1"),
        ({"offset": 1 << 70}, str(1 << 70)),
        ({"offset": "x"}, "no whole number"),
        ({"offset": 0, "length": 1 << 40}, str(1 << 40)),
        ({"offset": 0, "length": "9" * 5000}, "no whole number"),
    ):
        refused(with_external(folder, **told)[0], words)
    assert load(with_external(folder, offset=0)[0])


def test_names_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    of = case("GRU", direction="bidirectional", activations=["Sigmoid", "Tanh", "Sigmoid", "Elu"])
    content, path = model_of(of).SerializeToString(), tmp_path / "damaged.onnx"
    path.write_bytes(content.replace(b"cell", b"c\xff\xfel"))
    assert list(load(path)) == ["c\\xff\\xfel", "c\\xff\\xfel.reverse"]
    path.write_bytes(content.replace(b"hidden_size", b"hidden\xff\xfeize"))
    refused(path, "unknown attribute")
    path.write_bytes(
        with_external(tmp_path / "model", location="cell.bin")[0]
        .read_bytes()
        .replace(b"cell.bin", b"c\xff\xfe\xfe.bin")
    )
    refused(path, "not in the folder")
