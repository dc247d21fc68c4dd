"""Conditional random fields: elman.CRF next to pytorch-crf, `pip install pytorch-crf`, in milliseconds.

    python bench/crf.py [--threads 2]

likelihood is log p of all tags with its gradients, decode the likeliest tags. Half of the sequences are shorter than T. Every
round runs everything that is compared, in a random order; the last columns are the times of pytorch-crf divided by elman's. No
time is printed where the two disagree.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torchcrf  # pyright: ignore[reportMissingImports]
from lengths import medians

import elman

CASES = [(30, 32, 17), (100, 32, 17), (100, 32, 50), (500, 8, 17)]  # T, B, K
ROUNDS = 31
AGREE = 1e-4  # largest relative difference of likelihoods and of gradients


def measure(T: int, B: int, K: int) -> dict[str, float]:
    torch.manual_seed(0)
    ours, theirs = elman.CRF(K), torchcrf.CRF(K)
    for mine, other in zip(
        (ours.transitions, ours.first, ours.last),
        (theirs.transitions, theirs.start_transitions, theirs.end_transitions),
        strict=True,
    ):
        mine.data.normal_()
        other.data.copy_(mine.data)
    scores, tags = torch.randn(T, B, K, requires_grad=True), torch.randint(0, K, (T, B))
    lengths = torch.where(torch.arange(B) % 2 == 0, T, torch.randint(1, T + 1, (B,)))
    mask = torch.arange(T)[:, None] < lengths

    def likelihood(of: Callable[[], torch.Tensor], parameters: Any) -> tuple[torch.Tensor, ...]:
        value = of()
        return value.detach(), *torch.autograd.grad(value, (scores, *parameters))

    runs: dict[str, Callable[[], Any]] = {
        "likelihood": lambda: likelihood(
            lambda: ours.log_likelihood(scores, tags, lengths).sum(), (ours.transitions, ours.first, ours.last)
        ),
        "likelihood of pytorch-crf": lambda: likelihood(
            lambda: theirs(scores, tags, mask), (theirs.transitions, theirs.start_transitions, theirs.end_transitions)
        ),
        "decode": lambda: ours.decode(scores, lengths),
        "decode of pytorch-crf": lambda: theirs.decode(scores, mask),
    }
    for mine, other in zip(runs["likelihood"](), runs["likelihood of pytorch-crf"](), strict=True):
        if (mine - other).norm() > AGREE * other.norm():
            raise SystemExit(f"the two disagree at {T, B, K}: {mine} and {other}")
    said = [own[:n].tolist() for own, n in zip(runs["decode"]().T, lengths, strict=True)]
    if said != runs["decode of pytorch-crf"]():
        raise SystemExit(f"the two say other tags at {T, B, K}")
    return medians(runs, ROUNDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    print("| T, B, K | likelihood | decode | pytorch-crf: likelihood | decode |\n|---|---|---|---|---|")
    for T, B, K in CASES:
        found = measure(T, B, K)
        ratios = [f"{found[f'{name} of pytorch-crf'] / found[name]:.1f}" for name in ("likelihood", "decode")]
        print(
            f"| {T}, {B}, {K} | {found['likelihood']:.2f} | {found['decode']:.2f} | {' | '.join(ratios)} |", flush=True
        )


if __name__ == "__main__":
    main()
