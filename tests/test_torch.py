"""RNN, LSTM and GRU in the place of torch.nn's: same names, numbers, shapes and errors.

What can be asserted without knowing which library runs is asserted of both.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import elman
from cases import as_tuple, gradients, hidden, normal, run

# torch.nn.LSTM(proj_size=...) in float32 says so, once in a process
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

INPUT, HIDDEN, STEPS, BATCH = 5, 4, 6, 3

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "RNN": ("RNN", {}),
    "RNN-relu": ("RNN", {"nonlinearity": "relu"}),
    "LSTM": ("LSTM", {}),
    "LSTM-proj": ("LSTM", {"proj_size": 3}),
    "GRU": ("GRU", {}),
}


def make(library: ModuleType, kind: str, *args: Any, **options: Any) -> Any:
    name, own = KINDS[kind]
    return getattr(library, name)(*(args or (INPUT, HIDDEN)), **own, **options)


def pair(kind: str, **options: Any) -> tuple[Any, Any]:
    """torch.nn's layer and ours with its state_dict."""
    torch.manual_seed(0)
    theirs = make(torch.nn, kind, dtype=torch.float64, **options)
    ours = make(elman, kind, dtype=torch.float64, **options)
    with torch.no_grad():
        for p in theirs.parameters():
            p.mul_(2)
    assert ours.load_state_dict(theirs.state_dict(), strict=True).missing_keys == []
    return theirs, ours


def data(of: Any, batched: bool = True) -> tuple[Tensor, tuple[Tensor, ...]]:
    shape = (STEPS, BATCH, INPUT) if batched else (STEPS, INPUT)
    if of.batch_first and batched:
        shape = (BATCH, STEPS, INPUT)
    dtype = next(of.parameters()).dtype
    rows = of.num_layers * (2 if of.bidirectional else 1)
    widths = [of.proj_size or HIDDEN, HIDDEN] if "LSTM" in type(of).__name__ else [HIDDEN]
    states = tuple(
        normal(*((rows, BATCH, w) if batched else (rows, w)), seed=2 + k, dtype=dtype) for k, w in enumerate(widths)
    )
    return normal(*shape, seed=1, dtype=dtype), states


def close(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    assert [m.shape for m in mine] == [t.shape for t in theirs]
    assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


libraries = pytest.mark.parametrize("library", [torch.nn, elman], ids=["torch", "elman"])
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.parametrize("batch_first", [False, True], ids=["time-first", "batch-first"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["uni", "bi"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@kinds
def test_same_results_and_gradients(kind: str, layers: int, bidirectional: bool, bias: bool, batch_first: bool) -> None:
    theirs, ours = pair(kind, num_layers=layers, bidirectional=bidirectional, bias=bias, batch_first=batch_first)
    x, states = data(theirs)
    close(run(ours, x, states), run(theirs, x, states))
    close(gradients(ours, x, states), gradients(theirs, x, states))


@kinds
def test_without_initial_state(kind: str) -> None:
    theirs, ours = pair(kind, num_layers=2, bidirectional=True)
    x, states = data(theirs)
    output, h_n = ours(x)
    close((output, *as_tuple(h_n)), run(theirs, x, tuple(torch.zeros_like(s) for s in states)))
    close((output, *as_tuple(h_n)), run(ours, x, tuple(torch.zeros_like(s) for s in states)))


@pytest.mark.parametrize("batch_first", [False, True], ids=["time-first", "batch-first"])
@kinds
def test_unbatched(kind: str, batch_first: bool) -> None:
    theirs, ours = pair(kind, num_layers=2, bidirectional=True, batch_first=batch_first)
    x, states = data(theirs, batched=False)
    close(run(ours, x, states), run(theirs, x, states))
    close(gradients(ours, x, states), gradients(theirs, x, states))
    output, h_n = theirs(x)
    mine, m_n = ours(x)
    close((mine, *as_tuple(m_n)), (output, *as_tuple(h_n)))


@kinds
def test_an_empty_batch(kind: str) -> None:
    theirs, ours = pair(kind)
    x, states = data(theirs)
    none = tuple(s[:, :0] for s in states)
    close(run(ours, x[:, :0], none), run(theirs, x[:, :0], none))


@kinds
def test_state_may_be_a_list(kind: str) -> None:
    theirs, ours = pair(kind)
    x, states = data(theirs)
    form = states[0] if len(states) == 1 else list(states)
    output, h_n = ours(x, form)
    close((output, *as_tuple(h_n)), run(theirs, x, states))


@kinds
def test_hx_and_result_have_torchs_form(kind: str) -> None:
    theirs, ours = pair(kind)
    x, states = data(theirs)
    for hx in (None, hidden(states)):
        mine, torchs = ours(x, hx), theirs(x, hx)
        assert type(mine) is type(torchs) is tuple
        assert type(mine[1]) is type(torchs[1])


# Parameters.

DEEP = {"num_layers": 3, "bidirectional": True}


@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, DEEP, {**DEEP, "bias": False}], ids=["plain", "nobias", "deep", "deep-nobias"]
)
@kinds
def test_same_seed_gives_the_same_parameters(kind: str, options: dict[str, Any]) -> None:
    torch.manual_seed(3)
    theirs = make(torch.nn, kind, **options)
    following = torch.rand(3)
    torch.manual_seed(3)
    ours = make(elman, kind, **options)
    assert torch.equal(torch.rand(3), following)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for mine, torchs in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, torchs)
    torch.manual_seed(4)
    theirs.reset_parameters()
    torch.manual_seed(4)
    ours.reset_parameters()
    for mine, torchs in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, torchs)


@kinds
def test_all_weights(kind: str) -> None:
    theirs, ours = pair(kind, num_layers=2, bidirectional=True)
    assert len(ours.all_weights) == len(theirs.all_weights) == 4
    for mine, torchs in zip(ours.all_weights, theirs.all_weights, strict=True):
        assert [tuple(p.shape) for p in mine] == [tuple(p.shape) for p in torchs]
        assert all(torch.equal(m, t) for m, t in zip(mine, torchs, strict=True))
        assert all(any(m is p for p in ours.parameters()) for m in mine)


@kinds
def test_torch_loads_ours(kind: str) -> None:
    theirs, ours = pair(kind, num_layers=2)
    x, states = data(theirs)
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(0.1)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    close(run(ours, x, states), run(theirs, x, states))


@libraries
@kinds
def test_strict_loading_refuses_another_shape(library: ModuleType, kind: str) -> None:
    shallow, deep = make(library, kind), make(library, kind, num_layers=2)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        shallow.load_state_dict(deep.state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        deep.load_state_dict(shallow.state_dict())
    with pytest.raises(RuntimeError, match="size mismatch"):
        shallow.load_state_dict(make(library, kind, INPUT + 1, HIDDEN).state_dict())


@libraries
@kinds
def test_attributes_and_dtype(library: ModuleType, kind: str) -> None:
    of = make(
        library, kind, num_layers=2, bias=False, batch_first=True, dropout=0.5, bidirectional=True, dtype=torch.bfloat16
    )
    assert (of.input_size, of.hidden_size, of.num_layers) == (INPUT, HIDDEN, 2)
    assert (of.bias, of.batch_first, of.dropout, of.bidirectional) == (False, True, 0.5, True)
    assert of.proj_size == (3 if kind == "LSTM-proj" else 0)
    assert {p.dtype for p in of.parameters()} == {torch.bfloat16}
    if library is elman or kind not in ("LSTM-proj",):
        assert {t.dtype for t in run(of, *data(of))} == {torch.bfloat16}
    of.flatten_parameters()
    assert of.double().weight_ih_l1_reverse.dtype == torch.float64


@libraries
def test_positional_order(library: ModuleType) -> None:
    lstm = library.LSTM(5, 4, 2, False, True, 0.25, True, 3)
    gru = library.GRU(5, 4, 2, False, True, 0.25, True)
    rnn = library.RNN(5, 4, 2, "relu", False, True, 0.25, True)
    assert rnn.nonlinearity == "relu"
    assert lstm.proj_size == 3
    for of in (lstm, gru, rnn):
        assert (
            of.input_size,
            of.hidden_size,
            of.num_layers,
            of.bias,
            of.batch_first,
            of.dropout,
            of.bidirectional,
        ) == (5, 4, 2, False, True, 0.25, True)


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_names_of_the_arguments(kind: str) -> None:
    """torch's signatures are (*args, **kwargs); these are the documented ones."""
    order = [
        "input_size",
        "hidden_size",
        "num_layers",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
        "device",
        "dtype",
    ]
    if kind == "RNN":
        order.insert(3, "nonlinearity")
    else:
        order.insert(7, "proj_size")
    parameters = inspect.signature(getattr(elman, kind)).parameters.values()
    assert [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY] == order
    assert list(inspect.signature(getattr(elman, kind).forward).parameters)[:3] == ["self", "input", "hx"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2},
        {"bias": False},
        {"batch_first": True},
        {"bidirectional": True},
        {"num_layers": 3, "bias": False, "batch_first": True, "dropout": 0.5, "bidirectional": True},
    ],
    ids=lambda o: "-".join(o) or "plain",
)
@kinds
def test_repr(kind: str, options: dict[str, Any]) -> None:
    assert repr(make(elman, kind, **options)) == repr(make(torch.nn, kind, **options))


# Dropout.


@pytest.mark.parametrize("bidirectional", [False, True], ids=["uni", "bi"])
@pytest.mark.parametrize("p", [0.4, 1.0])
@kinds
def test_dropout_between_layers(kind: str, p: float, bidirectional: bool) -> None:
    theirs, ours = pair(kind, num_layers=3, dropout=p, bidirectional=bidirectional)
    x, states = data(theirs)

    def seeded(of: Any) -> tuple[Tensor, ...]:
        torch.manual_seed(5)
        return run(of, x, states)

    close(seeded(ours), seeded(theirs))
    dropped, again = run(ours, x, states), run(ours, x, states)
    assert torch.equal(dropped[0], again[0]) == (p == 1.0)
    ours.eval()
    theirs.eval()
    close(run(ours, x, states), run(theirs, x, states))
    assert torch.equal(run(ours, x, states)[0], run(ours, x, states)[0])
    assert not torch.allclose(run(ours, x, states)[0], dropped[0])


@libraries
@kinds
def test_dropout_leaves_the_last_layer_and_the_states_alone(library: ModuleType, kind: str) -> None:
    of = make(library, kind, num_layers=2, dropout=0.9)
    x, states = data(of)
    output, *h_n = run(of, x, states)
    of.eval()
    clean = run(of, x, states)
    if kind != "RNN-relu":
        assert (output != 0).all()
    assert_close(h_n[0][0], clean[1][0])  # the first layer's final state
    assert not torch.allclose(h_n[0][1], clean[1][1])
    assert_close(output[-1], h_n[0][1])


@libraries
@kinds
def test_dropout_with_one_layer_warns_at_the_callers_line(library: ModuleType, kind: str) -> None:
    with pytest.warns(UserWarning, match=r"num_layers greater than 1, but got dropout=0\.5 and num_layers=1") as caught:
        make(library, kind, dropout=0.5)
    if library is elman:
        assert caught[0].filename == __file__


# Errors: the same type for the same mistake.


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ValueError, {"hidden_size": 0}),
        (ValueError, {"hidden_size": -1}),
        (ValueError, {"input_size": 0}),
        (ValueError, {"num_layers": 0}),
        (ValueError, {"dropout": 1.5}),
        (ValueError, {"dropout": -0.1}),
        (ValueError, {"dropout": True}),
        (ValueError, {"dropout": "half"}),
        (TypeError, {"bias": "yes"}),
        (TypeError, {"bias": 1}),
        (TypeError, {"batch_first": "yes"}),
        (TypeError, {"hidden_size": 4.0}),
        (TypeError, {"input_size": 5.0}),
        (TypeError, {"num_layers": 1.5}),
        (TypeError, {"width": 3}),
    ],
    ids=lambda v: "-".join(f"{k}={x}" for k, x in v.items()) if isinstance(v, dict) else None,
)
@libraries
@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_errors_of_the_constructor(
    name: str, library: ModuleType, error: type[Exception], options: dict[str, Any]
) -> None:
    with pytest.raises(error) as caught:
        getattr(library, name)(**{"input_size": INPUT, "hidden_size": HIDDEN, **options})
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("RNN", {"nonlinearity": "sigmoid"}),
        ("LSTM", {"proj_size": HIDDEN}),
        ("LSTM", {"proj_size": HIDDEN + 1}),
        ("LSTM", {"proj_size": -1}),
        ("GRU", {"proj_size": 2}),
        ("RNN", {"proj_size": 2}),
    ],
    ids=str,
)
@libraries
def test_value_errors_of_the_constructor(library: ModuleType, name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        getattr(library, name)(INPUT, HIDDEN, **options)


@pytest.mark.parametrize("nonlinearity", ["Tanh", "", None])
@libraries
def test_nonlinearity(library: ModuleType, nonlinearity: Any) -> None:
    with pytest.raises(ValueError, match="nonlinearity"):
        library.RNN(INPUT, HIDDEN, nonlinearity=nonlinearity)


x_of: Callable[..., Tensor] = torch.zeros


@pytest.mark.parametrize(
    ("error", "x"),
    [
        (ValueError, x_of(1, STEPS, BATCH, INPUT)),
        (ValueError, x_of(INPUT)),
        (RuntimeError, x_of(STEPS, BATCH, INPUT + 1)),
        (RuntimeError, x_of(STEPS, INPUT - 1)),
        (ValueError, x_of(STEPS, BATCH, INPUT, dtype=torch.float64)),
        (ValueError, x_of(STEPS, BATCH, INPUT, dtype=torch.float16)),
        (ValueError, x_of(STEPS, BATCH, INPUT, dtype=torch.int64)),
        (RuntimeError, x_of(0, BATCH, INPUT)),
        (RuntimeError, x_of(0, INPUT)),
    ],
    ids=["4D", "1D", "size", "size-unbatched", "double", "half", "int", "no-steps", "no-steps-unbatched"],
)
@libraries
@kinds
def test_errors_of_the_input(kind: str, library: ModuleType, error: type[Exception], x: Tensor) -> None:
    with pytest.raises(error) as caught:
        make(library, kind)(x)
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("batched", "change"),
    [
        (True, lambda h: h[0]),
        (True, lambda h: h[None]),
        (True, lambda h: h[:, :1]),
        (True, lambda h: h[:1]),
        (True, lambda h: torch.cat([h, h])),
        (True, lambda h: torch.cat([h, h], dim=2)),
        (True, lambda h: h.transpose(0, 1)),
        (False, lambda h: h[0]),
        (False, lambda h: h[:, None]),
        (False, lambda h: h[:, 1:]),
    ],
    ids=[
        "2D",
        "4D",
        "batch",
        "rows-few",
        "rows-many",
        "width",
        "transposed",
        "unbatched-1D",
        "unbatched-3D",
        "unbatched-width",
    ],
)
@pytest.mark.parametrize("which", [0, -1], ids=["first", "last"])
@libraries
@kinds
def test_errors_of_the_state(
    kind: str, library: ModuleType, which: int, batched: bool, change: Callable[[Tensor], Tensor]
) -> None:
    of = make(library, kind, num_layers=2, dtype=torch.float64)
    x, states = data(of, batched)
    wrong = list(states)
    wrong[which] = change(wrong[which])
    with pytest.raises(RuntimeError):
        of(x, hidden(tuple(wrong)))


@pytest.mark.parametrize("steps", [1, STEPS])
@pytest.mark.parametrize("which", [0, -1], ids=["first", "last"])
@libraries
@kinds
def test_state_of_another_dtype(kind: str, library: ModuleType, which: int, steps: int) -> None:
    of = make(library, kind)
    x, states = data(of)
    wrong = list(states)
    wrong[which] = wrong[which].double()
    with pytest.raises(RuntimeError):
        of(x[:steps], hidden(tuple(wrong)))


@pytest.mark.parametrize("count", [1, 3])
@libraries
def test_lstm_needs_two_states(library: ModuleType, count: int) -> None:
    with pytest.raises((RuntimeError, IndexError)):
        library.LSTM(INPUT, HIDDEN)(x_of(STEPS, BATCH, INPUT), (x_of(1, BATCH, HIDDEN),) * count)


def test_messages_carry_both_sizes() -> None:
    lstm = elman.LSTM(INPUT, HIDDEN, num_layers=2)
    with pytest.raises(RuntimeError, match=r"input_size. Expected 5, got 7: input is \(6, 3, 7\)"):
        lstm(x_of(STEPS, BATCH, 7))
    with pytest.raises(
        RuntimeError, match=r"Expected hidden\[1\] size \(2, 3, 4\), got \[2, 1, 4\]: c must be \(2 layers"
    ):
        lstm(x_of(STEPS, BATCH, INPUT), (x_of(2, BATCH, HIDDEN), x_of(2, 1, HIDDEN)))
    with pytest.raises(RuntimeError, match=r"a tuple of 2 tensors \(h, c\), got one tensor"):
        lstm(x_of(STEPS, BATCH, INPUT), x_of(2, BATCH, HIDDEN))
    with pytest.raises(
        ValueError,
        match=r"float64\) does not match weight dtype \(torch.float32\). Convert input: input.to\(torch.float32\)",
    ):
        lstm(x_of(STEPS, BATCH, INPUT).double())
    whole = torch.ones(STEPS, BATCH, INPUT).long()
    with pytest.raises(
        ValueError,
        match=r"\(torch.int64\) does not match weight dtype \(torch.float32\). Convert input: input.to\(torch.float32\), "
        r"or give token numbers to an nn.Embedding first$",
    ):
        lstm(whole)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, h: nn.Sequential(elman.GRU(5, 5), elman.GRU(5, 4))(x),
            "GRU: input must be a tensor, got tuple; if it comes from another layer, write output, h_n = layer(x) and",
        ),
        (
            lambda x, h: elman.GRU(5, 4)(x.numpy()),
            "GRU: input must be a tensor, got ndarray; convert it: torch.as_tensor(input, dtype=torch.float32)",
        ),
        (
            lambda x, h: elman.GRU(5, 4, dtype=torch.float64)(x.tolist()),
            "GRU: input must be a tensor, got list; convert it: torch.as_tensor(input, dtype=torch.float64)",
        ),
        (lambda x, h: elman.GRU(5, 4)(None), "GRU: input must be a tensor, got NoneType"),
        (lambda x, h: elman.GRU(5, 4)(x, 0.0), "GRU: hx must be one tensor, got float; give hx=h, or leave it out"),
        (
            lambda x, h: elman.LSTM(5, 4)(x, (h, None)),
            "LSTM: hx must be a tuple of 2 tensors (h, c), got (Tensor, NoneType); give hx=(h, c), or leave it out",
        ),
        (
            lambda x, h: elman.LSTM(5, 4)(x, {"h": h, "c": h}),
            "LSTM: hx must be a tuple of 2 tensors (h, c), got dict; give hx=(h, c), or leave it out",
        ),
    ],
    ids=["tuple", "array", "list", "None", "hx number", "hx None", "hx dict"],
)
def test_what_is_no_tensor_is_named(call: Callable[[Any, Any], Any], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        call(x_of(STEPS, BATCH, INPUT), x_of(1, BATCH, HIDDEN))


@pytest.mark.parametrize("grad", [True, False])
def test_a_sparse_input_is_named(grad: bool) -> None:
    message = "the input has the layout torch.sparse_coo but must be dense; make it so with .to_dense"
    with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match=message):
        elman.GRU(INPUT, HIDDEN)(x_of(STEPS, BATCH, INPUT).to_sparse())


@pytest.mark.parametrize("name", ["GRU", "LSTMCell"])
@libraries
def test_weights_of_whole_numbers_are_refused(library: ModuleType, name: str) -> None:
    with pytest.raises(RuntimeError, match="Only Tensors of floating point and complex dtype can require gradients"):
        getattr(library, name)(INPUT, HIDDEN, dtype=torch.int32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learn_initial_state": "no"}, "learn_initial_state should be of type bool, got: str"),
        ({"hidden_size": True}, "hidden_size should be of type int, got: bool"),
        ({"num_layers": True}, "num_layers should be of type int, got: bool"),
    ],
    ids=str,
)
def test_arguments_that_torch_does_not_check(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        elman.GRU(**{"input_size": INPUT, "hidden_size": HIDDEN, **options})


def test_recurrent_checks_the_cell() -> None:
    with pytest.raises(TypeError, match=r"elman\.Cell, got: str"):
        elman.Recurrent("lstm", INPUT, HIDDEN)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="'projected_lstm' needs a proj_size"):
        elman.Recurrent(elman.cells.projected_lstm, INPUT, HIDDEN)
    with pytest.raises(ValueError, match="'gru' projects no state"):
        elman.Recurrent(elman.cells.gru, INPUT, HIDDEN, proj_size=2)


AUTOCAST = [(torch.bfloat16, True), (torch.bfloat16, False), (torch.float16, False)]  # torch trains no LSTM in float16


@pytest.mark.parametrize("states", ["given", "zero", "bfloat16"])
@pytest.mark.parametrize(("low", "training"), AUTOCAST, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_types_under_autocast(kind: str, low: torch.dtype, training: bool, states: str) -> None:
    """Every result has the type that torch.nn's has, and so has every gradient; float64 is left alone."""
    theirs, ours = (of.float() for of in pair(kind, num_layers=2, bidirectional=True))
    x, h = data(ours)
    x, h = x.float().requires_grad_(), tuple(s.float() if states == "given" else s.bfloat16() for s in h)
    found = []
    for of in (theirs, ours):
        with torch.autocast("cpu", low), torch.set_grad_enabled(training):
            try:
                output, h_n = of(x) if states == "zero" else of(x, hidden(h))
            except RuntimeError as error:
                if of is theirs and "could not create a primitive descriptor" in str(error):
                    pytest.skip("torch.nn has no kernel for this on this processor")
                raise
        results = [output, *as_tuple(h_n)]
        if training:
            results += torch.autograd.grad(torch.stack([r.float().sum() for r in results]).sum(), [x, *of.parameters()])
        found.append(results)
    assert [t.dtype for t in found[0]] == [t.dtype for t in found[1]]
    for mine, other in zip(*found, strict=True):
        assert_close(mine.float(), other.float(), rtol=0.05, atol=0.05 * other.float().abs().max().item())
    with torch.autocast("cpu", low):
        assert {t.dtype for t in as_tuple(ours.double()(x.double())[1])} == {torch.float64}
