"""Running a layer in PyTorch, the same way for everyone who is made of it."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

from peers import Arrays, Prepared

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

States = tuple[Tensor, ...]
Layer = Callable[[Tensor, States], tuple[Tensor, States]]  # x (T, B, I), states (B, H), or (1, B, H) if it is stacked


def prepared(
    layer: Layer,
    parameters: dict[str, Tensor],
    arrays: Arrays,
    training: bool,
    engine: str = "",
    *,
    stacked: bool = False,
) -> Prepared:
    """Inference under `inference_mode`; training is forward and the gradients of everything.

    parameters: by the names that the problem's arrays have. stacked: states have a dimension for the layers, as
    those of torch.nn's layers.
    """

    def of_state(name: str) -> Tensor:
        state = torch.from_numpy(arrays[name])
        return state.unsqueeze(0) if stacked else state

    x = torch.from_numpy(arrays["x"]).requires_grad_(training)
    names = [name for name in ("h", "c") if f"{name}_0" in arrays]
    states = tuple(of_state(f"{name}_0").requires_grad_(training) for name in names)
    cotangents = [torch.from_numpy(arrays["d_output"]), *(of_state(f"d_{name}_n") for name in names)]
    leaves = {"x": x} | {f"{name}_0": state for name, state in zip(names, states, strict=True)} | parameters

    def forward() -> list[Tensor]:
        output, final = layer(x, states)
        return [output, *final]

    def infer() -> tuple[list[Tensor], States]:
        with torch.inference_mode():
            return forward(), ()

    def train() -> tuple[list[Tensor], States]:
        values = forward()
        return values, torch.autograd.grad(values, list(leaves.values()), cotangents)

    call = train if training else infer

    def results() -> Arrays:
        values, gradients = call()
        named = dict(zip(("output", *(f"{name}_n" for name in names)), values, strict=True))
        if training:
            named |= {f"d_{name}": d for name, d in zip(leaves, gradients, strict=True)}
        if stacked:
            named |= {name: value.squeeze(0) for name, value in named.items() if name.endswith(("_0", "_n"))}
        return {name: value.detach().numpy() for name, value in named.items()}

    return Prepared(call, results, engine)


def fill(parameters: dict[str, Tensor], arrays: Arrays) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(arrays[name]).view_as(parameter))
