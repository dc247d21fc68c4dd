"""Words or codes that a network reads beside numbers: one of each category at every step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

RARE = 2  # words that occur less often have no embedding of their own


class Categories(nn.Module):
    """Embeddings of categories. forward(x) takes numbers and the codes of categories, (..., n + categories).

    In place of each code it returns an embedding. That of code 0, which stands for all unknown values, begins as zero. What
    is no code counts as 0: so may what lies past the end of a sequence.
    """

    def __init__(self, known: Iterable[int], size: int):
        """known: how many values of each category are known. size: the width of an embedding at most."""
        super().__init__()
        self.known = tuple(known)
        self.widths = [min(size, count + 1) for count in self.known]
        self.embeddings = nn.ModuleList(map(nn.Embedding, (count + 1 for count in self.known), self.widths))
        for weight in self.embeddings.parameters():
            nn.init.zeros_(weight[0])

    @property
    def more(self) -> int:
        """How many numbers more go out than in."""
        return sum(self.widths) - len(self.widths)

    def forward(self, x: Tensor) -> Tensor:
        numbers, codes = x.split([x.shape[-1] - len(self.known), len(self.known)], -1)
        found = [numbers]
        for count, embedding, code in zip(self.known, self.embeddings, codes.unbind(-1), strict=True):
            there = (code >= 0) & (code <= count)  # not so of NaN
            found.append(embedding(torch.where(there, code, 0).long()))
        return torch.cat(found, -1)


def check_words(categories: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError, or TypeError, if these cannot be the words of categories."""
    if not all(words and len({*words}) == len(words) for words in dict(categories).values()):
        raise ValueError("a category has no words, or one of them twice")


def frequent(words: Sequence[str], often: Sequence[int], enough: Iterable[bool]) -> list[str]:
    """Returns the words that occur often enough, the most frequent ones first. often: how often each one occurs."""
    order = sorted((-n, word) for word, n, fit in zip(words, often, enough, strict=True) if fit)
    return [word for _, word in order]
