"""Pictures of a network: gates and gradients against a computation of their own, which units, panels and labels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

import elman as library
from elman import charts
from elman.datasets.vocabulary import Bytes, Characters, Words
from elman.errors import InputError
from elman.explain import memory, pictures
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


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.0, "looks back over 1 character: each one before them counts less than a thousandth of what counts most"),
        (0.05, "looks back over 3 characters: each one before"),  # 1, 1/20, 1/400, 1/8000
        (1.0, "looks back over the whole text, 9 characters: even the first counts at least a thousandth"),
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
    assert f"the last prediction {said}" in out


@pytest.mark.parametrize(
    ("norms", "far"),
    [
        ([1.0], 1),
        ([0.0, 0.0], 0),
        ([0.0, 1.0, 0.0], 2),
        ([0.0011, 0.0001, 1.0], 3),  # the first that counts, whatever lies between
        ([0.0009, 0.0011, 1.0], 2),
        ([0.011, 0.0099, 10.0], 3),  # of the largest
    ],
)
def test_how_far_back_is_to_the_first_that_counts(norms: list[float], far: int):
    assert memory.reach(norms) == far


@pytest.mark.parametrize("layers", [1, 2])
def test_gradients_by_token_against_finite_differences(layers: int):
    model = network("lstm", num_layers=layers).eval()
    ids = torch.from_numpy(VOCABULARY.encode(TEXT).copy()).long()
    x, epsilon = model.embedding(ids[:-1, None]).detach(), 1e-6

    def loss(x: Tensor) -> float:
        logits = model.logits(model.recurrent(x)[0][-1])
        return float(torch.nn.functional.cross_entropy(logits, ids[-1:]))

    exact = torch.zeros_like(x)
    with torch.no_grad():
        for place in np.ndindex(*x.shape):
            push = torch.zeros_like(x)
            push[place] = epsilon
            exact[place] = (loss(x + push) - loss(x - push)) / (2 * epsilon)
    assert memory.gradients_by_token(model, ids).tolist() == pytest.approx(exact[:, 0].norm(dim=1).tolist(), rel=1e-4)


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


def test_a_character_of_several_bytes_is_shown_where_it_is_complete():
    model = LanguageModel(256, tiny())
    assert look(model, Bytes(), "aé中!", 1).tokens == ["a", "", "é", "", "", "中", "!"]


def test_what_the_vocabulary_lacks_is_shown_as_it_is_written():
    model = LanguageModel(len(VOCABULARY.symbols) + 1, tiny())
    assert look(model, VOCABULARY, "abΩ中c", 1).tokens == ["a", "b", "Ω", "中", "c"]
    words = Words([" cat", " the"])
    assert look(LanguageModel(3, tiny()), words, " the zebra cat", 1).tokens == [" the", " zebra", " cat"]


# Which units


def changing(steps: int = 59) -> dict[str, Tensor]:
    """Cell states along a text, by what they do."""
    draw, time = torch.Generator().manual_seed(1), torch.arange(steps) / steps
    name = ((time > 0.2) & (time < 0.35)) | ((time > 0.6) & (time < 0.75))  # twice, as long as a name is
    return {
        "constant": torch.full((steps,), 3.0),
        "nearly constant": 3 + 1e-3 * name,
        "next to nothing": 1e-6 * name,
        "noise": torch.randn(steps, generator=draw),
        "flickers": torch.tensor([1.0, -1.0]).repeat(steps)[:steps],
        "drifts": 4 * time - 1,
        "fills up": 2 * (1 - torch.exp(-3 * time)),
        "switches": name.double() + 0.1 * torch.randn(steps, generator=draw),
        "switches off": 2 - 2.0 * name,
        "second line": (time > 0.5).double() - 0.5 + 0.1 * torch.randn(steps, generator=draw),
    }


def test_units_that_switch_remember_and_those_that_flicker_do_not():
    units = changing()
    remembers = dict(
        zip(units, memory.remembering(torch.stack(list(units.values()), 1).double()).tolist(), strict=True)
    )
    switching = {"switches", "switches off", "second line"}
    assert min(remembers[name] for name in switching) > 3 * max(remembers[name] for name in units.keys() - switching)
    assert remembers["constant"] == remembers["nearly constant"] == remembers["next to nothing"] == 0.0


def test_remembering_by_its_definition():
    """Unit by unit and lag by lag, in numpy."""
    states = torch.randn(40, 5, generator=torch.Generator().manual_seed(2)).cumsum(0) + 1
    for unit, score in zip(states.T.double().numpy(), memory.remembering(states), strict=True):
        time = np.arange(40.0)
        x = unit - np.polyval(np.polyfit(time, unit, 1), time)
        correlation = [1.0]
        while correlation[-1] > 0 and len(correlation) < 40:
            lag = len(correlation)
            correlation.append(float(np.sum(x[:-lag] * x[lag:]) / np.sum(x * x)))
        tau, s = sum(r for r in correlation if r > 0), np.mean(x * x) / np.mean(unit * unit)
        assert float(score) == pytest.approx(s * (tau - 1))


def test_remembering_does_not_care_for_sign_or_scale():
    states = torch.randn(30, 4, generator=torch.Generator().manual_seed(3)).cumsum(0)
    assert torch.allclose(memory.remembering(states), memory.remembering(-7 * states))


def test_where_no_unit_remembers_those_that_vary_most_are_shown():
    insight = insight_of(list("abc"), states=("h",))  # two steps: all there is, is a trend
    insight.states["h"][:] = torch.tensor([[1.0, 0, 0, 2, 0, 0], [1, 1, 2, 2, 0, -3]])
    (panel,) = panels_of(pictures.memory(insight, "", 3, ["h"]))
    assert labels(panel.get_yticklabels()) == ["5", "2", "1"]


# Panels


def insight_of(tokens: list[str], hidden: int = 6, states: tuple[str, ...] = ("h", "c")) -> Insight:
    steps, generator = len(tokens) - 1, torch.Generator().manual_seed(0)
    gates = {name: torch.rand(steps, hidden, generator=generator) for name in ("i", "f")}
    values = {name: torch.randn(steps, hidden, generator=generator) for name in states}
    values[states[-1]][:, hidden - 2] = torch.linspace(-1, 1, steps).abs()  # the unit before the last is slow
    return Insight(tokens, gates, values, {name: np.logspace(-3, 0, steps) for name in states})


def panels_of(figure: Figure) -> list[Any]:
    return [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]


def labels(ticks: Iterable[Any]) -> list[str]:
    return [tick.get_text() for tick in ticks]


@pytest.mark.parametrize("states", [("h",), ("h", "c")], ids=["one state", "two states"])
def test_a_panel_for_every_gate_and_state(states: tuple[str, ...]):
    insight = insight_of(list("the cat sat"), states=states)
    figure = pictures.memory(insight, "a title", 3)
    panels = panels_of(figure)
    wanted = {"cell state c": insight.states["c"]} if len(states) > 1 else {}
    wanted |= {"output h": insight.states["h"], "gate i": insight.gates["i"], "gate f": insight.gates["f"]}
    assert [panel.get_ylabel() for panel in panels] == [
        *(f"{name}\nunit number" for name in wanted),
        "how far back\nthe loss looks",
    ]
    state = list(insight.states.values())[-1]
    remember, spread = memory.remembering(state).tolist(), state.std(0).tolist()
    units = sorted(range(6), key=lambda unit: (-remember[unit], -spread[unit]))[:3]
    assert units[0] == 4
    for panel, values in zip(panels, wanted.values(), strict=False):
        assert labels(panel.get_yticklabels()) == [str(unit) for unit in units]
        (image,) = panel.images
        largest = values[:, units].abs().max(0).values if values[:, units].abs().max() > 1 else 1
        assert np.asarray(image.get_array()) == pytest.approx((values[:, units] / largest).T.numpy())  # (units, T)
        assert image.get_clim() == (0 if values[:, units].min() >= 0 else -1, 1)
    bars = [axis.get_ylabel() for axis in figure.axes if axis.get_label() == "<colorbar>"]
    large = [f"{name[-1]} / largest |{name[-1]}|\nof the unit" for name in list(wanted)[:-2]]
    assert bars == [*large, "0 shut, 1 open", "0 shut, 1 open"]
    assert figure.get_suptitle() == "a title"


def test_an_elman_networks_gate_is_its_output_and_shown_once():
    insight = look(network("rnn"), VOCABULARY, TEXT, 1)
    assert [panel.get_ylabel().split("\n")[0] for panel in panels_of(pictures.memory(insight, "", 3))[:-1]] == [
        "output h"
    ]


def test_panels_may_be_chosen():
    insight = insight_of(list("the cat sat"))
    figure = pictures.memory(insight, "", 3, ["f", "c"])
    assert [panel.get_ylabel().split("\n")[0] for panel in panels_of(figure)] == ["gate f", "cell state c"]
    with pytest.raises(InputError, match="--panels got 'z'; this cell has c, h, i, f, gradient"):
        pictures.memory(insight, "", 3, ["c", "z"])


@pytest.mark.parametrize("chosen", [(), ("c",), ("gradient",)])
def test_the_text_stands_along_the_top_and_the_bottom(chosen: tuple[str, ...]):
    tokens = ["a", " ", "b", "\n", "\t", "end", "", "!"]
    figure = pictures.memory(insight_of(tokens), "", 16, chosen)
    figure.draw_without_rendering()
    first, *_, last = panels_of(figure) * 2
    seen = ["a", "␣", "b", "⏎", "⇥", "end", "·"]
    assert [tick.label2.get_text() for tick in first.xaxis.get_major_ticks() if tick.label2.get_visible()] == seen
    assert [tick.label1.get_text() for tick in last.xaxis.get_major_ticks() if tick.label1.get_visible()] == seen
    assert last.get_xlabel() == "the text" + (
        "; the loss is that of predicting '!' after it" if chosen != ("c",) else ""
    )
    if chosen != ("c",):
        assert last.get_yscale() == "log"
        assert labels(last.get_legend().get_texts()) == ["‖∂loss/∂h‖", "‖∂loss/∂c‖"]
    for panel in panels_of(figure)[1:-1]:
        assert not any(tick.label1.get_visible() or tick.label2.get_visible() for tick in panel.xaxis.get_major_ticks())


def test_of_a_long_text_the_end_is_shown():
    tokens = [str(n % 10) for n in range(200)]
    insight = insight_of(tokens)
    insight.states["c"][:120, 0] = torch.linspace(-2, 2, 120).abs()  # slow, but before the picture begins
    figure = pictures.memory(insight, "", 4)
    *maps, last = panels_of(figure)
    steps = pictures.SHOWN - 1  # the last token is named, as what is predicted
    assert labels(last.get_xticklabels()) == tokens[-pictures.SHOWN : -1]
    shown = memory.remembering(insight.states["c"][-steps:]).argsort(descending=True)[:4]
    assert labels(maps[0].get_yticklabels()) == [str(int(unit)) for unit in shown]
    assert int(memory.remembering(insight.states["c"]).argmax()) != shown[0]
    assert all(panel.images[0].get_array().shape == (4, steps) for panel in maps)
    for line in last.lines[:2]:
        assert line.get_ydata() == pytest.approx(insight.gradients["h"][-steps:])


@pytest.mark.parametrize(
    ("tokens", "first"),
    [
        (list("word " * 40), "word"),
        (list("a\nlong line of\tmany words and\n\n  more of them " * 3), "more"),
        ([" of", ",", " and", "-", "so"] * 30, " of"),  # words with the space before them
        (list("中" * 100), "中"),  # no word begins
    ],
)
def test_what_is_shown_of_a_long_text_begins_with_a_word(tokens: list[str], first: str):
    begin = pictures.shown(tokens)
    assert len(tokens) - pictures.SHOWN <= begin < len(tokens) - pictures.SHOWN // 2
    assert "".join(tokens[begin:]).startswith(first)
    assert pictures.shown(tokens[: pictures.SHOWN]) == 0  # all of it fits


@pytest.mark.usefixtures("no_pictures")
def test_explain_says_what_it_does_not_show(tmp_path: Path):
    options = tiny(epochs=1.0)
    for _ in begin(tmp_path / "run", corpus_of(tmp_path, prose(400), options), options).steps():
        pass
    said = "the picture shows the last {} of {} characters; the network reads all of them\n"
    for text, expected in (("the of and " * 9, said.format(59, 99)), ("the of and", "")):
        status, _, err = elman("explain", tmp_path / "run", "--text", text, "--panels", "c")
        assert (status, err) == (0, f"{expected}picture in {tmp_path / 'run' / 'gates.png'}\n")


@pytest.mark.parametrize("token", ["$", "$$", "\\", "_^{", "%", "\r", "\r\n", "é"])
def test_any_token_can_be_drawn(tmp_path: Path, token: str):
    """Neither as mathematics nor with a warning that a sign is missing."""
    path = tmp_path / "gates.png"
    charts.save(pictures.memory(insight_of(["a", token, "\n", " ", token, token]), "", 2, ["c"]), path)
    assert path.stat().st_size > 5000


def test_a_gradient_of_zero_is_left_out():
    insight = insight_of(list("abcdef"))
    insight.gradients["h"][1] = 0.0
    drawn = panels_of(pictures.memory(insight, "", 2))[-1].lines[0].get_ydata()
    assert np.isnan(drawn).tolist() == [False, True, False, False, False]


# The command


@pytest.mark.parametrize("cell", ["rnn", "gru_before", "coupled_peephole_lstm"])
def test_every_kind_of_cell_can_be_explained(tmp_path: Path, cell: str):
    options = tiny(cell=cell, num_layers=2, epochs=1.0)
    for _ in begin(tmp_path / "run", corpus_of(tmp_path, prose(400), options), options).steps():
        pass
    assert elman("explain", tmp_path / "run", "--text", "the of and", "--layer", 2).status == 0
    assert (tmp_path / "run" / "gates.png").stat().st_size > 10_000


def test_a_picture_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = tiny()
    task = begin(tmp_path / "run", corpus_of(tmp_path, prose(400), options), options).task
    Run(tmp_path / "run").save_tensors(MODEL, task.model.state_dict(), {})
    monkeypatch.setattr(pictures, "look", lambda *_: pytest.fail("it began to work"))
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "locked")  # root may write anywhere
    (tmp_path / "locked").mkdir()
    for name, said in (
        ("a.jpg", "pictures are not written as .jpg; choose png, svg or pdf"),
        ("none/a.png", "No such file or directory; make the directory"),
        ("file/a.png", "Not a directory; choose another place"),
        ("locked/a.png", "Permission denied; choose another place"),
        ("run", "it is a directory, which no file may replace; choose another name"),
    ):
        status, out, err = elman("explain", tmp_path / "run", "--text", "the of", "--output", tmp_path / name)
        assert (status, out) == (2, "")
        assert str(tmp_path / name) in err
        assert said in err
