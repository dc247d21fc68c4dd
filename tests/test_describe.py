"""`describe`, `trace` and `freeze`: of layers, of whole models, and of what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import elman
from elman import cells


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.first = elman.GRU(3, 4, bidirectional=True)
        self.rest = nn.ModuleList([elman.LSTM(8, 5), elman.RNN(8, 5)])

    def forward(self, ids: Tensor, *, lengths: Tensor) -> Any:
        x = self.first(self.embedding(ids), lengths=lengths)[0]
        return self.rest[0](x.tanh())


def test_a_whole_model() -> None:
    model, ids, lengths = Tagger(), torch.randint(7, (6, 3)), torch.tensor([6, 2, 4])
    found = elman.describe(model, ids, lengths=lengths)
    alone = elman.describe(model.first, torch.randn(6, 3, 3, requires_grad=True), lengths=lengths)
    assert list(found.layers) == ["first", "rest.0", "rest.1"]
    assert found.layers["first"] == alone
    assert found.layers["rest.0"] == elman.describe(model.rest[0], torch.randn(6, 3, 8, requires_grad=True))
    assert found.layers["rest.1"] is None
    first, second, third = str(found).split("\n\n")
    assert first == f"first: {alone}"
    assert second.startswith("rest.0: LSTM(8, 5)\n  engine      cpu: kernels")
    assert third == "rest.1: was not called"
    assert not any(layer._forward_pre_hooks for layer in model.modules())


def test_a_packed_sequence() -> None:
    of = elman.LSTM(3, 4)
    packed = elman.describe(of, pack_sequence([torch.randn(5, 3), torch.randn(2, 3)]))
    assert packed.flops * 14 == elman.describe(of, torch.randn(7, 2, 3)).flops * 7


NO_LAYERS: dict[str, tuple[Callable[[], Any], str]] = {
    "torch's": (
        lambda: nn.LSTM(3, 4),
        "got torch.nn.LSTM; elman.LSTM takes the same arguments and the same state_dict",
    ),
    "another module": (lambda: nn.Linear(3, 4), "got a Linear; make a layer such as elman.LSTM"),
    "an empty container": (lambda: nn.Sequential(), "got a Sequential; make a layer"),
    "a class": (lambda: elman.GRU, r"got the class GRU; make a layer of it: GRU\(input_size"),
    "one step": (lambda: elman.LSTMCell(3, 4), r"got a LSTMCell; it runs one step, and elman\.Recurrent"),
    "a cell": (lambda: cells.lstm, "got a Cell; make a layer"),
    "a tensor": (lambda: torch.ones(3), "got a Tensor; make a layer"),
    "a name": (lambda: "lstm", "got a str; make a layer"),
    "nothing": (lambda: None, "got a NoneType; make a layer"),
}
ASKED: dict[str, Callable[[Any], Any]] = {
    "describe": lambda value: elman.describe(value, torch.ones(2, 1, 3)),
    "trace": lambda value: elman.trace(value, torch.ones(2, 1, 3)),
    "freeze": elman.freeze,
}


@pytest.mark.parametrize("what", NO_LAYERS)
@pytest.mark.parametrize("asked", ASKED)
def test_what_is_no_layer(asked: str, what: str) -> None:
    make, message = NO_LAYERS[what]
    with pytest.raises(TypeError, match=rf"^elman\.{asked} takes a layer of elman, and {message}"):
        ASKED[asked](make())


@pytest.mark.parametrize("asked", ["trace", "freeze"])
def test_a_layer_inside_is_named(asked: str) -> None:
    with pytest.raises(TypeError, match=r"got a Tagger; give it a layer inside: model\.get_submodule\('first'\)"):
        ASKED[asked](Tagger())


def test_of_a_frozen_layer() -> None:
    of = elman.LSTM(3, 4)
    frozen, x = elman.freeze(of), torch.randn(2, 1, 3)
    assert elman.describe(frozen, x).flops == elman.describe(of, x).flops
    with torch.no_grad():
        torch.testing.assert_close(elman.trace(frozen, x).output, elman.trace(of, x).output)
    with pytest.warns(UserWarning, match="frozen"):  # also as a part of a model
        assert not nn.Sequential(frozen).state_dict()
