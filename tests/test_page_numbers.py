"""The numbers of the page: those of `engine.js` in a browser, judged by the accuracy rule beside PyTorch's in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, relu, sigmoid, tanh
from torch.nn import Linear, functional
from torch.nn.functional import cross_entropy

import elman
from accuracy import Errors
from browser import Launched, Opened, opening, running
from cases import CELLS, draw
from elman import Cell, Recurrent, State, cells
from elman.explain import language
from elman.explain.language import model_as_data
from elman.tasks.language_model import LanguageModel
from tiny_runs import tiny

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SIZE, HIDDEN, WIDE, STEPS, SEEDS = 13, 24, 10, 14, 3

READ = """(data) => {
  const network = new Network(data), trace = network.advance(network.begin(data.ids, null, network.initial)), steps = data.ids.map((_, t) => t);
  const found = network.back(trace, steps.length - 2, data.ids.at(-1)), each = (value) => network.layers.map((_, l) => network.states.map((name) => value(l, name)));
  return {
    predictions: steps.map((t) => [...network.predictions(trace, t)]),
    states: each((l, name) => steps.map((t) => [...network.state(trace, l, t, name)])),
    gradients: [[...found.input], ...each((l, name) => [...found.states[l][name]]).flat()],
    nats: [...trace.nats],
  };
}"""


@pytest.fixture(scope="module")
def shared(launched: Launched, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """A page that has the engine and nothing else: what a test reads in it is of the networks that it makes."""
    source = files("elman.explain").joinpath("assets", "engine.js").read_text(encoding="utf-8")
    path = tmp_path_factory.mktemp("page") / "engine.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><script>{source}\nwindow.Network = Network;</script>")
    with ExitStack() as open_until_the_end:
        with running(launched.loop):
            opened = open_until_the_end.enter_context(opening(launched.browser))(path)
        yield opened
        with running(launched.loop):
            open_until_the_end.close()


@pytest.fixture
def engine(shared: Opened, browser: Browser) -> Iterator[Opened]:
    shared.errors.clear()
    yield shared
    assert not shared.errors


def language_model(cell: Cell, layers: int, tied: bool, seed: int) -> LanguageModel:
    torch.manual_seed(seed)
    model = LanguageModel(SIZE, tiny(hidden_size=HIDDEN, embedding_size=WIDE, tied=tied))
    proj_size = HIDDEN - 5 if cell.projected else 0
    model.recurrent = draw(Recurrent(cell, WIDE, HIDDEN, layers, proj_size=proj_size), seed)
    if cell.projected:
        model.output = Linear(proj_size, SIZE)
    with torch.no_grad():
        model.output.weight.normal_()
        model.output.bias.normal_()
        if model.bias is not None:
            model.bias.normal_()
    return model.eval()


def reference(model: LanguageModel, ids: Tensor) -> dict[str, Tensor]:
    """What the page computes, by elman.trace and autograd."""
    x = model.embedding(ids[:, None]).detach().requires_grad_()
    whole = elman.trace(model.recurrent, x)
    logits = model.logits(whole.output[:, 0])
    names = model.recurrent.cell.states
    steps = [step[name] for r in whole.recurrences for name in names for step in r.steps[:-1]]
    found = torch.autograd.grad(cross_entropy(logits[-2:-1], ids[-1:]), [x, *steps], allow_unused=True)
    norms = [torch.zeros(()) if g is None else g.norm() for g in found[1:]]
    return {
        "predictions": logits.log_softmax(-1).detach(),
        "states": torch.cat([r.states[name].detach().flatten() for r in whole.recurrences for name in names]),
        "gradients": torch.cat([found[0][:-1, 0].norm(dim=1), torch.stack(norms)]),
    }


def flat(value: Any) -> list[float]:
    return [value] if isinstance(value, (int, float)) else [number for each in value for number in flat(each)]


def check(engine: Opened, cell: Cell, layers: int, tied: bool = False, state: bool = False) -> None:
    errors = {name: Errors() for name in ("predictions", "states", "gradients")}
    for seed in range(SEEDS):
        model = language_model(cell, layers, tied, seed)
        ids = torch.randint(SIZE, (STEPS,), generator=torch.Generator().manual_seed(seed))
        mine = engine.page.evaluate(READ, model_as_data(model) | {"ids": ids.tolist()})
        torchs = reference(model, ids)
        exact = reference(model.double(), ids)
        for name, sums in errors.items():
            sums.add(torch.tensor(flat(mine[name])).view(exact[name].shape), torchs[name], exact[name])
        surprise = -exact["predictions"][:-1].gather(1, ids[1:, None])[:, 0]
        assert mine["nats"][1:] == pytest.approx(surprise.tolist(), rel=1e-4, abs=1e-4)
    for name, sums in errors.items():
        assert sums.within, (name, sums)


@pytest.mark.parametrize("name", CELLS)
def test_values_and_gradients_of_every_cell(engine: Opened, name: str):
    check(engine, cells.by_name(name), 1)
    check(engine, cells.by_name(name), 2, tied=not cells.by_name(name).projected)


def test_a_bias_left_out(engine: Opened):
    model = language_model(cells.lstm, 1, False, 0)
    model.recurrent = Recurrent(cells.lstm, WIDE, HIDDEN, bias=False)
    ids = torch.arange(SIZE)
    mine = engine.page.evaluate(READ, model_as_data(model) | {"ids": ids.tolist()})
    assert flat(mine["states"]) == pytest.approx(reference(model, ids)["states"].tolist(), abs=1e-5)


# One cell for every operation that a graph may have; each reads its own state through it.
OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "arithmetic": lambda v: (2 - v) / (3 + v * v) - (-v) * v + v / 2,
    "functions": lambda v: relu(v) - 0.1 * torch.exp(-torch.abs(v)) + torch.log(1 + v * v) - torch.sqrt(1 + v * v),
    "erf": lambda v: torch.erf(v) + torch.erf(4 * v) + torch.log1p(v * v),
    "maximum": lambda v: torch.maximum(v, tanh(-v)) - torch.minimum(v, v * v) + torch.maximum(v, v),
    "less": lambda v: torch.where(v < 0.3, v, v * v) + torch.where(v <= -0.3, -v, 2 * v) * (v > 0),
    "equal": lambda v: torch.where(relu(v) == 0, v, 3 * v) + functional.softplus(v) - functional.hardtanh(v),
    "over units": lambda v: functional.layer_norm(v, v.shape[-1:]) + v.mean(-1, keepdim=True) * v.sum(-1, keepdim=True),
    "gelu": lambda v: functional.gelu(v) - functional.silu(v) + torch.clamp(v, -0.5, 0.4) ** 3,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation(engine: Opened, name: str):
    operation = OPERATIONS[name]

    def step(x, R, s, p):
        u = tanh(x.a + R.a @ s.h)
        k = operation(u + s.k) * sigmoid(x.b) * 0.5 + p.k
        return State(h=tanh(k + R.b @ u), k=tanh(k))

    check(engine, Cell(step, gates=("a", "b"), states=("h", "k"), vectors=("k",), name="own"), 2)


def test_every_operation_of_a_graph_is_known():
    from elman.operations import OPERATIONS as known

    source = files("elman.explain").joinpath("assets", "engine.js").read_text(encoding="utf-8")
    table = source[source.index("const OPERATIONS") : source.index("function erf")]
    assert [line.split(":")[0].strip() for line in table.splitlines()[1:] if line.startswith("  ")] == list(known)


def test_half_precision(engine: Opened, monkeypatch: pytest.MonkeyPatch):
    model = language_model(cells.lstm, 1, False, 0)
    ids = torch.arange(SIZE)
    single = model_as_data(model)
    monkeypatch.setattr(language, "SINGLE", 100)
    half = model_as_data(model)
    assert (single["precision"], half["precision"]) == ("f4", "f2")
    assert len(half["weights"]["embedding"]) == pytest.approx(len(single["weights"]["embedding"]) / 2, rel=0.02)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    mine = engine.page.evaluate(READ, half | {"ids": ids.tolist()})  # the rounded weights, to the bit
    assert flat(mine["predictions"]) == pytest.approx(
        reference(model.double(), ids)["predictions"].flatten().tolist(), abs=1e-5
    )
    with torch.no_grad():
        model.embedding.weight[0, 0] = 1e5  # for which float16 has no number
    assert model_as_data(model.float())["precision"] == "f4"


def test_halves_are_read_to_the_bit(open_page: Callable[..., Opened], tmp_path: Path):
    source = files("elman.explain").joinpath("assets", "engine.js").read_text(encoding="utf-8")
    path = tmp_path / "engine.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><script>{source}\nwindow.half = half;</script>")
    got = open_page(path).page.evaluate(
        "Array.from({ length: 65536 }, (_, k) => half(k)).map((v) => (Number.isFinite(v) ? v : String(v)))"
    )
    exact = torch.arange(65536).to(torch.int32).to(torch.int16).view(torch.float16).tolist()
    said = {float("inf"): "Infinity", float("-inf"): "-Infinity"}
    assert got == [said.get(v, v) if v == v else "NaN" for v in exact]


def test_a_text_goes_on_from_the_state_that_was_read_before(engine: Opened):
    for name in ("lstm", "gru"):
        model = language_model(cells.by_name(name), 2, False, 0)
        ids = torch.randint(SIZE, (20,), generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            _, state = model.recurrent(model.embedding(ids[:8, None]))
        mine = engine.page.evaluate(READ, model_as_data(model, state) | {"ids": ids[8:].tolist()})
        exact = reference(model.double(), ids)["predictions"][8:]
        assert flat(mine["predictions"]) == pytest.approx(exact.flatten().tolist(), abs=1e-4)


def test_an_edit_reads_again_only_what_follows_it(engine: Opened):
    data = model_as_data(language_model(cells.peephole_lstm, 2, False, 0))
    work, same, fresh = engine.page.evaluate(
        """(data) => {
          const network = new Network(data), ids = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], count = (what) => ((network.work = 0), what(), network.work);
          const old = network.advance(network.begin(ids)), edited = [...ids.slice(0, 6), 0, ...ids.slice(7), 11];
          let trace;
          const work = [
            count(() => (trace = network.advance(network.begin(edited, old)))),
            count(() => network.advance(network.begin(ids.slice(0, 4), old))),
            count(() => network.advance(network.begin([...ids, 3], old))),
            count(() => network.advance(network.begin([0, ...ids], old))),
            count(() => network.back(trace, 4, 2)),
          ];
          const whole = network.advance(network.begin(edited)), all = (t) => [...t.nats, ...t.values.flatMap((v) => [...v])];
          return [work, all(trace), all(whole)];
        }""",
        data,
    )
    assert work == [2 * 5, 0, 2 * 1, 2 * 11, 2 * 5]
    assert same == fresh  # to the bit


def test_nothing_goes_on_where_no_gradient_is_left(engine: Opened):
    def step(x, R, s):
        return State(h=tanh(x.h) + 0 * (R.h @ s.h))

    data = model_as_data(language_model(Cell(step, gates=("h",), name="forgetful"), 1, False, 0))
    work = engine.page.evaluate(
        "(data) => { const n = new Network(data), t = n.advance(n.begin([1, 2, 3, 4, 5, 6, 7, 8, 9])); n.work = 0; n.back(t, 8, 0); return n.work; }",
        data,
    )
    assert work == 2
