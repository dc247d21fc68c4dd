"""Writes a model with elman layers as one ONNX file, and proves the file before it appears under its name."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
import torch
from torch import Tensor, nn

import elman
from elman.errors import InputError
from elman.files import check_writable, write_atomically
from elman.frozen import Frozen
from elman.onnx import decoding, ports
from elman.onnx.external import other_files
from elman.onnx.half import flatten
from elman.onnx.int8 import quantize
from elman.onnx.loading import read
from elman.onnx.node import RECURRENT
from elman.onnx.ports import Port
from elman.onnx.proof import Case, Proof, flat, prove
from elman.onnx.scan import Unwritable
from elman.onnx.thawing import thaw, thawed
from elman.onnx.translations import of_int8, translations
from elman.onnx.written import KEY
from elman.recurrent import Recurrent
from elman.tasks.translation import OPEN, TranslationModel

LARGEST = (1 << 31) - (1 << 20)  # bytes that one file of ONNX may have, but for a little
SMALLEST = 1024  # bytes of weights that lie in a second file, if there is one
ENDINGS = ".data", ".2.data"  # of the name of the second file; the other one is for a model that replaces the first
FOLDED = 1 << 40  # bytes of a constant that may be folded: all
STEPS = BATCHES = (1, 2, 9)  # the sizes of the proof


class _Flat(nn.Module):
    """The model of a port as a module whose arguments and results are tensors."""

    def __init__(self, port: Port):
        super().__init__()
        self.model, self.call = port.model, port.call

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(flat(self.call(self.model, *inputs)))


def export(
    model: nn.Module,
    path: str | Path,
    args: tuple[Any, ...] | Tensor | None = None,
    *,
    streaming: bool = False,
    int8: bool = False,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_shapes: Any = None,
) -> Proof:
    """Writes a layer, or a model that contains layers, to an ONNX file, in evaluation mode. Returns its path and its errors.

    model: an elman layer, which takes nothing else; or any module, with `args`, the rest being as in `torch.onnx.export`.
        Frozen layers are written as the layers that they were made from.

    The file of a layer has the inputs x (T, B, I), or (B, T, I) with batch_first; lengths (B,), int64; and one for each
    state, h_0 and so on, (L*D, B, width); and for a stream such as dt, u_dt (T, B, H), or (B, T, H). T and B are free. Lengths
    and states are optional: left out, the sequences have T steps and begin as the layer's do. Its outputs are y and the final states, h_n and so on.

    streaming: for a layer, one step in place of a sequence, with inputs x (B, I) and h_0 and so on, and outputs y (B, Y) and
        h_n and so on. It has no loop. No input may be left out, but for the states of a layer that learns its initial ones.
    int8: products with weights are computed in integers of 8 bits, where the weights have 7 bits and a scale for each unit.
        LSTMs with all their kin become nodes that only ONNX Runtime knows, DynamicQuantizeLSTM; all other cells a Scan.

    The file is run in ONNX Runtime: for a layer at nine sizes, with random states and lengths; for another model on `args`.
    Its errors may be at most twice those of PyTorch, beside 8 roundings of the largest value; or 32 roundings alone for a
    model that does not run in float64. It appears under its name only if it passes. With int8 there is no such rule; the
    errors are told. A model of more than 2 GB becomes two files: its weights are in PATH.data, or in PATH.2.data if it
    replaces a model with weights in PATH.data. That file has to stay beside PATH.
    Raises InputError if it does not pass, or cannot be written, and TypeError if a layer cannot be exported, or arguments
    do not fit.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"the second argument of elman.onnx.export is a path, got {type(path).__name__}; the arguments of the model "
            "come after it: export(model, path, args)"
        )
    path = Path(path)
    if isinstance(model, Recurrent):
        given = args, input_names, output_names, dynamic_shapes
        names = ("args", "input_names", "output_names", "dynamic_shapes")
        useless = [name for name, value in zip(names, given, strict=True) if value is not None]
        if useless:
            raise TypeError(
                f"{', '.join(useless)} have no use for an elman layer, whose file has inputs of its own with free T and B; "
                "leave them out, or export torch.nn.Sequential(layer)"
            )
        layer = thawed(model) if isinstance(model, Frozen) else model
        _check_weights(layer, int8)
        return write(ports.step(layer) if streaming else ports.layer(layer), path, int8)
    if streaming:
        raise TypeError(
            f"{type(model).__name__} is no elman layer, so streaming has no meaning for it; give a module that does one step"
        )
    if args is None:
        raise TypeError(
            f"{type(model).__name__} is no elman layer, so args have to show what it takes: give args=(x, ...)"
        )
    check_writable(path)
    _check_weights(model, int8)
    plain, args = thaw(deepcopy(model).eval()), (args,) if isinstance(args, Tensor) else tuple(args)
    written = traced(plain, args, input_names, output_names, dynamic_shapes, int8)
    names, tensors = [value.name or "" for value in written.graph.inputs], flat(args)
    if len(names) != len(tensors):
        raise TypeError(
            f"args hold {len(tensors)} tensors, but the file has {len(names)} inputs; give the tensors that {type(model).__name__} takes, each once"
        )
    found = [value.name or "" for value in written.graph.outputs]
    given, named = (args[:-1], args[-1]) if args and isinstance(args[-1], dict) else (args, {})  # as the exporter does
    case = Case("the given arguments", given, dict(zip(names, tensors, strict=True)), named)
    return finish(written, path, plain, [case], found, {}, int8)


def _check_weights(model: nn.Module, int8: bool) -> None:
    for name, weight in model.named_parameters():
        if weight.is_meta:
            raise TypeError(
                f"{name} is on the device meta and has no numbers; load weights first, with load_state_dict(..., assign=True)"
            )
        if int8 and weight.is_floating_point() and weight.dtype != torch.float32:
            raise TypeError(
                f"int8 is made of float32, but {name} is {str(weight.dtype).removeprefix('torch.')}; convert the model with .float()"
            )


def write(port: Port, path: Path, int8: bool) -> Proof:
    """Writes what a port describes. Raises InputError if it cannot be written, or fails its proof."""
    check_writable(path)
    port = port._replace(model=deepcopy(port.model).eval())
    module = _Flat(port)
    args = next(iter(port.cases([3], [2]))).arguments
    free = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in port.inputs.values())
    if isinstance(port.model, TranslationModel):
        model = decoding.whole(port, traced, int8)
    else:
        model = traced(module, args, list(port.inputs), list(port.outputs), (free,), int8)
    _name_axes(model, list(port.inputs.values()))
    _make_optional(model, port)
    notes = dict(port.notes) | ({"int8": True} if int8 else {})
    cases: Iterable[Case] = port.cases(STEPS, BATCHES)
    if int8 and isinstance(port.model, TranslationModel):  # other roundings may write another text
        cases = (case for case in cases if "given" in case.feed and (case.feed["given"] != OPEN).all())
    return finish(model, path, module, cases, list(port.outputs), notes, int8)


def traced(
    module: nn.Module,
    args: tuple[Any, ...],
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    dynamic_shapes: Any,
    int8: bool = False,
) -> ir.Model:
    """Returns a module as PyTorch's exporter writes it, with what is constant folded.

    What a cell computes from its vectors stays, by which the cell is read again. ONNX Runtime folds it when it opens the file.
    """
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                args,
                dynamo=True,
                verbose=False,
                input_names=input_names,
                output_names=output_names,
                dynamic_shapes=dynamic_shapes,
                custom_translation_table=of_int8 if int8 else translations,
                optimize=False,  # which is done below
            )
    except torch.onnx.OnnxExporterError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, Unwritable):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None  # a sentence, in place of two thousand characters
    assert program is not None
    model = program.model
    steps = [node.attributes["body"].value for node in model.graph.all_nodes() if KEY in node.metadata_props]
    onnxscript.optimizer.optimize_ir(
        model,
        input_size_limit=FOLDED,
        output_size_limit=FOLDED,
        should_fold=lambda node: False if any(node.graph is step for step in steps) else None,
    )
    flatten(model)
    if int8:
        quantize(model)
    return model


def finish(
    model: ir.Model,
    path: Path,
    module: nn.Module,
    cases: Iterable[Case],
    outputs: Sequence[str],
    notes: Mapping[str, Any],
    int8: bool,
) -> Proof:
    """Proves a model beside the module that it was made of, and writes it.

    notes: what stands in the file's metadata as elman.NAME, JSON in ASCII.
    """
    for node in model.graph.all_nodes():
        # The exporter writes there which line of which file a node comes from.
        kept = {key: value for key, value in node.metadata_props.items() if key == KEY}
        node.metadata_props.clear()
        node.metadata_props.update(kept)
        node.doc_string = None
    recurrent = (node for node in model.graph if node.op_type in RECURRENT)
    for number, node in enumerate(recurrent):
        node.name = f"recurrent_{number}"
    model.producer_name, model.producer_version, model.doc_string = "elman", elman.__version__, None
    model.metadata_props.clear()
    for name, value in notes.items():
        model.metadata_props[f"elman.{name}"] = json.dumps(value)

    def proved(written: bytes | Path) -> dict[str, float]:
        return prove(written, module, cases, outputs, path, exact=not int8)

    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    before = _weights_of(path)
    if weights + sum(map(len, model.metadata_props.values())) > LARGEST:
        found = _in_two_files(model, path, proved, before)
    else:
        content = ir.to_proto(model).SerializeToString(deterministic=True)
        found = Proof(path, proved(content))
        write_atomically(path, content)
    if before is not None:
        before.unlink(missing_ok=True)
    return found


def _weights_of(path: Path) -> Path | None:
    """Returns the file of weights beside the model that is at a path now, if it is one that `_in_two_files` wrote."""
    written = [path.with_name(path.name + ending) for ending in ENDINGS]
    if not any(each.is_file() for each in written):
        return None
    try:
        named = other_files(read(path))
    except (InputError, UnicodeDecodeError):  # it is no model, and is replaced
        return None
    return next((each for each in written if each.name in named), None)


def _in_two_files(
    model: ir.Model, path: Path, proved: Callable[[Path], dict[str, float]], before: Path | None
) -> Proof:
    """Writes a model that is too large for one file of ONNX: its weights lie in a second one, whose name ends in .data.

    Both appear when they are `proved`, which returns their errors, in a folder of their own. The weights of the model
    that was at the path `before` stay until the new model is there.
    """
    data = next(each for each in (path.with_name(path.name + ending) for ending in ENDINGS) if each != before)
    check_writable(data)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            whole = Path(folder) / path.name
            ir.save(model, whole, external_data=data.name, size_threshold_bytes=SMALLEST)
            errors = proved(whole)
            with open(whole.with_name(data.name), "rb") as written:
                os.fsync(written.fileno())
            os.replace(written.name, data)
            try:
                write_atomically(path, whole.read_bytes())
            except BaseException:
                data.unlink()
                raise
    except OSError as error:
        raise InputError(
            f"cannot write {data}: {error.strerror or error}; make room or choose another place"
        ) from error
    return Proof(path, errors, data)


def _name_axes(model: ir.Model, axes: Sequence[Mapping[int, str]]) -> None:
    """Gives the free axes of the inputs their names, wherever their sizes stand."""
    known: dict[str, str] = {}
    for value, names in zip(model.graph.inputs, axes, strict=True):
        assert value.shape is not None
        known |= {str(value.shape[axis]): name for axis, name in names.items()}
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([d if isinstance(d, int) else known.get(str(d), str(d)) for d in value.shape])


def _make_optional(model: ir.Model, port: Port) -> None:
    """Gives lengths and initial states defaults, which are stretched to the batch."""
    graph, inputs = model.graph, {value.name: value for value in model.graph.inputs}
    added: list[ir.Node] = []

    def node(kind: str, *inputs: Any, **attributes: Any) -> ir.Value:
        made = ir.node(kind, list(inputs), attributes=attributes, num_outputs=1)
        added.append(made)
        made.outputs[0].name = f"optional_{len(added)}"
        return made.outputs[0]

    def constant(*values: int) -> ir.Value:
        return node("Constant", value=ir.tensor(np.array(values, np.int64)))

    def size(name: str, axis: int) -> ir.Value:
        return node("Shape", inputs[name], start=axis, end=axis + 1)  # (1,)

    def replace(old: ir.Value, shape: Sequence[Any], default: Any, make: Callable[[ir.Value], ir.Value]) -> None:
        new = ir.Value(
            name=old.name, shape=ir.Shape(shape), type=old.type, const_value=ir.tensor(default, name=old.name)
        )
        old.name = f"{old.name}_of_each"
        uses = list(old.uses())
        made = make(new)
        for user, place in uses:
            user.replace_input_with(place, made)
        graph.inputs[graph.inputs.index(old)] = new
        graph.initializers[new.name] = new  # pyright: ignore[reportArgumentType]

    for name, of in port.lengths.items():
        rows = port.inputs[name][0]
        axis = next(axis for axis, called in port.inputs[of].items() if called == rows)

        def every_length(given: ir.Value, of: str = of, axis: int = axis) -> ir.Value:
            stretched = node("Expand", given, size(of, axis))
            return node("Where", node("Less", stretched, constant(0)), size(of, 1 - axis), stretched)

        replace(inputs[name], [name], np.array([-1], np.int64), every_length)
    if port.states:
        first, axes = next(iter(port.inputs.items()))
        batch = size(first, next(axis for axis, called in axes.items() if called == "B"))
        for name, default in port.states.items():
            count, _, width = default.shape

            def of_every_row(given: ir.Value, count: int = count, width: int = width) -> ir.Value:
                return node("Expand", given, node("Concat", constant(count), batch, constant(width), axis=0))

            replace(inputs[name], [count, "states", width], default.numpy(), of_every_row)
    if added:
        graph.insert_before(graph[0], added)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter from talking about packages that are not needed."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
