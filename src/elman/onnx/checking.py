"""What may go wrong with the recurrent nodes of an ONNX file: read from the file, and seen when it runs at several sizes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from elman.errors import InputError
from elman.onnx.constants import Scope
from elman.onnx.external import text
from elman.onnx.loading import node_names, read, recurrent_nodes
from elman.onnx.node import OPERATORS, RECURRENT, TYPES, bodies, value_of
from elman.onnx.steps import STANDARD

SECONDS = 60.0  # that all runs may take together
MEMORY = 8 << 30  # bytes of address space, besides four times the file
KNOWN = TYPES | {"scan_input_directions": AttributeProto.INTS}
LENGTHS, INITIAL, PEEPHOLES = 4, (5, 6), 7  # the numbers of inputs of a node


class Report(NamedTuple):
    """What `check` found."""

    nodes: tuple[str, ...]  # a line for each recurrent node
    warnings: tuple[str, ...]  # a sentence for each thing that may go wrong, with the remedy
    runs: int  # how often ONNX Runtime ran the file


def check(path: str | os.PathLike[str], seconds: float = SECONDS) -> Report:
    """Lists the recurrent nodes of an ONNX file, and warns of what computes something else than it seems to, or will not run.

    It warns of

    - a GRU with linear_before_reset=0 in a file that PyTorch wrote: torch's GRU has the reset after the product;
    - layout=1 and float64, which ONNX Runtime refuses in these nodes;
    - nodes that ONNX Runtime's CUDA provider leaves to the CPU;
    - initial states that ONNX Runtime forgets where a length is zero;
    - axes that are declared free, but have one size only. For this the file is run in ONNX Runtime, in a process of its own with
      limits on time (seconds) and memory, since files come from strangers, and ONNX Runtime ends the process for some.

    Raises InputError if the file is no ONNX file, or has no recurrent node.
    """
    path = Path(path)
    model = read(path)
    every = list(recurrent_nodes(model, lambda node: node.op_type in RECURRENT))
    if not every:
        raise InputError(
            f"{path} has no recurrent node ({', '.join(RECURRENT)}) among its {len(model.graph.node)} nodes; give a model that has one"
        )
    names = node_names([node for node, _ in every])
    lines, warnings = list[str](), list[str]()
    for name, (node, scope) in zip(names, every, strict=True):
        lines.append(_described(name, node, scope))
        warnings += [f"{name}: {said}" for said in _doubts(node, scope, model)]
    runs, seen = _tried(path, seconds)
    return Report(tuple(lines), (*warnings, *seen), runs)


def _described(name: str, node: NodeProto, scope: Scope) -> str:
    own = _attributes(node)
    sizes = _sizes(node, scope)
    parts = [own.get("direction", "reverse" if 1 in own.get("scan_input_directions", [0]) else "forward")]
    if sizes is not None and len(sizes) == 3:
        parts.append(f"{sizes[2]} units")
    if "activations" in own:
        parts.append(" ".join(own["activations"]))
    if node.op_type == "GRU":
        parts.append(f"linear_before_reset={own.get('linear_before_reset', 0)}")
    parts += [f"{key}={own[key]}" for key in ("clip", "layout", "input_forget") if own.get(key, 0)]
    parts += [
        what for what, there in (("lengths", _given(node, LENGTHS)), ("peepholes", _given(node, PEEPHOLES))) if there
    ]
    return f"{name}: {node.op_type}, {', '.join(parts)}"


def _attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node that say something here, and are of the type that ONNX gives them."""
    named = ((text(each.name), each) for each in node.attribute)
    return {name: value_of(each) for name, each in named if each.type == KNOWN.get(name)}


def _given(node: NodeProto, number: int) -> bool:
    return node.op_type in OPERATORS and len(node.input) > number and bool(node.input[number])


def _maker(node: NodeProto, number: int, scope: Scope) -> Any:
    return scope.find(node.input[number])[1] if len(node.input) > number else None


def _sizes(node: NodeProto, scope: Scope) -> list[int] | None:
    """The shape of R, (directions, gates*H, H), if it stands in the file."""
    made = _maker(node, 2, scope) if node.op_type in OPERATORS else None
    return list(made.dims) if isinstance(made, TensorProto) else None


def _doubts(node: NodeProto, scope: Scope, model: ModelProto) -> Iterator[str]:
    own = _attributes(node)
    if node.op_type not in OPERATORS:
        return
    before = node.op_type == "GRU" and not own.get("linear_before_reset", 0)
    if before and text(model.producer_name) == "pytorch":
        yield "it has linear_before_reset=0, but the GRU of PyTorch, which wrote the file, resets after the product; export it again"
    if own.get("layout", 0):
        yield "ONNX Runtime refuses layout=1; export it with time as the first axis"
    weight = _maker(node, 1, scope)
    if isinstance(weight, TensorProto) and weight.data_type == TensorProto.DOUBLE:
        yield f"ONNX Runtime refuses {node.op_type} in float64; convert the model to float32"
    if why := _on_cpu(node, own):
        yield f"ONNX Runtime's CUDA provider leaves it to the CPU, because of {why}; expect copies between them"
    if _given(node, LENGTHS) and any(_given(node, k) for k in INITIAL) and not _repaired(node, model):
        yield "ONNX Runtime forgets its initial state where a length is zero; give no empty sequences, or choose h_0 there with a Where"


def _on_cpu(node: NodeProto, own: Mapping[str, Any]) -> str:
    """Why a node does not run on a GPU; "" if it does.

    Source: RNNNeedFallbackToCPU in onnxruntime/core/providers/cuda/cuda_execution_provider.cc.
    """
    for name in ("activation_alpha", "activation_beta", "clip"):
        if any(each.name == name for each in node.attribute):
            return name
    standard = STANDARD[node.op_type]
    given = own.get("activations", list(standard))
    if any(name.lower() != standard[k % len(standard)].lower() for k, name in enumerate(given)):
        return f"its activations {' '.join(given)}"
    if node.op_type == "LSTM" and own.get("input_forget", 0):
        return "input_forget=1"
    if node.op_type == "GRU" and not own.get("linear_before_reset", 0):
        return "linear_before_reset=0"
    return "its peepholes" if _given(node, PEEPHOLES) else ""


def _repaired(node: NodeProto, model: ModelProto) -> bool:
    """Whether every final state goes through a Where that has the initial state for empty sequences, as elman writes it."""
    made = list(node.output)  # by which a node is known
    tops = [
        (model.graph.node, _names(model.graph.output)),
        *((each.node, set(each.output)) for each in model.functions),
    ]
    places = (place for top in tops for place in _within(*top))
    nodes, results = next(place for place in places if any(list(each.output) == made for each in place[0]))
    users = [other for inner, _ in _within(nodes, results) for other in inner]
    for name, k in zip(node.output[1:], INITIAL, strict=False):
        using = [other for other in users if name in other.input]
        right = all(other.op_type == "Where" and _given(node, k) and node.input[k] in other.input for other in using)
        if name and (name in results or not right):
            return False
    return True


def _within(nodes: Sequence[NodeProto], results: set[str]) -> Iterator[tuple[Sequence[NodeProto], set[str]]]:
    """These nodes and results, and those of every body in them."""
    yield nodes, results
    for node in nodes:
        for body in bodies(node):
            yield from _within(body.node, _names(body.output))


def _names(values: Iterable[ValueInfoProto]) -> set[str]:
    return {value.name for value in values}


# What is seen when the file runs


def _tried(path: Path, seconds: float) -> tuple[int, list[str]]:
    """Runs the file in another process. Returns how often it ran, and a sentence for what went wrong."""
    command = [
        sys.executable,
        "-P",
        str(Path(__file__).with_name("trial.py")),
        str(path.resolve()),
        str(MEMORY + 4 * path.stat().st_size),
    ]
    with tempfile.TemporaryFile() as out:
        try:
            done = subprocess.run(
                command, stdout=out, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, timeout=seconds, check=False
            )
            ended = _ended(done.returncode)
        except subprocess.TimeoutExpired:
            ended = f"took more than {seconds:g} seconds"
        out.seek(0)
        lines = list(_lines(out.read().decode(errors="replace")))
    return _judged(lines, ended)


def _lines(said: str) -> Iterator[dict[str, Any]]:
    for line in said.splitlines():
        try:
            content = json.loads(line)
        except ValueError:  # printed by a library
            continue
        if isinstance(content, dict):
            yield content


def _ended(status: int) -> str:
    """What became of the process, as the end of a sentence; "" if it ended well."""
    if status < 0:
        return f"ended ONNX Runtime's process with {signal.Signals(-status).name}"
    return f"ended ONNX Runtime's process with status {status}" if status else ""


def _judged(lines: list[dict[str, Any]], ended: str) -> tuple[int, list[str]]:
    """Reads what `trial.py` has printed."""
    said, strange = list[str](), dict[tuple[str, str], str]()
    sizes: dict[str, int] = {}
    places: dict[str, str] = {}
    worked, failed = list[dict[str, int]](), list[tuple[dict[str, int], str]]()
    for line in lines:
        if "refused" in line:
            said.append(f"ONNX Runtime cannot open the file: {line['refused']}; change what it names")
        elif "untried" in line:
            said.append(f"the file was not run, because {line['untried']}; run it yourself at several sizes")
        elif "axes" in line:
            places = line["axes"]
        elif "run" in line:
            sizes = line["run"]
        elif "error" in line:
            failed.append((sizes, line["error"]))
        elif "outputs" in line:
            worked.append(sizes)
            for name, (declared, shape) in line["outputs"].items():
                for axis, size in zip(declared, shape, strict=False):
                    if isinstance(axis, str) and sizes.get(axis, size) != size:
                        seen = f"its output {name} has the size {size} along {axis} where {_said(sizes)}"
                        strange.setdefault((name, axis), f"{seen}; export it again with that axis free")
    if failed and not worked:
        said.append(
            f"the file runs at none of the sizes that were tried, such as {_said(failed[0][0])}: {failed[0][1]}; export it again"
        )
    for axis in worked[0] if worked else ():
        right = worked[0][axis]
        other = [
            (wrong[axis], error) for wrong, error in failed if {**worked[0], axis: wrong[axis]} == wrong != worked[0]
        ]
        if other:
            tried = ", ".join(str(size) for size in sorted({size for size, _ in other}))
            said.append(
                f"{places[axis]} ({axis}) is declared free, but the file runs at {right} and not at {tried} ({other[0][1]}); export it again with that axis free"
            )
    if ended:
        said.append(
            f"the file {ended} where {_said(sizes)}; do not give it such inputs, or export it again"
            if sizes
            else f"the file {ended} while it was opened; export it again, or open it without ONNX Runtime's optimizations"
        )
    return len(worked), [*said, *strange.values()]


def _said(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {size}" for name, size in sizes.items())
