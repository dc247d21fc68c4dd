"""What PyTorch tests its own recurrent modules with, asserted of torch.nn's layers and of elman's.

The inputs, the reference functions and the errors with their messages are those of
`torch.testing._internal.common_modules`, which is installed with torch. What is done with them follows torch's
test_modules.py and, for what has no inputs there, test_nn.py.
"""

from __future__ import annotations

import copy
import io
import pickle
import re
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves, tree_map

import elman

NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
libraries = pytest.mark.parametrize("library", [nn, elman], ids=["torch", "elman"])
names = pytest.mark.parametrize("name", NAMES)
layers = pytest.mark.parametrize("name", NAMES[:3])
# torch.nn.LSTM(proj_size=...) in float32 says so, once in a process
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


@cache
def torchs() -> Any:
    """torch's module of inputs; it takes seconds to import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal import common_modules
    return common_modules


def info_of(name: str) -> Any:
    """torch's record of a module."""
    return next(info for info in torchs().module_db if info.module_cls is getattr(nn, name))


def inputs(name: str, dtype: torch.dtype = torch.float64, requires_grad: bool = False) -> list[Any]:
    """torch's inputs of a module: how to construct it, what to call it with, and a reference."""
    info = info_of(name)
    given = {"device": "cpu", "dtype": dtype, "requires_grad": requires_grad, "training": True}
    torch.manual_seed(0)
    found = list(info.module_inputs_func(info, **given))
    if name in ("RNN", "GRU"):
        torch.manual_seed(1)
        found += info.module_inputs_func(info, with_packed_sequence=True, **given)
    return found


def made(library: ModuleType, name: str, case: Any, dtype: torch.dtype = torch.float64) -> Any:
    """The module of a case. The same seed gives it the same parameters in both libraries."""
    torch.manual_seed(7)
    given = case.constructor_input
    return getattr(library, name)(*given.args, **given.kwargs, dtype=dtype)


def arguments(case: Any) -> tuple[list[Any], dict[str, Any]]:
    """Those of the call, with leaves of their own."""

    def fresh(value: Any) -> Any:
        return value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value

    given = case.forward_input
    args = [
        PackedSequence(fresh(a.data), *a[1:]) if isinstance(a, PackedSequence) else tree_map(fresh, a)
        for a in given.args
    ]
    return args, tree_map(fresh, given.kwargs)


def floats(value: Any) -> list[Tensor]:
    """The tensors of real numbers in arguments or results."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def read(of: Any, case: Any) -> list[Tensor]:
    args, kwargs = arguments(case)
    return floats(of(*args, **kwargs))


@libraries
@names
def test_the_reference_function(name: str, library: ModuleType) -> None:
    count = 0
    for case in inputs(name):
        args, kwargs = arguments(case)
        if not isinstance(args[0], PackedSequence):  # the reference function adds an axis
            assert_close(
                read(made(library, name, case), case),
                floats(case.reference_fn(made(library, name, case), *args, **kwargs)),
            )
            count += 1
    assert count >= 2


@names
def test_the_same_numbers_and_gradients(name: str) -> None:
    for case in inputs(name, requires_grad=True):
        found = []
        for library in (nn, elman):
            of, (args, kwargs) = made(library, name, case), arguments(case)
            results = floats(of(*args, **kwargs))
            generator = torch.Generator().manual_seed(3)
            cotangents = [torch.randn(r.shape, generator=generator, dtype=r.dtype) for r in results]
            leaves = [leaf for leaf in floats((args, kwargs)) if leaf.requires_grad]
            found.append((results, torch.autograd.grad(results, [*leaves, *of.parameters()], cotangents)))
        assert_close(found[1], found[0], rtol=1e-11, atol=1e-12)


@libraries
@names
def test_the_errors_and_their_messages(name: str, library: ModuleType) -> None:
    info = info_of(name)
    wanted = info.module_error_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=True)
    assert len(wanted) >= 4
    for case in wanted:
        given, call = case.module_error_input.constructor_input, case.module_error_input.forward_input
        constructing = case.error_on == torchs().ModuleErrorEnum.CONSTRUCTION_ERROR

        def construct(given: Any = given) -> Any:
            return getattr(library, name)(*given.args, **given.kwargs)

        if constructing:
            with pytest.raises(case.error_type, match=case.error_regex) as caught:
                construct()
        else:
            of = construct()
            with pytest.raises(case.error_type, match=case.error_regex) as caught:
                of(*call.args, **call.kwargs)
        assert type(caught.value) is case.error_type


# Of the inputs of a layer, in which five things are one or the other, those in which every two of them meet in every way.
PAIRS = (0, 7, 15, 20, 25, 26)


@names
def test_first_and_second_derivatives(name: str) -> None:
    """Finite differences of the results, and of the gradients, by every input and parameter."""
    cases = inputs(name, requires_grad=True)
    if "Cell" not in name:
        every = {"RNN": 32, "LSTM": 32, "GRU": 16}[name]  # the rest are packed, or the same again
        cases = [cases[k % every] for k in PAIRS]
    for case in cases:
        assert not isinstance(case.forward_input.args[0], PackedSequence)
        of, (args, _) = made(elman, name, case), arguments(case)
        parameters = dict(of.named_parameters())
        flat = floats(args)

        def function(
            *tensors: Tensor, of: Any = of, args: Any = args, flat: Any = flat, parameters: Any = parameters
        ) -> Any:
            values = iter(tensors)
            own = tree_map(lambda _: next(values), args)
            return tuple(floats(torch.func.functional_call(of, dict(zip(parameters, values, strict=True)), tuple(own))))

        sources = (*flat, *parameters.values())
        assert torch.autograd.gradcheck(function, sources, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, sources, fast_mode=True)


@libraries
@names
def test_tensors_that_are_not_contiguous(name: str, library: ModuleType) -> None:
    def apart(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.numel() < 2:
            return value
        wide = torch.empty(*value.shape, 2, dtype=value.dtype).fill_(torch.nan)
        wide[..., 1] = value.detach()
        return wide[..., 1].requires_grad_(value.requires_grad)

    for case in inputs(name, requires_grad=True):
        if isinstance(case.forward_input.args[0], PackedSequence):
            continue
        found = []
        for move in (lambda value: value, apart):
            of, (args, kwargs) = made(library, name, case), arguments(case)
            args = tree_map(move, args)
            results = floats(of(*args, **kwargs))
            cotangents = [move(torch.linspace(-1, 1, r.numel(), dtype=r.dtype).reshape(r.shape)) for r in results]
            torch.autograd.backward(results, cotangents)
            found.append((results, [leaf.grad for leaf in (*floats(args), *of.parameters())]))
        assert_close(*found)


@libraries
@names
def test_factory_arguments(name: str, library: ModuleType) -> None:
    case = inputs(name)[0]
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        of = made(library, name, case, dtype)
        assert {(p.dtype, p.device.type) for p in of.parameters()} == {(dtype, "cpu")}
    given = case.constructor_input
    meta = getattr(library, name)(*given.args, **given.kwargs, device="meta")
    assert {p.device.type for p in meta.parameters()} == {"meta"}


@libraries
@names
def test_copies_and_movement(name: str, library: ModuleType) -> None:
    case = inputs(name)[0]
    of = made(library, name, case)
    file = io.BytesIO()
    torch.save(of, file)
    file.seek(0)
    for other in (copy.deepcopy(of), pickle.loads(pickle.dumps(of)), torch.load(file, weights_only=False)):
        assert_close(read(other, case), read(of, case), rtol=0, atol=0)
        assert repr(other) == repr(of)
    assert of.to("meta").to_empty(device="cpu").load_state_dict(made(library, name, case).state_dict())
    assert_close(read(of, case), read(made(library, name, case), case), rtol=0, atol=0)


@libraries
@names
def test_training_and_evaluation_agree_without_dropout(name: str, library: ModuleType) -> None:
    for case in inputs(name):
        of = made(library, name, case)
        assert_close(read(of.train(), case), read(of.eval(), case), rtol=0, atol=0)


@names
def test_repr(name: str) -> None:
    for case in inputs(name):
        assert repr(made(elman, name, case)) == repr(made(nn, name, case))


# What test_nn.py asserts besides.


def wrong_shapes() -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Shapes of the input and of a state, of which one has one wrong size."""
    x, h = (6, 4, 3), (2, 4, 5)
    for axis in (1, 2):
        yield tuple(7 if k == axis else n for k, n in enumerate(x)), h
    for axis in (0, 1, 2):
        yield x, tuple(7 if k == axis else n for k, n in enumerate(h))


@pytest.mark.parametrize("proj_size", [0, 2])
@libraries
@layers
def test_wrong_shapes(name: str, library: ModuleType, proj_size: int) -> None:
    if proj_size and name != "LSTM":
        with pytest.raises(ValueError, match="proj_size argument is only supported for LSTM, not RNN or GRU"):
            getattr(library, name)(30, 20, 2, proj_size=10)
        return
    of = getattr(library, name)(3, 5, 2, **({"proj_size": proj_size} if proj_size else {}))
    for x, h in wrong_shapes():
        good_c, good_h = torch.zeros(2, 4, 5), torch.zeros(2, 4, proj_size or 5)
        bad = torch.zeros(h)
        for hx in ((bad, good_c), (good_h, bad)) if name == "LSTM" else (bad,):
            if name == "LSTM" and proj_size and h == (2, 4, 5):
                hx = good_h, good_c
            with pytest.raises(RuntimeError):
                of(torch.zeros(x), hx)


@libraries
@pytest.mark.parametrize("proj_size", [0, 10])
@layers
def test_the_messages_of_wrong_sizes(name: str, library: ModuleType, proj_size: int) -> None:
    if proj_size and name != "LSTM":
        pytest.skip("no projection")
    of = getattr(library, name)(10, 20, batch_first=True, **({"proj_size": proj_size} if proj_size else {}))
    h = torch.zeros(1, 2, 19)
    hx = (h, h) if name == "LSTM" else h
    with pytest.raises(RuntimeError, match=r"Expected hidden.*size.*got"):
        of(torch.randn(2, 3, 10), hx)
    with pytest.raises(RuntimeError, match=re.escape("input.size(-1) must be equal to input_size. Expected 10, got 3")):
        of(torch.randn(2, 3, 3))
    with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0 in RNN"):
        of(torch.zeros(2, 0, 10))
    with pytest.raises(ValueError, match="Expected input to be 2D or 3D, got 4D"):
        of(torch.zeros(2, 3, 10, 1))
    for x, flat in ((torch.zeros(2, 3, 10), torch.zeros(1, 20)), (torch.zeros(3, 10), torch.zeros(1, 2, 20))):
        kind = "batched 3-D" if x.dim() == 3 else "unbatched 2-D"
        with pytest.raises(RuntimeError, match=f"For {kind} input, hx .*should also be {x.dim()}-D but got"):
            of(x, (flat, flat) if name == "LSTM" else flat)
    with pytest.raises(RuntimeError, match="Input and parameter tensors are not at the same device"):
        of(torch.zeros(2, 3, 10, device="meta"))
    h = torch.zeros(1, 2, proj_size or 20, device="meta")
    hx = (h, torch.zeros(1, 2, 20, device="meta")) if name == "LSTM" else h
    with pytest.raises(RuntimeError, match="Input and hidden tensors are not at the same device"):
        of(torch.zeros(2, 3, 10), hx)


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("proj_size should be a positive integer or zero", lambda library: library.LSTM(3, 4, proj_size=-1)),
        ("proj_size has to be smaller than hidden_size", lambda library: library.LSTM(3, 4, proj_size=4)),
        (
            "Unknown nonlinearity 'garbage'. Select from 'tanh' or 'relu'.",
            lambda library: library.RNN(1, 10, nonlinearity="garbage"),
        ),
        (
            "dropout should be a number in range [0, 1] representing the probability of an element being zeroed",
            lambda library: library.GRU(3, 4, 2, dropout=-0.5),
        ),
    ],
    ids=["negative", "too wide", "nonlinearity", "dropout"],
)
@libraries
def test_the_messages_of_the_constructor(library: ModuleType, message: str, make: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make(library)


@libraries
@layers
def test_the_warning(name: str, library: ModuleType) -> None:
    expected = (
        "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects num_layers greater "
        "than 1, but got dropout=0.5 and num_layers=1"
    )
    with pytest.warns(UserWarning, match=re.escape(expected)):
        getattr(library, name)(3, 4, dropout=0.5)


@libraries
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_a_zero_state_is_the_default(name: str, library: ModuleType) -> None:
    of = getattr(library, name)(30, 20, 2)
    x, h = torch.randn(10, 32, 30), torch.zeros(2, 32, 20)
    assert_close(of(x, (h, h) if name == "LSTM" else h), of(x), rtol=0, atol=0)


@libraries
def test_dropout_may_be_changed_later(library: ModuleType) -> None:
    """From nothing to everything and back, in training and in evaluation, in one layer's life."""
    for train in (True, False):
        torch.manual_seed(0)
        of = library.RNN(100, 20, num_layers=2, dropout=0).train(train)
        x = torch.rand(3, 10, 100)
        first = of(x)[0]
        of.dropout = 1.0
        dropped = of(x)[0]
        assert torch.equal(dropped, first) == (not train)
        of.dropout = 0.0
        assert_close(of(x)[0], first, rtol=0, atol=0)


@libraries
@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells_do_not_broadcast(name: str, library: ModuleType) -> None:
    of, good = getattr(library, name)(10, 20), torch.randn(3, 20)
    for x, bad in (
        (torch.randn(3, 10), torch.randn(1, 20)),
        (torch.randn(3, 10), torch.randn(3, 1)),
        (torch.randn(3, 1), torch.randn(3, 20)),
        (torch.randn(3, 10), torch.randn(20)),
        (torch.randn(10), torch.randn(1, 20)),
    ):
        for hx in ((bad, good), (good, bad)) if name == "LSTMCell" else (bad,):
            with pytest.raises(RuntimeError):
                of(x, hx)


@libraries
@layers
def test_a_graph_kept_for_a_second_backward_pass(name: str, library: ModuleType) -> None:
    of, x = getattr(library, name)(10, 20, num_layers=2), torch.randn(5, 6, 10, requires_grad=True)
    output = of(x)[0].sum()
    output.backward(retain_graph=True)
    first = [p.grad for p in (x, *of.parameters())]
    for p in (x, *of.parameters()):
        p.grad = None
    output.backward()
    assert_close([p.grad for p in (x, *of.parameters())], first)


@libraries
@layers
def test_a_weight_changed_in_place_between_the_passes(name: str, library: ModuleType) -> None:
    of = getattr(library, name)(5, 4, dtype=torch.float64)
    output = of(torch.randn(6, 3, 5, dtype=torch.float64))[0]
    with torch.no_grad():
        of.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@libraries
@layers
def test_a_batch_of_packed_sequences_in_any_order(name: str, library: ModuleType) -> None:
    """Each sequence reads as it does alone; the states go in and out in the order given."""
    torch.manual_seed(0)
    of = getattr(library, name)(4, 3, num_layers=2, bidirectional=True, dtype=torch.float64)
    lengths = [4, 1, 6, 4]
    pieces = [torch.randn(n, 4, dtype=torch.float64) for n in lengths]
    h = torch.randn(4, 4, 3, dtype=torch.float64)
    hx = (h, h.flip(0)) if name == "LSTM" else h
    output, after = of(nn.utils.rnn.pack_sequence(pieces, enforce_sorted=False), hx)
    assert isinstance(output, PackedSequence)
    for k, (piece, found) in enumerate(zip(pieces, nn.utils.rnn.unpack_sequence(output), strict=True)):
        own = tree_map(lambda s, k=k: s[:, k], hx)
        alone, final = of(piece, own)
        assert_close(found, alone)
        assert_close(tree_map(lambda s, k=k: s[:, k], after), final)
