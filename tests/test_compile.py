"""Layers under torch.compile and torch.export: one graph, the same numbers, and no silent zeros."""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad

import elman
from cases import as_tuple, close, inputs, layer, normal, recurrent, run
from elman import Cell, Recurrent, State, operators
from forks import Child, Forks

SHAPES = [
    (5, 2),
    (4, 3),
    (6, 4),
    (7, 2),
    (9, 9),
    (3, 8),
    (2, 5),
]  # T, B; at first no two sizes of a layer are the same


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of what it imports to compile
        yield
    torch._dynamo.reset()


def clipped(x, R, s):
    return State(h=torch.tanh(x.a * 0.5 + R.a @ s.h) * torch.cos(x.a))  # no graph: the reference engine only


def weighted(x, R, s):
    return State(h=torch.tanh(x.a * 0.5 + R.a @ s.h))


LAYERS: dict[str, Callable[[], Recurrent]] = {
    **{
        name: lambda name=name: layer(name, 3, 7)
        for name in ("rnn", "lstm", "peephole_lstm", "gru_before", "projected_lstm")
    },
    "deep": lambda: layer("gru", 3, 7, num_layers=2, bidirectional=True),
    "batch first": lambda: layer("peephole_lstm", 3, 7, batch_first=True, bias=False),
    "a user's": lambda: recurrent(Cell(weighted, gates=("a",)), 3, 7),
    "no graph": lambda: recurrent(Cell(clipped, gates=("a",)), 3, 7),
    "bfloat16": lambda: layer("lstm", 3, 7).to(torch.bfloat16),
}


@pytest.mark.filterwarnings("ignore::elman.SlowCellWarning")
@pytest.mark.parametrize(
    "name", ["projected_lstm", "deep", "batch first", "a user's", "no graph", "bfloat16"]
)  # the others are plain, as these are within
def test_one_graph_for_all_shapes(name: str) -> None:
    """Forward and backward without a graph break, compiled once; the results are the layer's to the bit."""
    of = LAYERS[name]()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(of, fullgraph=True, dynamic=True, backend=counter)
    counts: list[int] = []
    for no_grad in (False, True):
        for steps, batch in SHAPES:
            x, states = inputs(of, steps, batch)
            with torch.set_grad_enabled(not no_grad):
                mine, exact = (
                    results_of(each, x, states) if no_grad else training(each, x, states) for each in (compiled, of)
                )
            assert all(torch.equal(a, b) for a, b in zip(mine, exact, strict=True))
            counts.append(counter.frame_count)
    assert len(set(counts[: len(SHAPES)])) == len(set(counts[len(SHAPES) :])) == 1
    operators = [
        str(node.target) for graph in counter.graphs for node in graph.graph.nodes if "elman" in str(node.target)
    ]
    layers = of.num_layers
    assert operators == ["elman.forward"] * layers + ["elman.infer"] * layers


def results_of(of: Any, x: Tensor, states: tuple[Tensor, ...] = ()) -> tuple[Tensor, ...]:
    """As `run`, with no initial states where none are given."""
    if getattr(of, "batch_first", False):
        x = x.transpose(0, 1)
    return run(of, x, states) if states else (lambda output, h_n: (output, *as_tuple(h_n)))(*of(x))


def training(of: Any, x: Tensor, states: tuple[Tensor, ...]) -> list[Tensor]:
    """Results, and gradients of x, the states and every parameter for random cotangents."""
    x, *leaves = (t.detach().requires_grad_() for t in (x, *states))
    results = results_of(of, x, tuple(leaves))
    sources = [x, *leaves, *of.parameters()]
    cotangents = [normal(*r.shape, seed=k).to(r.dtype) for k, r in enumerate(results)]
    return [*results, *torch.autograd.grad(results, sources, cotangents)]


@pytest.mark.skipif(not shutil.which("g++"), reason="torch's code generator needs a compiler of C++")
def test_a_model_by_inductor() -> None:
    """A model around the layers, by torch's own code generator, as users compile it."""

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(11, 5, dtype=torch.float64)
            self.read = elman.CoupledLSTM(5, 6, num_layers=2, bidirectional=True, dropout=0.5, dtype=torch.float64)
            self.head = nn.Linear(12, 3, dtype=torch.float64)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.read(self.embed(tokens))[0])

    of = Tagger().eval()
    compiled = torch.compile(of, fullgraph=True, dynamic=True)
    for steps, batch in SHAPES[:3]:
        tokens = torch.randint(11, (steps, batch), generator=torch.Generator().manual_seed(steps))
        found = [torch.autograd.grad(each(tokens).square().sum(), list(of.parameters())) for each in (compiled, of)]
        close(*found)


@pytest.mark.filterwarnings("ignore::elman.SlowCellWarning")
@pytest.mark.parametrize("name", ["lstm", "gru_before", "no graph"])
def test_a_forced_engine_is_honoured_and_guarded(name: str) -> None:
    of = LAYERS[name]()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(of, fullgraph=True, dynamic=True, backend=counter)
    x, _ = inputs(of, 5, 2)
    asked: list[str] = []

    def engine() -> str:
        with torch.no_grad():
            compiled(x)
        return next(node.args[1] for node in counter.graphs[-1].graph.nodes if "elman" in str(node.target))

    usual = "reference" if name == "no graph" else "cpu"
    assert engine() == usual
    with elman.use_engine("reference"):
        count = counter.frame_count
        assert engine() == "reference"
        assert counter.frame_count == count + 1
        thread = threading.Thread(target=lambda: asked.append(elman.recurrence._asked.engine))
        thread.start()
        thread.join()
        assert asked == ["auto"]
    count = counter.frame_count
    engine()
    assert counter.frame_count == count  # the first graph is taken again
    if name == "no graph":
        with elman.use_engine("cpu"), pytest.raises(Exception, match="was asked for but cannot run this"):
            engine()


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_autocast_under_the_compiler(name: str) -> None:
    of = layer(name, 3, 7, dtype=torch.float32)
    compiled = torch.compile(of, fullgraph=True, backend="aot_eager")
    x, states = inputs(of, 5, 2)
    with torch.autocast("cpu"):
        mine, exact = training(compiled, x, states), training(of, x, states)
    assert [t.dtype for t in mine] == [t.dtype for t in exact]
    torch.testing.assert_close(mine, exact, rtol=0.02, atol=0.02)  # cotangents were rounded at other places


def test_shapes_and_types_that_the_compiler_is_told() -> None:
    """They are those of the results, under autocast too: the operators' fake kernels next to the real ones."""
    of = layer("lstm", 3, 7, bidirectional=True, dtype=torch.float32)
    x, states = inputs(of, 5, 2)
    for engine, autocast in (
        ("cpu", None),
        ("cpu", torch.bfloat16),
        ("reference", None),
        ("reference", torch.bfloat16),
    ):
        call = of.call(0, x, states)._replace(autocast=autocast)
        for operator in (torch.ops.elman.infer, torch.ops.elman.forward):
            arguments = operators.arguments(engine, call)
            torch.library.opcheck(operator, arguments, test_utils="test_faketensor")


@pytest.mark.parametrize("engine", ["cpu", "reference"])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_types_of_a_half_layer_that_the_compiler_is_told(engine: str, autocast: torch.dtype | None) -> None:
    """What forward keeps is in float32 then, and gradients have the types of their tensors."""
    of = layer("lstm", 3, 7, bidirectional=True, dtype=torch.bfloat16)
    x, states = inputs(of, 5, 2)
    call = of.call(0, x, states)._replace(autocast=autocast)
    arguments = operators.arguments(engine, call)
    results = torch.ops.elman.forward(*arguments)
    ends = 1 + len(states)
    gradients = results[0], results[ends:], results[:ends], [True] * ends, [t is not None for t in call.tensors()]
    for operator, given in ((torch.ops.elman.forward, ()), (torch.ops.elman.backward, gradients)):
        torch.library.opcheck(operator, (*arguments, *given), test_utils="test_faketensor")


TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]] = {
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
    "dual": lambda f, x: dual(f, x),
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    "vmap": lambda f, x: torch.func.vmap(f, in_dims=1)(x.unsqueeze(1).expand(-1, 2, -1, -1)),
}


def dual(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
        assert tangent is not None
        return tangent


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_transform_of_a_compiled_layer_works_or_raises(transform: str) -> None:
    of = layer("lstm", 3, 4)
    x, _ = inputs(of, 5, 2)
    exact = TRANSFORMS[transform](lambda x: of(x)[0], x)
    assert exact.abs().max() > 0.01
    compiled = torch.compile(of, backend="aot_eager")
    inside = torch.compile(lambda x: TRANSFORMS[transform](lambda x: of(x)[0], x), backend="aot_eager")
    for call in (lambda: TRANSFORMS[transform](lambda x: compiled(x)[0], x), lambda: inside(x)):
        try:
            found = call()
        except RuntimeError:  # of torch's compiler, which knows only some transforms
            continue
        close(found, exact)


@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_forward_mode_through_an_operator_raises(engine: str) -> None:
    of = layer("lstm", 3, 4).requires_grad_(False)
    x, states = inputs(of, 5, 2)
    with forward_ad.dual_level():
        call = of.call(0, forward_ad.make_dual(x, torch.ones_like(x)), states)
        for operator in (torch.ops.elman.infer, torch.ops.elman.forward):
            with pytest.raises(RuntimeError, match=r"[Ff]orward.mode"):
                operator(*operators.arguments(engine, call))


# Exported programs.


def export(of: nn.Module, x: Tensor, strict: bool) -> Any:
    steps, batch = torch.export.Dim("steps", min=2), torch.export.Dim("batch", min=2)
    return torch.export.export(of, (x,), dynamic_shapes=({0: steps, 1: batch},), strict=strict)


@pytest.mark.parametrize("no_grad", [False, True])
@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program(strict: bool, no_grad: bool) -> None:
    """It holds `elman::infer`, has dynamic sizes, and can be trained: the gradients are recomputed."""
    of = layer("peephole_lstm", 3, 7, num_layers=2, bidirectional=True)
    with torch.set_grad_enabled(not no_grad):
        program = export(of, inputs(of, 5, 2)[0], strict)
    found = [str(node.target) for node in program.graph.nodes if "elman" in str(node.target)]
    assert found == ["elman.infer.default"] * 2
    module = program.module()
    for steps, batch in SHAPES[1:4]:
        x, _ = inputs(of, steps, batch)
        close(results_of(module, x), results_of(of, x))
        close(training(module, x, ()), training(of, x, ()))


LOADED = """
import sys, torch, elman
from test_compile import weighted
layer = elman.LSTM if sys.argv[3] == "another" else lambda *sizes: elman.Recurrent(elman.Cell(weighted, gates=("a",)), *sizes)
layer(2, 3)
program = torch.export.load(sys.argv[1])
x, output = torch.load(sys.argv[2])
torch.testing.assert_close(program.module()(x)[0], output)
print("the same")
"""


@pytest.mark.parametrize(
    ("name", "built"), [("peephole_lstm", "another"), ("a user's", "own"), ("a user's", "another")]
)
def test_an_exported_program_in_another_process(tmp_path: Path, name: str, built: str, forks: Forks) -> None:
    """Built-in cells are known there; a layer of a user's cell has to be built first, or the message names it."""
    of = LAYERS[name]()
    x, _ = inputs(of, 5, 2)
    torch.export.save(export(of, x, strict=False), tmp_path / "program.pt2")
    torch.save((x, of(x)[0].detach()), tmp_path / "case.pt")
    arguments = str(tmp_path / "program.pt2"), str(tmp_path / "case.pt"), built
    (done,) = forks.run(Child(LOADED, arguments))
    if (name, built) == ("a user's", "another"):
        assert "the cell 'weighted-" in done.stderr
        assert "is not known in this process; build a layer of it" in done.stderr
    else:
        assert "the same" in done.stdout, done.stderr


def cosine(x, R, s):
    return State(h=torch.cos(x.a + R.a @ s.h))


def test_a_slow_cell_says_so_when_compiled() -> None:
    of = recurrent(Cell(cosine, gates=("a",)), 3, 7)
    x, states = inputs(of, 3, 2)
    compiled = torch.compile(of, fullgraph=True, backend="aot_eager")
    with pytest.warns(elman.SlowCellWarning, match="calls cos") as said:
        run(compiled, x, states)
    run(of, x, states)  # it is said once
    assert len([w for w in said if w.category is elman.SlowCellWarning]) == 1
