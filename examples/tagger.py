"""A sequence tagger, written for torch.nn: an embedding, packing, two bidirectional layers, and a linear head.

The same code runs on torch.nn or on elman, from the same seed:

    python examples/tagger.py                    # torch.nn's LSTM
    python examples/tagger.py --library elman    # elman's LSTM: the same losses, in less time

The task needs both directions: a token is inside if it lies between an opening and a closing token, with no other
opening or closing token between these two. The losses of both runs agree until rounding errors have grown large.
"""

from __future__ import annotations

import argparse
import importlib
import time

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

TOKENS, OPENS, CLOSES = 20, 0, 1


class Tagger(nn.Module):
    def __init__(self, library: str, hidden_size: int):
        super().__init__()
        rnn = importlib.import_module(library)  # the one line that changes
        self.embedding = nn.Embedding(TOKENS, 64)
        self.recurrent = rnn.LSTM(64, hidden_size, num_layers=2, bidirectional=True)
        self.head = nn.Linear(2 * hidden_size, 2)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Returns scores (T, B, 2) for tokens (T, B)."""
        packed = pack_padded_sequence(self.embedding(tokens), lengths, enforce_sorted=False)
        output: PackedSequence = self.recurrent(packed)[0]
        return self.head(pad_packed_sequence(output, total_length=len(tokens))[0])


def batch(steps: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Returns tokens (T, B), whether each is inside (T, B), and lengths (B,)."""
    tokens = torch.randint(TOKENS, (steps, size), generator=generator)
    lengths = torch.randint(steps // 4, steps + 1, (size,), generator=generator)
    inside = torch.zeros(steps, size, dtype=torch.long)
    for b, length in enumerate(lengths.tolist()):
        opened = None
        for t, token in enumerate(tokens[:length, b].tolist()):
            if token == OPENS:
                opened = t
            elif token == CLOSES and opened is not None:
                inside[opened + 1 : t, b], opened = 1, None
    return tokens, inside, lengths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=["torch.nn", "elman"], default="torch.nn")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--updates", type=int, default=60)
    given = parser.parse_args()

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = Tagger(given.library, given.hidden)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    seconds = 0.0
    for update in range(1, given.updates + 1):
        tokens, inside, lengths = batch(given.steps, 32, generator)
        there = torch.arange(given.steps)[:, None] < lengths
        begin = time.perf_counter()
        scores = model(tokens, lengths)
        loss = nn.functional.cross_entropy(scores[there], inside[there])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update > 3:  # the first updates compile kernels or allocate memory
            seconds += time.perf_counter() - begin
        if update % max(1, given.updates // 6) == 0:
            right = (scores.argmax(-1) == inside)[there].float().mean()
            print(f"update {update:4}  loss {loss:.6f}  right {right:.3f}")
    print(f"{given.library}: {1e3 * seconds / max(1, given.updates - 3):.1f} ms for an update")


if __name__ == "__main__":
    main()
