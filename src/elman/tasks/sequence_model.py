"""Networks that read a sequence, and the one that predicts something of it, or of each of its steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from elman import cells
from elman.layout import Hidden
from elman.recurrent import Recurrent
from elman.spectrum import Spectrum
from elman.tasks.encoded import Inputs
from elman.tasks.options import SequenceOptions
from elman.tasks.words import Categories
from elman.training.dropout import Dropout


class Reader(nn.Module):
    """Recurrent layers that read numbers (T, B, channels), or tokens (T, B): in both directions, or forward only."""

    def __init__(self, inputs: Inputs, options: SequenceOptions):
        super().__init__()
        o = options
        self.embedding = nn.Embedding(inputs.size, o.embedding_size) if inputs.size else None
        self.fading = Fading(len(inputs.mean)) if o.mark_gaps and inputs.mean else None
        self.categories = (
            Categories(map(len, inputs.categories.values()), o.embedding_size) if inputs.categories else None
        )
        self.numbers = inputs.width  # that are read of a step; 0 of texts
        width = inputs.width + (self.categories.more if self.categories is not None else 0)
        self.recurrent = Recurrent(
            cells.by_name(o.cell),
            o.embedding_size if inputs.size else width,
            o.hidden_size,
            o.num_layers,
            bidirectional=not o.forward_only,
            dropout=o.dropout if o.num_layers > 1 else 0.0,
            weight_dropout=o.weight_dropout,
        )
        self.dropout = Dropout(o.dropout)
        self.ear: Ear | None = None  # of a model that is exported
        self.samples = inputs.samples  # of a recording in each step, where the ear or an exported file hears them

    def listen(self, ear: Ear, samples: int) -> None:
        """Lets the model read samples, so many a step, in place of what they sound like."""
        self.ear, self.numbers, self.samples = ear, samples, samples

    def corrected(self, outputs: Tensor) -> Tensor:
        """Returns outputs (N, outputs) with what was chosen by the validation data, such as a temperature, if there is any."""
        return outputs

    def settle(self) -> None:
        """Gives the last layer what `corrected` does, which then does nothing: for a model that is trained no more."""

    def inputs(self, x: Tensor) -> Tensor:
        """Returns what the recurrent layers read of numbers, or of tokens."""
        if self.embedding is not None:
            return self.embedding(x)
        x = x if self.fading is None else self.fading(x)
        return x if self.categories is None else self.categories(x)

    def run(self, x: Tensor, lengths: Tensor, state: Hidden | None = None) -> tuple[Tensor, Hidden]:
        """Returns the outputs of the recurrent layers (T, B, D H), zero past the end of a sequence, and the states after x.

        state: those before.
        """
        x = self.inputs(x if self.ear is None else self.ear(x, lengths))
        x = x if self.embedding is None else self.dropout(x)
        return self.recurrent(x, state, lengths=lengths)


def last(state: Hidden) -> Tensor:
    """Returns the last outputs of both directions of the last layer, (B, 2 H): each where it ends. state: after a sequence."""
    states = state if isinstance(state, Tensor) else state[0]
    return states[-2:].transpose(0, 1).flatten(1)


class SequenceModel(Reader):
    """Recurrent layers in both directions; the mean, the maximum and the last of their outputs; and a linear layer.

    forward(x, lengths) takes numbers (T, B, channels), or tokens (T, B), and lengths (B,). It returns (B, outputs).
    With each_step the linear layer reads the layers' output at each step: it returns (T, B, outputs). A causal model
    has one direction only.
    """

    def __init__(self, inputs: Inputs, outputs: int, options: SequenceOptions):
        super().__init__(inputs, options)
        self.each_step = not options.pooled
        width = self.recurrent.num_directions * options.hidden_size
        self.output = nn.Linear(width if self.each_step else 3 * width, outputs)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.read(x, lengths)[0]

    def read(self, x: Tensor, lengths: Tensor, state: Hidden | None = None) -> tuple[Tensor, Hidden]:
        """Returns what `forward` does, and the states after x. state: those before."""
        h, after = self.run(x, lengths, state)
        return self.head(h, after, lengths), after

    def head(self, h: Tensor, state: Hidden, lengths: Tensor) -> Tensor:
        """Returns (B, outputs) of h (T, B, 2 H), which is zero past the end of a sequence, and of final states.

        With each_step (T, B, outputs), of h alone.
        """
        if self.each_step:
            return self.output(self.dropout(h))
        mean = h.sum(0) / lengths[:, None].to(h)
        # Not len(h), which an export takes for a fixed number of steps, and then does all of its work again.
        past = torch.arange(h.shape[0], device=h.device)[:, None] >= lengths  # (T, B)
        largest = h.masked_fill(past[..., None], -torch.inf).amax(0)
        return self.output(self.dropout(torch.cat([mean, largest, last(state)], -1)))


class Ear(nn.Module):
    """Samples of recordings as what a network reads: the power of each band, in deviations from its mean.

    forward(x, lengths) takes samples (T, B, step) in sequences of these lengths (B,), and returns (T, B, bands).
    """

    mean: Tensor  # buffers
    deviation: Tensor

    def __init__(self, spectrum: Spectrum, mean: Sequence[float], deviation: Sequence[float]):
        super().__init__()
        self.spectrum = spectrum
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("deviation", torch.tensor(deviation))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        past = torch.arange(x.shape[0], device=x.device)[:, None] >= lengths
        samples = x.masked_fill(past[..., None], 0).transpose(1, 2).flatten(0, 1)  # (T step, B)
        return (self.spectrum(samples) - self.mean) / self.deviation

    def step(self, x: Tensor) -> Tensor:
        """Returns what is heard at one step, (B, bands). x: the samples around it, (B, width)."""
        return (self.spectrum.at_step(x) - self.mean) / self.deviation


class Fading(nn.Module):
    """Numbers that fade to their mean, 0, while they grow old: exp(-max(rate, 0) age) x for each channel.

    forward(x) takes numbers, their ages and whatever else there is, (..., channels + channels + n). In place of the ages
    it returns 1 where a number is missing and 0 where it is measured, at which the age is negative.

    Source: Z. Che et al., Recurrent neural networks for multivariate time series with missing values (2018), GRU-D. Its
    rates have a bias, which is left out, so that a number that was just measured is itself.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.rate = nn.Parameter(torch.full((channels,), 0.1))  # by the usual time from a step to the next

    def forward(self, x: Tensor) -> Tensor:
        channels = len(self.rate)
        numbers, age, others = x.split([channels, channels, x.shape[-1] - 2 * channels], -1)
        faded = torch.exp(-self.rate.relu() * age.relu()) * numbers
        return torch.cat([faded, (age >= 0).to(x), others], -1)
