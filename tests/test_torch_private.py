"""Each of torch's private names that the library uses does what it is used for, and stands in one file."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import elman
from elman import torch_private as private

PRIVATE = re.compile(r"torch(\.\w+)*\._(?!_)|forward_ad\._|\._is_zerotensor|_functorch")


def test_they_stand_in_one_file() -> None:
    sources = Path(elman.__file__).parent
    found = [
        f"{path.relative_to(sources)}: {line.strip()}"
        for path in sorted(sources.rglob("*.py"))
        if path.name != "torch_private.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if PRIVATE.search(line)
    ]
    assert found == []
    assert PRIVATE.search((sources / "torch_private.py").read_text(encoding="utf-8"))


def test_trees() -> None:
    tree = {"b": (1, [2, None]), "a": {"c": 3}}
    assert private.tree_leaves(tree) in ([1, 2, None, 3], [1, 2, 3])
    assert private.tree_map(lambda n: n and -n, tree) == {"b": (-1, [-2, None]), "a": {"c": -3}}


def test_any_autocast() -> None:
    assert not private.any_autocast()
    for device in ("cpu", "cuda"):
        with torch.autocast(device, torch.bfloat16, enabled=device == "cpu" or torch.cuda.is_available()):
            assert private.any_autocast() or device == "cuda"
    assert not private.any_autocast()


def test_functorch_and_what_it_wraps() -> None:
    seen: list[tuple[bool, bool]] = []

    def look(x: Tensor) -> Tensor:
        seen.append((private.functorch_active(), private.is_wrapped(x)))
        return x.sum()

    x = torch.ones(2, 3)
    look(x)
    torch.vmap(look)(x)
    torch.func.grad(look)(x)
    torch.func.jvp(look, (x,), (x,))
    assert seen == [(False, False)] + [(True, True)] * 3
    assert not private.functorch_active()


def test_forward_mode() -> None:
    assert not private.in_forward_mode()
    with forward_ad.dual_level():
        assert private.in_forward_mode()
    seen: list[bool] = []
    torch.func.jvp(lambda x: (seen.append(private.in_forward_mode()), x)[1], (torch.ones(2),), (torch.ones(2),))
    assert seen == [True]
    assert not private.in_forward_mode()


def test_autograds_own_vmap() -> None:
    seen: list[bool] = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
            seen.append(private.is_legacy_batched(cotangents[0]))
            return cotangents[0]

    x = torch.ones(3, requires_grad=True)
    torch.autograd.grad(Watched.apply(x), x, torch.ones(3))
    torch.autograd.grad(Watched.apply(x), x, torch.eye(3), is_grads_batched=True)
    assert seen == [False, True]


def test_modes_of_torch_dispatch() -> None:
    seen: list[tuple[int, bool]] = []

    class Nothing(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return function(*args, **(kwargs or {}))

    for _ in range(2):
        seen.append((private.count_dispatch_modes(), private.in_dispatch_mode()))
        with Nothing():
            seen.append((private.count_dispatch_modes(), private.in_dispatch_mode()))
    assert seen == [(0, False), (1, True)] * 2


def test_tracing() -> None:
    seen: list[bool] = []
    torch.jit.trace(lambda x: (seen.append(private.is_tracing()), x + 1)[1], torch.ones(2), check_trace=False)
    assert seen == [True]
    assert not private.is_tracing()


def test_tensors_that_are_zero_by_a_mark() -> None:
    assert private.is_zero_tensor(torch._efficientzerotensor((2, 3)))  # pyright: ignore[reportPrivateImportUsage]
    assert not private.is_zero_tensor(torch.zeros(2, 3))


def test_recording_inside_an_operator() -> None:
    seen: list[bool] = []

    @torch.library.custom_op("elman_test::double", mutates_args=())
    def double(x: Tensor) -> Tensor:
        own = x.detach().requires_grad_()
        with torch.enable_grad():
            seen.append((own * 2).requires_grad)
        with private.recording_below_autograd():
            seen.append((own * 2).requires_grad)
        return x * 2

    with torch.no_grad():
        double(torch.ones(2))
    assert seen == [False, True]


def test_the_layout_of_cudnn() -> None:
    """Only cuDNN can run it. So here: it asks for what it has always asked for."""
    with pytest.raises(NotImplementedError, match="_cudnn_rnn_flatten_weight"):
        private.in_one_piece([torch.zeros(8, 3), torch.zeros(8, 2)], 2, 3, 2, 2, 0, 1, False, False)


def test_the_library_that_has_openmp() -> None:
    assert Path(private.LIBRARY).exists()
    ctypes.CDLL(private.LIBRARY)


def test_constant_to_the_compiler() -> None:
    """It marks a function as torch's own decorator does, and spares a user the import of torch's compiler."""

    def marked(function: Any) -> dict[str, Any]:
        return {**function(lambda: 0).__dict__}

    assert marked(private.constant_to_the_compiler) == marked(torch.compiler.assume_constant_result)
    code = "import sys, torch, elman; elman.LSTM(2, 3)(torch.ones(1, 1, 2)); print('torch._dynamo' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed == "False\n"
