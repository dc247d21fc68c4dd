"""torch's private names, all that this library uses. Each has a test in tests/test_torch_private.py.

torch may change them in any version. If it does, a test names the one that changed, and this file is the place to
repair it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.autograd import forward_ad
from torch.utils import _python_dispatch, _pytree

LIBRARY = torch._C.__file__  # the shared library that is linked with torch's OpenMP

any_autocast = torch._C._is_any_autocast_enabled  # whether autocast is on for any kind of device
functorch_active = torch._C._are_functorch_transforms_active  # whether vmap, grad, jvp and their like are active
count_dispatch_modes = torch._C._len_torch_dispatch_stack  # how many modes of torch dispatch are active
in_dispatch_mode = _python_dispatch.is_in_torch_dispatch_mode  # whether one of them is
is_wrapped = _functorch.is_functorch_wrapped_tensor  # whether one of functorch's transforms wraps a tensor
is_legacy_batched = _functorch.is_legacy_batchedtensor  # whether autograd's own vmap (`is_grads_batched`) does
in_one_piece = torch._cudnn_rnn_flatten_weight  # pyright: ignore[reportPrivateImportUsage]  # lays out cuDNN's weights
tree_leaves, tree_map = (
    _pytree.tree_leaves,
    _pytree.tree_map,
)  # of nested tuples, lists and dictionaries, as torch's exporter has them
is_zero_tensor = Tensor._is_zerotensor  # whether a tensor is zero by a mark, whatever its memory holds


Function = TypeVar("Function", bound=Callable[..., Any])


def constant_to_the_compiler(function: Function) -> Function:
    """Marks a function as `torch.compiler.assume_constant_result` does, without importing torch's compiler.

    The import takes as long as that of torch itself.
    """
    function.__dict__["_dynamo_marked_constant"] = True
    return function


def in_forward_mode() -> bool:
    """Whether forward-mode differentiation is active (`torch.autograd.forward_ad`, `torch.func.jvp`)."""
    return forward_ad._current_level >= 0


def is_tracing() -> bool:
    """Whether torch.jit.trace is recording operations."""
    return torch._C._get_tracing_state() is not None


@contextmanager
def recording_below_autograd() -> Iterator[None]:
    """Lets autograd record, even inside an operator's implementation, for which the dispatcher turns autograd off."""
    keys, excluded = torch._C.DispatchKey, torch._C._dispatch_tls_local_exclude_set()
    for key in (keys.AutogradFunctionality, keys.AutogradOther, keys.ADInplaceOrView):
        excluded = excluded.remove(key)
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded), torch.enable_grad():
        yield
