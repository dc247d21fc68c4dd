"""Pictures of a network: gates and gradients against a computation of their own, panels and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

import elman as library
from elman import charts
from elman.datasets.vocabulary import Bytes, Characters
from elman.errors import InputError
from elman.explain import pictures
from elman.explain.pictures import Insight, look
from elman.tasks.language_model import LanguageModel
from elman.training.loop import MODEL
from elman.training.run import Run
from tiny_runs import begin, corpus_of, elman, prose, tiny

VOCABULARY = Characters("\n abcdefgh")
TEXT = "abc dab\nch"
Array = NDArray[np.float64]


def network(cell: str, **changes: Any) -> LanguageModel:
    torch.manual_seed(3)
    model = LanguageModel(VOCABULARY.size, tiny(cell=cell, hidden_size=5, embedding_size=4, **changes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


# Gradients


class Reader:
    """A network read step by step in numpy, whose states can be pushed a little on the way."""

    def __init__(self, model: LanguageModel, cell: str):
        self.w: dict[str, Array] = {name: value.detach().numpy() for name, value in model.state_dict().items()}
        self.cell, self.layers = cell, model.recurrent.num_layers
        self.gates: dict[tuple[int, int], dict[str, Array]] = {}  # by step and layer

    def loss(self, ids: list[int], push: tuple[int, int, str, Array] | None = None) -> float:
        """Of predicting the last id. push: step, layer, state and what is added to it."""
        zero = np.zeros(self.w["recurrent.weight_hh_l0"].shape[1])
        h, c = [zero] * self.layers, [zero] * self.layers
        for t, token in enumerate(ids[:-1]):
            x = self.w["embedding.weight"][token]
            for layer in range(self.layers):
                pushed = {"h": zero, "c": zero}
                if push is not None and push[:2] == (t, layer):
                    pushed[push[2]] = push[3]
                h[layer], c[layer] = self.step(t, layer, x, h[layer], c[layer], pushed)
                x = h[layer]
        logits = self.w["output.weight"] @ h[-1] + self.w["output.bias"]
        return float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[ids[-1]])

    def step(self, t: int, layer: int, x: Array, h: Array, c: Array, pushed: dict[str, Array]) -> tuple[Array, Array]:
        w = {key: self.w[f"recurrent.{key}_l{layer}"] for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        a, b = w["weight_ih"] @ x + w["bias_ih"], w["weight_hh"] @ h + w["bias_hh"]
        size = len(h)

        def sigmoid(value: Array) -> Array:
            return 1 / (1 + np.exp(-value))

        if self.cell == "rnn":
            h = np.tanh(a + b)
            self.gates[t, layer] = {"h": h}
        elif self.cell == "lstm":
            i, f, g, o = (a + b).reshape(4, size)
            i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
            c = f * c + i * g + pushed["c"]
            h = o * np.tanh(c)
            self.gates[t, layer] = {"i": i, "f": f, "g": g, "o": o}
        else:
            (r, z, n), (r_h, z_h, n_h) = a.reshape(3, size), b.reshape(3, size)
            r, z = sigmoid(r + r_h), sigmoid(z + z_h)
            n = np.tanh(n + r * n_h)
            h = (1 - z) * n + z * h
            self.gates[t, layer] = {"r": r, "z": z, "n": n}
        return h + pushed["h"], c


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_gradients_and_gates_against_finite_differences(cell: str, layer: int):
    model = network(cell, num_layers=2)
    reader, ids, epsilon = Reader(model, cell), VOCABULARY.encode(TEXT).tolist(), 1e-5
    insight = look(model, VOCABULARY, TEXT, layer)
    steps, size = len(ids) - 1, 5
    assert list(insight.gradients) == (["h", "c"] if cell == "lstm" else ["h"])
    for state, norms in insight.gradients.items():
        exact = np.zeros((steps, size))
        for t in range(steps):
            for unit in range(size):
                up, down = (
                    reader.loss(ids, (t, layer - 1, state, sign * epsilon * np.eye(size)[unit])) for sign in (1, -1)
                )
                exact[t, unit] = (up - down) / (2 * epsilon)
        assert norms == pytest.approx(np.linalg.norm(exact, axis=1), rel=1e-6, abs=1e-9)
        assert norms.min() < norms.max() / 3  # it does change along the text

    reader.loss(ids)
    for name, values in insight.gates.items():
        assert values.shape == (steps, size)
        exact = np.stack([reader.gates[t, layer - 1][name] for t in range(steps)])
        assert values.numpy() == pytest.approx(exact, abs=1e-12)
    assert insight.gates.keys() == reader.gates[0, 0].keys()


@pytest.mark.parametrize("layer", [1, 2])
def test_gates_and_states_are_those_of_trace(layer: int):
    model = network("peephole_lstm", num_layers=2)
    insight = look(model, VOCABULARY, TEXT, layer)
    ids = torch.from_numpy(VOCABULARY.encode(TEXT).copy()).long()
    traced = library.trace(model.recurrent, model.embedding(ids[:-1, None])).recurrences[layer - 1]
    assert list(insight.gates) == ["i", "f", "g", "o"]
    for mine, theirs in ((insight.gates, traced.gates), (insight.states, traced.states)):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert torch.equal(value, theirs[name][:, 0])
            assert not value.requires_grad


def forgetting(share: float) -> LanguageModel:
    """An LSTM that remembers through c alone, and keeps that share of it at each step."""
    model = network("lstm")
    weights = dict(model.recurrent.named_parameters())
    with torch.no_grad():
        weights["weight_hh_l0"].zero_()
        weights["weight_ih_l0"][5:10] = 0.0  # the rows of f
        weights["bias_hh_l0"][5:10] = 0.0
        weights["bias_ih_l0"][5:10] = torch.tensor(share, dtype=torch.float64).logit()
    return model


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_forget_gate_decides_how_far_back_it_looks(share: float):
    norms = look(forgetting(share), VOCABULARY, TEXT, 1).gradients["c"]
    assert norms[-1] > 0
    assert norms / norms[-1] == pytest.approx(share ** np.arange(len(norms))[::-1], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.0, "falls below a thousandth of its largest value 1 characters back"),
        (1.0, "stays above a thousandth of its largest value"),
    ],
)
def test_explain_says_how_far_back(tmp_path: Path, share: float, said: str):
    options = tiny(hidden_size=5, embedding_size=4)
    corpus = corpus_of(tmp_path, "\n abcdefgh" * 30, options)
    assert corpus.vocabulary.size == VOCABULARY.size
    begin(tmp_path / "run", corpus, options)
    Run(tmp_path / "run").save_tensors(MODEL, forgetting(share).float().state_dict(), {})
    status, out, _ = elman("explain", tmp_path / "run", "--text", TEXT)
    assert status == 0
    assert f"gradient of state c: {said}\n" in out


def test_the_network_is_left_as_it_was():
    model = network("lstm", dropout=0.5).train()
    before = torch.get_rng_state()
    with torch.no_grad():  # it differentiates all the same
        first = look(model, VOCABULARY, TEXT, 1)
    assert np.array_equal(first.gradients["h"], look(model, VOCABULARY, TEXT, 1).gradients["h"])  # without dropout
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("layer", [0, 3, -1])
def test_layers_are_counted_from_one(layer: int):
    with pytest.raises(InputError, match=f"--layer must lie between 1 and 2, .*got {layer}"):
        look(network("lstm", num_layers=2), VOCABULARY, TEXT, layer)


def test_three_tokens_are_enough():
    for text in ("", "a", "ab"):
        with pytest.raises(InputError, match=f"the text has {len(text)} tokens; give at least 3"):
            look(network("lstm"), VOCABULARY, text, 1)
    insight = look(network("lstm"), VOCABULARY, "abc", 1)
    assert insight.tokens == ["a", "b", "c"]
    assert len(insight.gradients["h"]) == 2


@pytest.mark.parametrize("text", ["ab\udcff", "\ud800"])
def test_text_that_is_no_text(text: str):
    model = LanguageModel(256, tiny())
    with pytest.raises(InputError):
        look(model, Bytes(), text, 1)


# Panels


def insight_of(tokens: list[str], hidden: int = 6, states: tuple[str, ...] = ("h", "c")) -> Insight:
    steps, generator = len(tokens) - 1, torch.Generator().manual_seed(0)
    activity = torch.arange(1, hidden + 1) % hidden + 0.1  # the unit before the last varies most, the last least
    gates = {name: torch.rand(steps, hidden, generator=generator) for name in ("i", "f")}
    values = {name: torch.randn(steps, hidden, generator=generator) * activity * 0.1 for name in states}
    return Insight(tokens, gates, values, {name: np.logspace(-3, 0, steps) for name in states})


def panels_of(figure: Figure) -> list[Any]:
    return [axis for axis in figure.axes if axis.get_ylabel()]


@pytest.mark.parametrize("states", [("h",), ("h", "c")], ids=["one state", "two states"])
def test_a_panel_for_every_gate_and_state(states: tuple[str, ...]):
    insight = insight_of(list("the cat sat"), states=states)
    figure = pictures.memory(insight, "a title", 3)
    panels = panels_of(figure)
    wanted = {"gate i": insight.gates["i"], "gate f": insight.gates["f"]}
    wanted |= {"state c": insight.states["c"]} if len(states) > 1 else {}
    wanted |= {"output h": insight.states["h"]}
    assert [panel.get_ylabel() for panel in panels] == [
        *(f"{name}\n(3 units)" for name in wanted),
        "how far back\nthe loss looks",
    ]
    spread = insight.states["h"].std(0)
    active = sorted(range(6), key=lambda unit: -float(spread[unit]))[:3]
    for panel, values in zip(panels, wanted.values(), strict=False):
        (image,) = panel.images
        assert np.asarray(image.get_array()) == pytest.approx(values[:, active].T.numpy())  # (units, T)
        low, high = image.get_clim()
        assert low == (0 if values[:, active].min() >= 0 else -high)
        assert high >= values[:, active].abs().max()
    assert figure.get_suptitle() == "a title"


def test_the_text_stands_along_the_bottom():
    tokens = ["a", " ", "b", "\n", "\t", "end", "!"]
    figure = pictures.memory(insight_of(tokens), "", 16)
    last = panels_of(figure)[-1]
    assert [label.get_text() for label in last.get_xticklabels()] == ["a", "␣", "b", "⏎", "⇥", "end"]
    assert "predicting '!' after it" in last.get_xlabel()
    assert last.get_yscale() == "log"
    assert [text.get_text() for text in last.get_legend().get_texts()] == ["‖∂loss/∂h‖", "‖∂loss/∂c‖"]
    assert all("(6 units)" in panel.get_ylabel() for panel in panels_of(figure)[:-1])  # there are no more


def test_of_a_long_text_the_end_is_shown():
    tokens = [str(n % 10) for n in range(200)]
    insight = insight_of(tokens)
    figure = pictures.memory(insight, "", 4)
    *maps, last = panels_of(figure)
    assert [label.get_text() for label in last.get_xticklabels()] == tokens[199 - pictures.SHOWN : 199]
    assert all(panel.images[0].get_array().shape == (4, pictures.SHOWN) for panel in maps)
    for line in last.lines[:2]:
        assert line.get_ydata() == pytest.approx(insight.gradients["h"][-pictures.SHOWN :])


@pytest.mark.parametrize("token", ["$", "$$", "\\", "_^{", "%", "\r", "\r\n", "é"])
def test_any_token_can_be_drawn(tmp_path: Path, token: str):
    """Neither as mathematics nor with a warning that a sign is missing."""
    path = tmp_path / "gates.png"
    charts.save(pictures.memory(insight_of(["a", token, "\n", " ", token, token]), "", 2), path)
    assert path.stat().st_size > 5000


def test_a_gradient_of_zero_is_left_out():
    insight = insight_of(list("abcdef"))
    insight.gradients["h"][1] = 0.0
    drawn = panels_of(pictures.memory(insight, "", 2))[-1].lines[0].get_ydata()
    assert np.isnan(drawn).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("cell", ["rnn", "gru_before", "coupled_peephole_lstm"])
def test_every_kind_of_cell_can_be_explained(tmp_path: Path, cell: str):
    options = tiny(cell=cell, num_layers=2, epochs=1.0)
    for _ in begin(tmp_path / "run", corpus_of(tmp_path, prose(400), options), options).steps():
        pass
    assert elman("explain", tmp_path / "run", "--text", "the of and", "--layer", 2).status == 0
    assert (tmp_path / "run" / "gates.png").stat().st_size > 10_000
