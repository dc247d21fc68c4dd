"""What people do with a module besides calling it: the same assertions on torch.nn's layers and on elman's."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.testing import assert_close

import elman
from cases import as_tuple

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "RNN": ("RNN", {}),
    "LSTM": ("LSTM", {}),
    "LSTM-proj": ("LSTM", {"proj_size": 3}),
    "GRU": ("GRU", {}),
}
pytestmark = [
    pytest.mark.parametrize("library", [nn, elman], ids=["torch", "elman"]),
    pytest.mark.parametrize("kind", KINDS),
    # torch.nn.LSTM(proj_size=...) in float32 says so, once in a process
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    # torch.nn's layers move their weights into one block, which a replaced weight is not in
    pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous chunk of memory"),
]


def make(library: ModuleType, kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    name, own = KINDS[kind]
    return getattr(library, name)(5, 4, **own, **{"num_layers": 2, "bidirectional": True} | options)


def read(of: Any, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    output, h_n = of(torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(1)).to(dtype))
    return output, *as_tuple(h_n)


def same(a: Any, b: Any) -> None:
    assert_close([t.detach() for t in a], [t.detach() for t in b], rtol=0, atol=0)


def test_copies(library: ModuleType, kind: str, tmp_path: Path) -> None:
    of = make(library, kind).eval()
    torch.save(of, tmp_path / "whole.pt")
    copies = [
        copy.deepcopy(of),
        copy.copy(of),
        pickle.loads(pickle.dumps(of)),
        torch.load(tmp_path / "whole.pt", weights_only=False),
        torch.load(io.BytesIO((tmp_path / "whole.pt").read_bytes()), weights_only=False, map_location="cpu"),
    ]
    for other in copies:
        assert type(other) is type(of)
        assert not other.training
        assert repr(other) == repr(of)
        assert list(other.state_dict()) == list(of.state_dict())
        same(read(other), read(of))
    with torch.no_grad():
        for p in copies[0].parameters():
            p.zero_()
    assert any(p.abs().sum() > 0 for p in of.parameters())
    same(read(copies[2]), read(of))


def test_types(library: ModuleType, kind: str) -> None:
    of = make(library, kind)
    before = read(of)
    for move, dtype in (
        (lambda m: m.double(), torch.float64),
        (lambda m: m.to(torch.bfloat16), torch.bfloat16),
        (lambda m: m.half(), torch.float16),
        (lambda m: m.type(torch.float64), torch.float64),
        (lambda m: m.to("cpu", torch.float32), torch.float32),
    ):
        moved = copy.deepcopy(of)
        assert move(moved) is moved
        assert {p.dtype for p in moved.parameters()} == {dtype}
        if dtype == torch.float16 and library is nn and "proj" in kind:
            continue  # torch's projected LSTM has no kernel for it
        results = read(moved, dtype)
        assert {r.dtype for r in results} == {dtype}
        loose = {torch.float64: 1e-5, torch.float32: 0, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
        assert_close([r.float() for r in results], list(before), rtol=loose, atol=loose)


def test_the_meta_device(library: ModuleType, kind: str) -> None:
    of = make(library, kind, device="meta")
    assert {p.device.type for p in of.parameters()} == {"meta"}
    output, h_n = of(torch.empty(6, 3, 5, device="meta"))
    assert output.is_meta
    assert all(h.is_meta for h in as_tuple(h_n))
    assert output.shape == read(make(library, kind))[0].shape
    filled = of.to_empty(device="cpu")
    filled.load_state_dict(make(library, kind).state_dict())
    same(read(filled), read(make(library, kind)))
    meta = make(library, kind, device="meta")
    meta.load_state_dict(make(library, kind).state_dict(), assign=True)
    same(read(meta), read(make(library, kind)))


def test_skip_init(library: ModuleType, kind: str) -> None:
    name, own = KINDS[kind]
    if library is nn:  # its constructors take whatever comes
        with pytest.raises(RuntimeError, match="must support a 'device' arg"):
            nn.utils.skip_init(getattr(library, name), 5, 4, **own)
        return
    of: Any = nn.utils.skip_init(getattr(library, name), 5, 4, **own)
    assert {p.device.type for p in of.parameters()} == {"cpu"}
    of.reset_parameters()
    assert all((p.abs() <= 0.5).all() for p in of.parameters())
    assert read(of)[0].isfinite().all()


def test_a_default_device_and_type(library: ModuleType, kind: str) -> None:
    with torch.device("meta"):
        assert {p.device.type for p in make(library, kind).parameters()} == {"meta"}
    torch.set_default_dtype(torch.float64)
    try:
        assert {p.dtype for p in make(library, kind).parameters()} == {torch.float64}
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_parametrization(library: ModuleType, kind: str) -> None:
    class Half(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return w / 2

    of, other = make(library, kind), make(library, kind)
    parametrize.register_parametrization(of, "weight_hh_l0", Half())
    with torch.no_grad():
        other.weight_hh_l0.div_(2)
    same(read(of), read(other))
    read(of)[0].sum().backward()
    original = of.parametrizations.weight_hh_l0.original
    assert original.grad is not None
    assert original.grad.abs().sum() > 0
    with torch.no_grad():
        original.mul_(3)
        other.weight_hh_l0.mul_(3)
    same(read(of), read(other))
    parametrize.remove_parametrizations(of, "weight_hh_l0")
    same(read(of), read(other))


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm", "orthogonal", "old_weight_norm", "old_spectral_norm"])
def test_norms(library: ModuleType, kind: str, norm: str) -> None:
    of = make(library, kind)
    of.eval()  # the spectral norm estimates again in every call in training
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the old ones
        made = {
            "weight_norm": parametrizations.weight_norm,
            "spectral_norm": parametrizations.spectral_norm,
            "orthogonal": parametrizations.orthogonal,
            "old_weight_norm": nn.utils.weight_norm,
            "old_spectral_norm": nn.utils.spectral_norm,
        }[norm](of, "weight_hh_l1_reverse")
    first = read(made)
    plain = make(library, kind)
    with torch.no_grad():
        plain.weight_hh_l1_reverse.copy_(made.weight_hh_l1_reverse)
    assert_close(list(first), list(read(plain)), rtol=1e-6, atol=1e-7)
    made.train()
    read(made)[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


def test_pruning(library: ModuleType, kind: str) -> None:
    of = make(library, kind)
    prune.l1_unstructured(of, "weight_ih_l0", amount=0.5)
    assert (of.weight_ih_l0 == 0).sum() == of.weight_ih_l0.numel() // 2
    plain = make(library, kind)
    with torch.no_grad():
        plain.weight_ih_l0.mul_(of.weight_ih_l0_mask)
    same(read(of), read(plain))
    read(of)[0].sum().backward()
    assert (of.weight_ih_l0_orig.grad[of.weight_ih_l0_mask == 0] == 0).all()
    prune.remove(of, "weight_ih_l0")
    same(read(of), read(plain))


@pytest.mark.parametrize("ema", [False, True], ids=["average", "exponential"])
def test_averaged_copies(library: ModuleType, kind: str, ema: bool) -> None:
    of = make(library, kind)
    average = AveragedModel(of, multi_avg_fn=get_ema_multi_avg_fn(0.5)) if ema else AveragedModel(of)
    start = [p.detach().clone() for p in of.parameters()]
    average.update_parameters(of)
    with torch.no_grad():
        for p in of.parameters():
            p.add_(1)
    average.update_parameters(of)
    expected = [p + 0.5 for p in start]
    assert_close([p.detach() for p in average.module.parameters()], expected, rtol=1e-6, atol=1e-6)
    other = make(library, kind)
    with torch.no_grad():
        for p, value in zip(other.parameters(), expected, strict=True):
            p.copy_(value)
    assert_close(list(read(average)), list(read(other)), rtol=1e-5, atol=1e-6)


def test_shared_memory(library: ModuleType, kind: str) -> None:
    of = make(library, kind)
    before = read(of)
    assert of.share_memory() is of
    assert all(p.is_shared() for p in of.parameters())
    same(read(of), before)


def test_another_weight_in_its_place(library: ModuleType, kind: str) -> None:
    of, other = make(library, kind), make(library, kind)
    of.weight_hh_l0 = nn.Parameter(of.weight_hh_l0.detach() * 2)
    with torch.no_grad():
        other.weight_hh_l0.mul_(2)
    same(read(of), read(other))
    of.weight_hh_l0.data = of.weight_hh_l0.data / 2
    same(read(of), read(make(library, kind)))
    tied = make(library, kind)
    tied.weight_hh_l1 = tied.weight_hh_l0
    assert len(list(tied.parameters())) == len(list(of.parameters())) - 1
    read(tied)[0].sum().backward()
    assert tied.weight_hh_l0.grad is not None


def test_frozen_weights(library: ModuleType, kind: str) -> None:
    of = make(library, kind)
    of.requires_grad_(False)
    assert not read(of)[0].requires_grad
    of.weight_ih_l1.requires_grad_(True)
    read(of)[0].sum().backward()
    assert [name for name, p in of.named_parameters() if p.grad is not None] == ["weight_ih_l1"]


def test_hooks(library: ModuleType, kind: str) -> None:
    of, seen = make(library, kind), []
    of.register_forward_pre_hook(lambda module, inputs: seen.append("before"))
    of.register_forward_hook(lambda module, inputs, results: seen.append("after"))
    of.register_full_backward_hook(lambda module, d_in, d_out: seen.append("backward"))
    x = torch.randn(6, 3, 5, requires_grad=True)
    of(x)[0].sum().backward()
    assert seen == ["before", "after", "backward"]


def test_functional_calls(library: ModuleType, kind: str) -> None:
    of, other = make(library, kind), make(library, kind)
    weights = {name: p.detach() * 2 for name, p in of.named_parameters()}
    x = torch.randn(6, 3, 5)
    found, _ = functional_call(of, weights, (x,))
    other.load_state_dict(weights)
    same([found], [other(x)[0]])
    same(read(of), read(make(library, kind)))


def test_optimizers_take_the_parameters_in_the_same_order(library: ModuleType, kind: str) -> None:
    of = make(library, kind)
    names = [name for name, _ in of.named_parameters()]
    assert names == list(of.state_dict())
    optimizer = torch.optim.AdamW(of.parameters())
    read(of)[0].sum().backward()
    optimizer.step()
    assert [list(group["params"]) for group in optimizer.param_groups] == [list(of.parameters())]
    assert of.flatten_parameters() is None
    assert [len(weights) for weights in of.all_weights] == [5 if "proj" in kind else 4] * 4


def test_gradients_of_each_sample(library: ModuleType, kind: str) -> None:
    if library is nn:
        pytest.skip("torch.nn's RNN and GRU have no batching rule, and its LSTM warns that it is a slow loop")
    of = make(library, kind)
    weights = {name: p.detach() for name, p in of.named_parameters()}
    x = torch.randn(6, 3, 5)

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(of, weights, (x.unsqueeze(1),))[0].square().sum()

    found = vmap(grad(loss), in_dims=(None, 1))(weights, x)
    for b in range(3):
        of.zero_grad()
        of(x[:, b : b + 1])[0].square().sum().backward()
        for name, p in of.named_parameters():
            assert p.grad is not None
            assert_close(found[name][b], p.grad, rtol=1e-4, atol=1e-5)
