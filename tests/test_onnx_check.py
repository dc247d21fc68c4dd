"""`elman onnx check`: each warning where it is due, and not elsewhere; files that crash or hang."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from torch import nn

import elman.onnx
from elman.errors import InputError
from elman.onnx import checking
from elman.onnx.checking import check
from test_onnx_export import FREE
from tiny_runs import elman as command

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning")
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def saved(
    path: Path, operator: str = "GRU", producer: str = "", dtype: Any = np.float32, peepholes: bool = False,
    lengths: bool = False, state: bool = False, time: int | str = "T", **attributes: Any,
) -> Path:  # fmt: skip
    """A file with one recurrent node of 2 units and 3 inputs. time: what is declared."""
    n = GATES[operator]
    random = np.random.default_rng(0)
    weights = {"W": random.normal(size=(1, n * 2, 3)), "R": random.normal(size=(1, n * 2, 2))}
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = [helper.make_tensor_value_info("x", kind, [time, "B", 3])]
    names = ["x", "W", "R", "", "", "", "", ""]
    if lengths:
        inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["B"]))
        names[4] = "lengths"
    if state:
        inputs.append(helper.make_tensor_value_info("h", kind, [1, "B", 2]))
        names[5] = "h"
    if peepholes:
        weights["P"] = random.normal(size=(1, 6))
        names[7] = "P"
    node = helper.make_node(
        operator, names if operator == "LSTM" else names[:6], ["y", "h_n"], hidden_size=2, **attributes
    )
    outputs = [
        helper.make_tensor_value_info("y", kind, ["T", 1, "B", 2]),
        helper.make_tensor_value_info("h_n", kind, [1, "B", 2]),
    ]
    tensors = [numpy_helper.from_array(value.astype(dtype), name) for name, value in weights.items()]
    graph = helper.make_graph([node], "test", inputs, outputs, tensors)
    model = helper.make_model(graph, producer_name=producer, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.fixture
def never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "_tried", lambda path, seconds: (0, []))


RIGHT: dict[str, Any] = {"linear_before_reset": 1}
FOUND: dict[str, tuple[dict[str, Any], str]] = {
    "torch's reset": ({"producer": "pytorch"}, "which wrote the file, resets after the product"),
    "layout": ({**RIGHT, "layout": 1}, "refuses layout=1"),
    "float64": ({**RIGHT, "dtype": np.float64}, "refuses GRU in float64"),
    "float64 of another node": ({"operator": "LSTM", "dtype": np.float64}, "refuses LSTM in float64"),
    "reset before, on a GPU": ({}, "CUDA provider leaves it to the CPU, because of linear_before_reset=0"),
    "clip": ({**RIGHT, "clip": 2.0}, "because of clip"),
    "alpha": ({"operator": "RNN", "activation_alpha": [1.0]}, "because of activation_alpha"),
    "beta": ({"operator": "RNN", "activation_beta": [1.0]}, "because of activation_beta"),
    "the last activation": (
        {"operator": "LSTM", "activations": ["Sigmoid", "Tanh", "Relu"]},
        "because of its activations Sigmoid Tanh Relu",
    ),
    "another exporter's reset": ({"producer": "another"}, "because of linear_before_reset=0"),
    "activations": ({"operator": "RNN", "activations": ["Relu"]}, "because of its activations Relu"),
    "peepholes": ({"operator": "LSTM", "peepholes": True}, "because of its peepholes"),
    "coupled": ({"operator": "LSTM", "input_forget": 1}, "because of input_forget=1"),
    "empty sequences": ({**RIGHT, "lengths": True, "state": True}, "forgets its initial state where a length is zero"),
}


@pytest.mark.usefixtures("never_run")
@pytest.mark.parametrize("case", FOUND)
def test_what_is_read_from_a_file(tmp_path: Path, case: str) -> None:
    options, said = FOUND[case]
    report = check(saved(tmp_path / "model.onnx", **options))
    wanted = [warning for warning in report.warnings if re.search(said, warning)]
    assert len(wanted) == 1, report
    assert wanted[0].startswith(f"{options.get('operator', 'GRU')}: ")
    assert len(report.warnings) == (2 if case == "torch's reset" else 1)


@pytest.mark.usefixtures("never_run")
def test_a_cell_state_that_is_given_alone_is_forgotten_too(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.onnx", operator="LSTM", lengths=True, state=True)
    model = onnx.load(path)
    (node,) = model.graph.node
    node.input[5:] = ["", node.input[5]]
    onnx.save(model, path)
    (warning,) = check(path).warnings
    assert "forgets its initial state where a length is zero" in warning


@pytest.mark.usefixtures("never_run")
def test_the_line_of_a_node(tmp_path: Path) -> None:
    activations = ["Sigmoid", "Tanh", "Relu"]
    for options, line in (
        ({}, "GRU: GRU, forward, 2 units, linear_before_reset=0"),
        ({"linear_before_reset": 1, "lengths": True}, "GRU: GRU, forward, 2 units, linear_before_reset=1, lengths"),
        ({"operator": "RNN", "direction": "reverse", "layout": 1}, "RNN: RNN, reverse, 2 units, layout=1"),
        (
            {"operator": "LSTM", "peepholes": True, "clip": 2.0, "input_forget": 1, "activations": activations},
            "LSTM: LSTM, forward, 2 units, Sigmoid Tanh Relu, clip=2.0, input_forget=1, peepholes",
        ),
    ):
        assert check(saved(tmp_path / "model.onnx", **options)).nodes == (line,)
    layer = elman.LSTM(3, 4, proj_size=2, bidirectional=True)
    path = elman.onnx.export(layer, tmp_path / "scans.onnx").path
    assert check(path).nodes == ("recurrent_0: Scan, forward", "recurrent_1: Scan, reverse")


@pytest.mark.parametrize(
    "options",
    [RIGHT, {**RIGHT, "producer": "pytorch"}, {"operator": "LSTM"}, {"operator": "RNN", "activations": ["Tanh"]},
     {"operator": "LSTM", "producer": "pytorch"}, {**RIGHT, "lengths": True}, {**RIGHT, "state": True}],
)  # fmt: skip
def test_what_is_right_is_not_warned_of(tmp_path: Path, options: dict[str, Any]) -> None:
    report = check(saved(tmp_path / "model.onnx", **options))
    assert report.warnings == ()
    assert report.runs == 7  # 2 and 2; 1, 3 and 9 steps; 1, 3 and 9 rows


def test_elmans_own_files(tmp_path: Path) -> None:
    layer = elman.LSTM(3, 4, num_layers=2)
    outcome = command("onnx", "check", elman.onnx.export(layer, tmp_path / "layer.onnx").path)
    assert outcome.status == 0
    assert (
        outcome.out
        == "recurrent_0: LSTM, forward, 4 units, lengths\nrecurrent_1: LSTM, forward, 4 units, lengths\nno warnings\n"
    )
    # Without the repair of empty sequences in any of the four final states, the warning comes, and names the node.
    for k in range(4):
        for spoil in (_left_out, _of_another_state):
            model = onnx.load(tmp_path / "layer.onnx")
            finals = {name for node in model.graph.node if node.op_type == "LSTM" for name in node.output[1:]}
            repairs = [node for node in model.graph.node if node.op_type == "Where" and finals & {*node.input}]
            assert len(repairs) == 4
            node = next(node for node in model.graph.node if {*node.output[1:]} & {*repairs[k].input})
            spoil(repairs[k], node)
            onnx.save(model, tmp_path / "worse.onnx")
            (warning,) = check(tmp_path / "worse.onnx").warnings
            assert warning.startswith(f"{node.name}: ONNX Runtime forgets its initial state")


def _left_out(repair: onnx.NodeProto, node: onnx.NodeProto) -> None:
    repair.op_type = "Identity"
    del repair.input[2], repair.input[0]


def _of_another_state(repair: onnx.NodeProto, node: onnx.NodeProto) -> None:
    (place,) = (k for k, name in enumerate(repair.input) if name in node.input)
    repair.input[place] = next(name for name in repair.input if name in node.output)


@pytest.mark.usefixtures("never_run")
def test_a_node_in_a_branch(tmp_path: Path) -> None:
    """Its final state is a result of the branch, and not of the model."""
    model = onnx.load(saved(tmp_path / "model.onnx", **RIGHT, lengths=True, state=True))
    kind = helper.make_tensor_value_info("h_n", TensorProto.FLOAT, [1, "B", 2])
    branch = helper.make_graph(list(model.graph.node), "branch", [], [kind])
    node = helper.make_node("If", ["choice"], ["chosen"], then_branch=branch, else_branch=branch)
    model.graph.input.append(helper.make_tensor_value_info("choice", TensorProto.BOOL, []))
    for field, value in (("node", node), ("output", helper.make_tensor_value_info("chosen", 1, [1, "B", 2]))):
        del getattr(model.graph, field)[:]
        getattr(model.graph, field).append(value)
    onnx.save(model, tmp_path / "model.onnx")
    warnings_ = check(str(tmp_path / "model.onnx")).warnings
    assert [warning.partition(":")[0] for warning in warnings_] == ["GRU", "GRU_2"]
    assert all("forgets its initial state" in warning for warning in warnings_)


@pytest.mark.usefixtures("never_run")
def test_two_directions_with_their_usual_activations(tmp_path: Path) -> None:
    both = {"direction": "bidirectional", "activations": ["Sigmoid", "Tanh", "Tanh"] * 2}
    assert check(saved(tmp_path / "model.onnx", "LSTM", **both)).warnings == ()
    lower = {"linear_before_reset": 1, "activations": ["sigmoid", "tanh"]}
    assert check(saved(tmp_path / "model.onnx", "GRU", **lower)).warnings == ()
    both["activations"] = ["Sigmoid", "Tanh", "Tanh", "Tanh", "Tanh", "Tanh"]
    assert "because of its activations" in check(saved(tmp_path / "model.onnx", "LSTM", **both)).warnings[0]


def run(sizes: dict[str, int], error: str = "", **outputs: list[Any]) -> list[dict[str, Any]]:
    """The lines of one run: its sizes, and the error, or the declared and the seen shape of each output."""
    return [{"run": sizes}, {"error": error} if error else {"outputs": outputs}]


AXES = {"axes": {"T": "axis 0 of its input x", "B": "axis 1 of its input x"}}
USUAL, LONG, WIDE = {"T": 2, "B": 2}, {"T": 9, "B": 2}, {"T": 2, "B": 9}
RIGHT_SHAPE = [["T", "B"], [2, 2]]
SEEN: list[tuple[list[dict[str, Any]], str, int, list[str]]] = [
    ([{"refused": "no such operator"}], "", 0, ["ONNX Runtime cannot open the file: no such operator; change what it names"]),
    ([{"untried": "x is a string"}], "", 0, ["the file was not run, because x is a string; run it yourself at several sizes"]),
    ([{"opening": True}], "took more than 2 seconds", 0, ["the file took more than 2 seconds while it was opened; export it again, or open it without ONNX Runtime's optimizations"]),
    ([AXES, *run(USUAL, y=RIGHT_SHAPE, z=[["own"], [5]])], "", 1, []),
    ([AXES, *run(USUAL, y=RIGHT_SHAPE), {"run": LONG}], "ended with SIGABRT", 1, ["the file ended with SIGABRT where T = 9, B = 2; do not give it such inputs, or export it again"]),
    ([AXES, *run(USUAL, "first"), *run(LONG, "second")], "", 0, ["the file runs at none of the sizes that were tried, such as T = 2, B = 2: first; export it again"]),
    (
        [AXES, *run(USUAL, y=RIGHT_SHAPE), *run(LONG, "long"), *run({"T": 3, "B": 2}, "other"), *run(WIDE, y=[["T", "B"], [2, 9]])], "", 2,
        ["axis 0 of its input x (T) is declared free, but the file runs at 2 and not at 3, 9 (long); export it again with that axis free"],
    ),
    (
        [AXES, *run(USUAL, y=RIGHT_SHAPE), *run(LONG, y=[["T", "B"], [2, 2]], z=[["T", 5], [10, 7]]), *run(WIDE, y=[["T", "B"], [2, 2]])], "", 3,
        [f"its output {name} has the size {size} along {axis} where {where}; export it again with that axis free"
         for name, size, axis, where in (("y", 2, "T", "T = 9, B = 2"), ("z", 10, "T", "T = 9, B = 2"), ("y", 2, "B", "T = 2, B = 9"))],
    ),
    ([AXES, *run(USUAL, y=[["T"], [1]])], "broke", 1, ["the file broke where T = 2, B = 2; do not give it such inputs, or export it again", "its output y has the size 1 along T where T = 2, B = 2; export it again with that axis free"]),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(SEEN)))
def test_what_is_seen_when_a_file_runs(case: int) -> None:
    lines, ended, runs, said = SEEN[case]
    assert checking._judged(lines, ended) == (runs, said)


def test_how_a_process_ends() -> None:
    assert checking._ended(0) == ""
    assert checking._ended(1) == "ended ONNX Runtime's process with status 1"
    assert checking._ended(-6) == "ended ONNX Runtime's process with SIGABRT"
    assert list(checking._lines('a warning\n[1]\n{"run": {}}')) == [{"run": {}}]


class Torchs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.recurrent(x)[0]


def test_an_axis_that_is_free_in_name_only(tmp_path: Path) -> None:
    """What PyTorch's exporter makes of its own time-major LSTM."""
    with warnings.catch_warnings():  # torch's own code warns of itself, and fails where that is an error
        warnings.simplefilter("ignore")
        free = ({0: FREE, 1: FREE},)
        program = torch.onnx.export(
            Torchs().eval(), (torch.randn(7, 2, 3),), dynamo=True, verbose=False, dynamic_shapes=free
        )
    assert program is not None
    program.save(tmp_path / "torch.onnx")
    report = check(tmp_path / "torch.onnx")
    assert re.search(
        r"axis 0 of its input x \(\w+\) is declared free, but the file runs at 7 and not at 1, 2, 3, 9 \(.*\); export it again",
        " ".join(report.warnings),
    ), report


def test_an_output_that_does_not_follow(tmp_path: Path) -> None:
    model = onnx.load(saved(tmp_path / "model.onnx", **RIGHT))
    model.graph.node.insert(0, helper.make_node("Slice", ["x", "zero", "one", "zero"], ["first"]))
    model.graph.node[1].input[0] = "first"  # it reads one step only
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.array([k]), name) for k, name in enumerate(("zero", "one"))]
    )
    onnx.save(model, tmp_path / "model.onnx")
    (warning,) = check(tmp_path / "model.onnx").warnings
    assert warning.startswith("its output y has the size 1 along T where T = 2, B = 2;")


def test_a_file_that_ends_the_process(tmp_path: Path) -> None:
    """ONNX Runtime aborts on an empty batch."""
    model = onnx.load(saved(tmp_path / "model.onnx", **RIGHT))
    model.graph.node.insert(0, helper.make_node("Slice", ["x", "zero", "zero", "one"], ["none"]))  # no row
    model.graph.node[1].input[0] = "none"
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.array([k]), name) for k, name in enumerate(("zero", "one"))]
    )
    onnx.save(model, tmp_path / "model.onnx")
    outcome = command("onnx", "check", tmp_path / "model.onnx")
    assert outcome.status == 0
    assert outcome.err == "the file ran in ONNX Runtime 0 times\n"
    assert re.search(r"warning: the file ended ONNX Runtime's process with SIG\w+ where T = 2, B = 2;", outcome.out), (
        outcome
    )


def test_a_file_that_never_ends(tmp_path: Path) -> None:
    """A Loop of 2^40 steps beside the node."""
    model = onnx.load(saved(tmp_path / "model.onnx", **RIGHT))
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["again"]), helper.make_node("Tanh", ["v"], ["w"])], "body",
        [helper.make_tensor_value_info("k", TensorProto.INT64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, []), helper.make_tensor_value_info("v", 1, None)],
        [helper.make_tensor_value_info("again", TensorProto.BOOL, []), helper.make_tensor_value_info("w", 1, None)],
    )  # fmt: skip
    model.graph.node.append(helper.make_node("Loop", ["many", "", "x"], ["end"], body=body))
    model.graph.initializer.append(numpy_helper.from_array(np.array(1 << 40), "many"))
    model.graph.output.append(helper.make_tensor_value_info("end", 1, None))
    onnx.save(model, tmp_path / "model.onnx")
    (warning,) = check(tmp_path / "model.onnx", seconds=2).warnings
    assert (
        warning
        == "the file took more than 2 seconds where T = 2, B = 2; do not give it such inputs, or export it again"
    )


@pytest.mark.usefixtures("never_run")
def test_a_node_that_is_damaged_is_described(tmp_path: Path) -> None:
    """Without what has another type than in ONNX, and without what is missing."""
    path, kinds = saved(tmp_path / "gru.onnx", activations=["Relu", "Tanh"], direction="reverse"), AttributeProto
    for name, kind in (("direction", kinds.INTS), ("direction", kinds.INT), ("activations", kinds.INT)):
        model = onnx.load(path)
        next(each for each in model.graph.node[0].attribute if each.name == name).type = kind
        onnx.save(model, tmp_path / "damaged.onnx")
        (line,) = check(tmp_path / "damaged.onnx").nodes
        assert ("forward" in line) == (name == "direction")
        assert ("Relu Tanh" in line) == (name != "activations")
    model = onnx.load(elman.onnx.export(elman.GRU(3, 4), tmp_path / "layer.onnx").path)
    node = next(node for node in model.graph.node if node.op_type == "GRU")
    node.output.append("more")
    onnx.save(model, tmp_path / "damaged.onnx")
    assert check(tmp_path / "damaged.onnx").warnings == ()
    path = elman.onnx.export(elman.LSTM(3, 4, proj_size=2), tmp_path / "scan.onnx").path
    model = onnx.load(path)
    scan = next(node for node in model.graph.node if node.op_type == "Scan")
    next(each for each in scan.attribute if each.name == "scan_input_directions").type = kinds.INT
    onnx.save(model, tmp_path / "damaged.onnx")
    assert check(tmp_path / "damaged.onnx").nodes == ("recurrent_0: Scan, forward",)


def test_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    graph = helper.make_graph(
        [helper.make_node("Tanh", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [1])],
        [helper.make_tensor_value_info("y", 1, [1])],
    )
    onnx.save(helper.make_model(graph), tmp_path / "plain.onnx")
    for file, said in (
        ("text.onnx", "is not an ONNX file"),
        ("plain.onnx", "has no recurrent node"),
        ("none.onnx", "No such file"),
    ):
        outcome = command("onnx", "check", tmp_path / file)
        assert outcome.status == 2
        assert said in outcome.err
        assert outcome.err.count("\n") == 1
    assert "--seconds must be greater than 0" in command("onnx", "check", tmp_path / "plain.onnx", "--seconds", 0).err
    with pytest.raises(InputError, match="has no recurrent node"):
        check(tmp_path / "plain.onnx")
