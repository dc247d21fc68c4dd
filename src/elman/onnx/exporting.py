"""Writes a model with elman layers as one ONNX file, and proves the file before it appears under its name."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
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
from elman.onnx.proof import Case, prove
from elman.onnx.translations import translations
from elman.recurrent import Recurrent

LARGEST = (1 << 31) - (1 << 20)  # bytes that one file of ONNX may have, but for a little
FOLDED = 1 << 40  # bytes of a constant that may be folded: all
RECURRENT = ("RNN", "LSTM", "GRU", "Scan")
STEPS = BATCHES = (1, 2, 9)  # the sizes of the proof


class _Layer(nn.Module):
    """A layer whose initial states and lengths are inputs, and whose results are a flat tuple."""

    def __init__(self, layer: Recurrent):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        given: Any = states
        y, h_n = self.layer(x, given if len(given) > 1 else given[0], lengths=lengths)
        return y, *(h_n if isinstance(h_n, tuple) else (h_n,))


def export(
    model: nn.Module,
    path: str | Path,
    args: tuple[Any, ...] | None = None,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_shapes: Any = None,
) -> Path:
    """Writes a layer, or a model that contains layers, to an ONNX file, in evaluation mode. Returns its path.

    model: an elman layer, which needs nothing else; or any module, with `args`, the rest being as in `torch.onnx.export`.

    The file of a layer has the inputs x (T, B, I), or (B, T, I) with batch_first; lengths (B,), int64; and one for each
    state, h_0 and so on, (L*D, B, width). T and B are free. Lengths and states are optional: left out, the sequences have
    T steps and begin as the layer's do. Its outputs are y and the final states, h_n and so on.

    The file is run in ONNX Runtime, and compared by the rule that every engine is judged by: for a layer at nine sizes, with
    random states and lengths; for another model on `args`. It appears under its name only if it passes.
    Raises InputError if it does not, or cannot be written, and TypeError if a layer cannot be exported.
    """
    path = Path(path)
    check_writable(path)
    if isinstance(model, Recurrent):
        return _export_layer(model, path)
    if args is None:
        raise TypeError(
            f"{type(model).__name__} is no elman layer, so args have to show what it takes: give args=(x, ...)"
        )
    plain = deepcopy(model).eval()
    written = traced(plain, args, input_names, output_names, dynamic_shapes)
    names = [value.name or "" for value in written.graph.inputs]
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    found = [value.name or "" for value in written.graph.outputs]
    return finish(
        written,
        path,
        plain,
        [Case("the given arguments", tuple(args), dict(zip(names, tensors, strict=True)))],
        found,
        {},
    )


def _export_layer(layer: Recurrent, path: Path) -> Path:
    plain = deepcopy(layer).eval()
    names = plain.cell.states
    T, B = torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
    module = _Layer(plain)
    args = next(iter(_cases(plain, [3], [2]))).arguments
    axes = {0: B, 1: T} if plain.batch_first else {0: T, 1: B}
    shapes = axes, {0: B}, tuple({1: B} for _ in names)
    inputs, outputs = ["x", "lengths", *(f"{name}_0" for name in names)], ["y", *(f"{name}_n" for name in names)]
    model = traced(module, args, inputs, outputs, shapes)
    _name_axes(model, ("B", "T") if plain.batch_first else ("T", "B"))
    _make_optional(model, plain)
    pairs = [[f"{name}_0", f"{name}_n"] for name in names]
    notes = {"task": "layer", "cell": plain.cell.name, "states": pairs, "batch_first": plain.batch_first}
    return finish(model, path, module, _cases(plain, STEPS, BATCHES), outputs, notes)


def traced(
    module: nn.Module,
    args: tuple[Any, ...],
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    dynamic_shapes: Any,
) -> ir.Model:
    """Returns a module as PyTorch's exporter writes it, with what is constant folded."""
    with _quiet():
        program = torch.onnx.export(
            module,
            args,
            dynamo=True,
            verbose=False,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=dynamic_shapes,
            custom_translation_table=translations,
        )
    assert program is not None
    model = program.model
    onnxscript.optimizer.optimize(model, input_size_limit=FOLDED, output_size_limit=FOLDED)
    return model


def finish(
    model: ir.Model,
    path: Path,
    module: nn.Module,
    cases: Iterator[Case] | Sequence[Case],
    outputs: Sequence[str],
    notes: Mapping[str, Any],
) -> Path:
    """Proves a model beside the module that it was made of, and writes it.

    notes: what stands in the file's metadata as elman.NAME, JSON in ASCII.
    """
    for node in model.graph.all_nodes():
        node.metadata_props.clear()  # the exporter writes there which line of which file a node comes from
        node.doc_string = None
    recurrent = (node for node in model.graph if node.op_type in RECURRENT)
    for number, node in enumerate(recurrent):
        node.name = f"recurrent_{number}"
    model.producer_name, model.producer_version, model.doc_string = "elman", elman.__version__, None
    model.metadata_props.clear()
    for name, value in notes.items():
        model.metadata_props[f"elman.{name}"] = json.dumps(value)
    proto = ir.to_proto(model)
    if (size := proto.ByteSize()) > LARGEST:
        raise InputError(
            f"{path} would have {size:,} bytes, but one file of ONNX has at most {LARGEST:,}; export a smaller model"
        )
    content = proto.SerializeToString(deterministic=True)
    prove(content, module, cases, outputs, path)
    write_atomically(path, content)
    return path


def _name_axes(model: ir.Model, names: Sequence[str]) -> None:
    """Gives the first axes of the first input these names, wherever their sizes stand."""
    first = model.graph.inputs[0].shape
    assert first is not None
    known = {str(first[axis]): name for axis, name in enumerate(names)}
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([d if isinstance(d, int) else known.get(str(d), str(d)) for d in value.shape])


def _make_optional(model: ir.Model, layer: Recurrent) -> None:
    """Gives lengths and initial states defaults, which are stretched to the batch."""
    graph, batch_axis = model.graph, 0 if layer.batch_first else 1
    x, lengths, *states = graph.inputs
    first = graph[0]
    added: list[ir.Node] = []

    def node(kind: str, *inputs: Any, **attributes: Any) -> ir.Value:
        made = ir.node(kind, list(inputs), attributes=attributes, num_outputs=1)
        added.append(made)
        made.outputs[0].name = f"optional_{len(added)}"
        return made.outputs[0]

    def constant(*values: int) -> ir.Value:
        return node("Constant", value=ir.tensor(np.array(values, np.int64)))

    def replace(old: ir.Value, shape: Sequence[Any], default: Any, make: Any) -> None:
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

    batch = node("Shape", x, start=batch_axis, end=batch_axis + 1)  # (1,)
    steps = node("Shape", x, start=1 - batch_axis, end=2 - batch_axis)

    def every_length(given: ir.Value) -> ir.Value:
        stretched = node("Expand", given, batch)
        return node("Where", node("Less", stretched, constant(0)), steps, stretched)

    replace(lengths, ["lengths"], np.array([-1], np.int64), every_length)
    learned = layer.initial_states()
    for k, old in enumerate(states):
        sizes: Any = old.shape
        count, _, width = sizes

        def of_every_row(given: ir.Value, count: Any = count, width: Any = width) -> ir.Value:
            return node("Expand", given, node("Concat", constant(count), batch, constant(width), axis=0))

        zero = np.zeros((int(count), 1, int(width)), old.dtype.numpy())  # pyright: ignore[reportOptionalMemberAccess]
        default = learned[k].detach().numpy()[:, None] if learned else zero
        replace(old, [count, "states", width], default, of_every_row)
    graph.insert_before(first, added)


def _cases(layer: Recurrent, steps: Sequence[int], batches: Sequence[int]) -> Iterator[Case]:
    """Yields inputs of all these sizes: random states, random lengths with a zero, and NaN past the ends."""
    random = torch.Generator().manual_seed(0)
    dtype = next(layer.parameters()).dtype
    rows, widths = layer.num_layers * layer.num_directions, layer.cell.widths(layer.hidden_size, layer.proj_size)
    T = B = 0
    for T in steps:
        for B in batches:
            x = torch.randn(T, B, layer.input_size, dtype=dtype, generator=random)
            lengths = torch.randint(0, T + 1, (B,), generator=random)
            lengths[0] = 0 if B > 1 else T
            for b in range(B):
                x[lengths[b] :, b] = torch.nan
            states = [torch.randn(rows, B, width, dtype=dtype, generator=random) for width in widths]
            given = (x.transpose(0, 1) if layer.batch_first else x), lengths, *states
            names = "x", "lengths", *(f"{name}_0" for name in layer.cell.states)
            yield Case(f"T = {T}, B = {B}", given, dict(zip(names, given, strict=True)))
    x = torch.randn(T, B, layer.input_size, dtype=dtype, generator=random)
    learned = [state[:, None].expand(-1, B, -1) for state in layer.initial_states()]
    states = learned or [torch.zeros(rows, B, width, dtype=dtype) for width in widths]
    x = x.transpose(0, 1) if layer.batch_first else x
    yield Case("neither lengths nor states", (x, torch.full((B,), T), *states), {"x": x})


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
