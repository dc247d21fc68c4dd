"""What the arguments and results of a model are called in an ONNX file, and cases to prove the file on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from elman.errors import InputError
from elman.onnx.proof import Case
from elman.recurrent import Recurrent
from elman.tasks.forecasting import ForecastingModel
from elman.tasks.language_model import LanguageModel
from elman.tasks.multilabel import MultilabelModel
from elman.tasks.regression import RegressionModel
from elman.tasks.sequence_model import Reader, SequenceModel
from elman.tasks.tagging import TaggingModel
from elman.tasks.translation import END, OPEN, TranslationModel


class Port(NamedTuple):
    """A model, and what its arguments and results are called in a file."""

    model: nn.Module
    call: Callable[..., Any]  # takes the model and the inputs; returns tensors, in tuples
    inputs: Mapping[str, Mapping[int, str]]  # with the names of their free axes
    outputs: Mapping[str, int | None]  # with the sizes of their last axes, if these are fixed
    cases: Callable[[Sequence[int], Sequence[int]], Iterable[Case]]  # takes numbers of steps and of rows
    notes: Mapping[str, Any]  # what stands in the file's metadata as elman.NAME
    lengths: Mapping[str, str] = {}  # lengths that may be left out, and the inputs that have so many steps then
    states: Mapping[str, Tensor] = {}  # states that may be left out, and their values then, (L*D, 1, width)


# Layers


def layer(layer: Recurrent) -> Port:
    """A layer over a whole sequence."""
    names, batch, streams = layer.cell.states, 0 if layer.batch_first else 1, _streams(layer)

    def call(layer: Recurrent, x: Tensor, lengths: Tensor, *others: Tensor) -> Any:
        state, given = _separated(layer, others)
        return layer(x, state, lengths=lengths, streams=given)

    rows, widths = layer.num_layers * layer.num_directions, layer.cell.widths(layer.hidden_size, layer.proj_size)
    learned, dtype = layer.initial_states(), _dtype(layer)
    first = [state.detach()[:, None] for state in learned] or [torch.zeros(rows, 1, w, dtype=dtype) for w in widths]
    initial = {f"{name}_0": value for name, value in zip(names, first, strict=True)}

    def cases(steps: Sequence[int], batches: Sequence[int]) -> Iterator[Case]:
        random = torch.Generator().manual_seed(0)
        T = B = 0
        for T in steps:
            for B in batches:
                x = torch.randn(T, B, layer.input_size, dtype=dtype, generator=random)
                lengths = torch.randint(0, T + 1, (B,), generator=random)
                lengths[0] = 0 if B > 1 else T
                given = [torch.randn(T, B, layer.hidden_size, dtype=dtype, generator=random) for _ in streams]
                for values in (x, *given):
                    for b in range(B):
                        values[lengths[b] :, b] = torch.nan
                of_steps = [values.transpose(0, 1 - batch) for values in (x, *given)]
                states = [torch.randn(rows, B, width, dtype=dtype, generator=random) for width in widths]
                yield case_of(f"T = {T}, B = {B}", inputs, of_steps[0], lengths, *of_steps[1:], *states)
        sizes = layer.input_size, *[layer.hidden_size] * len(streams)
        x, *given = [torch.randn(T, B, size, dtype=dtype, generator=random).transpose(0, 1 - batch) for size in sizes]
        states = [value.expand(-1, B, -1) for value in first]
        feed = {"x": x} | dict(zip(streams, given, strict=True))
        yield Case("neither lengths nor states", (x, torch.full((B,), T), *given, *states), feed)

    of_step = {batch: "B", 1 - batch: "T"}
    inputs = {"x": of_step, "lengths": {0: "B"}} | dict.fromkeys(streams, of_step)
    inputs |= {name: {1: "B"} for name in initial}
    return Port(
        layer,
        call,
        inputs,
        {"y": layer.num_directions * widths[0]}
        | {f"{name}_n": width for name, width in zip(names, widths, strict=True)},
        cases,
        _notes(layer) | {"batch_first": layer.batch_first},
        {"lengths": "x"},
        initial,
    )


def step(layer: Recurrent) -> Port:
    """One step of a layer. States may be left out if the layer has learned the first ones."""
    if layer.bidirectional:
        raise InputError(f"{layer} is bidirectional: it reads the end of a sequence first, so it cannot be streamed")
    rows, widths = layer.num_layers, layer.cell.widths(layer.hidden_size, layer.proj_size)
    dtype = _dtype(layer)
    learned = {
        f"{name}_0": value.detach()[:, None]
        for name, value in zip(layer.cell.states, layer.initial_states(), strict=False)
    }

    streams = _streams(layer)

    def call(layer: Recurrent, x: Tensor, *others: Tensor) -> Any:
        state, given = _separated(layer, others)
        return layer.step(x, state, streams=given)

    def cases(steps: Sequence[int], batches: Sequence[int]) -> Iterator[Case]:
        random = torch.Generator().manual_seed(0)
        for B in (*batches, *batches):
            x = torch.randn(B, layer.input_size, dtype=dtype, generator=random)
            given = [torch.randn(B, layer.hidden_size, dtype=dtype, generator=random) for _ in streams]
            states = [torch.randn(rows, B, width, dtype=dtype, generator=random) for width in widths]
            yield case_of(f"B = {B}", inputs, x, *given, *states)
            if learned:
                feed = {"x": x} | dict(zip(streams, given, strict=True))
                yield Case("no states", (x, *given, *(v.expand(-1, B, -1) for v in learned.values())), feed)

    inputs = {"x": {0: "B"}} | {name: {0: "B"} for name in streams}
    inputs |= {f"{name}_0": {1: "B"} for name in layer.cell.states}
    outputs = {"y": widths[0]} | {f"{name}_n": width for name, width in zip(layer.cell.states, widths, strict=True)}
    return Port(layer, call, inputs, outputs, cases, _notes(layer) | {"streaming": True}, states=learned)


def _notes(layer: Recurrent) -> dict[str, Any]:
    return {"task": "layer", "cell": layer.cell.name, "states": pairs(layer)}


def pairs(layer: Recurrent) -> list[list[str]]:
    """Returns the names of the inputs and outputs that are a layer's states before and after: [["h_0", "h_n"], ...]."""
    return [[f"{name}_0", f"{name}_n"] for name in layer.cell.states]


def _dtype(layer: Recurrent) -> torch.dtype:
    """Returns the type of a layer's parameters; for a cell without any, torch's default."""
    return next((each.dtype for each in layer.parameters()), torch.get_default_dtype())


def as_state(states: Sequence[Tensor]) -> Any:
    """Returns states as a layer takes them: one alone, or a tuple."""
    return states[0] if len(states) == 1 else tuple(states)


def _streams(layer: Recurrent) -> list[str]:
    """Returns the names of the inputs that are a layer's streams."""
    return [f"u_{name}" for name in layer.cell.streams]


def _separated(layer: Recurrent, inputs: Sequence[Tensor]) -> tuple[Any, dict[str, Tensor] | None]:
    """Returns the states and the streams among the last inputs, which are streams and then states, as a layer takes them."""
    count = len(layer.cell.streams)
    return as_state(inputs[count:]), dict(zip(layer.cell.streams, inputs[:count], strict=True)) or None


def case_of(name: str, names: Iterable[str], *values: Tensor) -> Case:
    """Returns a case in which each value is given under its name."""
    return Case(name, values, dict(zip(names, values, strict=True)))


# The models of the tasks


def of_task(model: nn.Module, streaming: bool = False) -> Port:
    """The port of the model of a task. Raises InputError for one that cannot be streamed."""
    port = _of_task(model, streaming)
    if isinstance(model, MultilabelModel):
        port = port._replace(notes=dict(port.notes) | {"thresholds": {"logits": model.threshold.tolist()}})
    return port


def _of_task(model: nn.Module, streaming: bool) -> Port:
    if isinstance(model, LanguageModel):
        return language_model_step(model) if streaming else language_model(model)
    output = "values" if isinstance(model, RegressionModel) else "logits"
    if streaming and isinstance(model, SequenceModel) and not model.recurrent.bidirectional:
        return sequence_step(model, output)
    if streaming:
        why = "reads the end of a sequence first"
        if isinstance(model, ForecastingModel):
            why = "forecasts from a whole past"
        raise InputError(f"a {type(model).__name__} {why}, so it cannot be streamed; leave --streaming out")
    if isinstance(model, TaggingModel):
        return tagger(model)
    if isinstance(model, SequenceModel):
        return of_sequences(model, output)
    if isinstance(model, TranslationModel):
        return translator(model)
    if isinstance(model, ForecastingModel):
        return forecaster(model)
    raise TypeError(f"no port is known for {type(model).__name__}")


def language_model(model: LanguageModel) -> Port:
    """Tokens (T, B) and states, to logits (T, B, size) and states."""
    recurrent, size = model.recurrent, model.embedding.num_embeddings
    initial = {
        f"{name}_0": torch.zeros(recurrent.num_layers, 1, recurrent.hidden_size) for name in recurrent.cell.states
    }

    def call(model: LanguageModel, tokens: Tensor, *states: Tensor) -> Any:
        return model(tokens, as_state(states))

    def cases(steps: Sequence[int], batches: Sequence[int]) -> Iterator[Case]:
        draw = Draw()
        for T in steps:
            for B in batches:
                states = [draw.normal(recurrent.num_layers, B, recurrent.hidden_size) for _ in initial]
                yield case_of(f"T = {T}, B = {B}", inputs, draw.below(size, T, B), *states)
        tokens = draw.below(size, steps[-1], batches[-1])
        states = [value.expand(-1, batches[-1], -1) for value in initial.values()]
        yield Case("no states", (tokens, *states), {"tokens": tokens})

    inputs = {"tokens": {0: "T", 1: "B"}} | {name: {1: "B"} for name in initial}
    outputs = {"logits": size} | {f"{name}_n": recurrent.hidden_size for name in recurrent.cell.states}
    return Port(model, call, inputs, outputs, cases, {"states": pairs(recurrent)}, states=initial)


def language_model_step(model: LanguageModel) -> Port:
    """Tokens (B,) and states, to logits (B, size) and states."""

    def call(model: LanguageModel, tokens: Tensor, *states: Tensor) -> Any:
        h, state = model.recurrent.step(model.embedding(tokens), as_state(states))
        return model.logits(h), state

    size = model.embedding.num_embeddings
    return _one_step(model, call, "tokens", lambda draw, B: draw.below(size, B), "logits", size)


def _one_step(
    model: LanguageModel | SequenceModel,
    call: Callable[..., Any],
    name: str,
    drawn: Callable[[Draw, int], Tensor],
    output: str,
    size: int,
) -> Port:
    """The input of a step and states, to an output (B, size) and states. drawn: draws the input of so many rows."""
    recurrent = model.recurrent

    def cases(steps: Sequence[int], batches: Sequence[int]) -> Iterator[Case]:
        draw = Draw()
        for B in (*batches, *batches):
            states = [draw.normal(recurrent.num_layers, B, recurrent.hidden_size) for _ in recurrent.cell.states]
            yield case_of(f"B = {B}", inputs, drawn(draw, B), *states)

    inputs = {name: {0: "B"}} | {f"{state}_0": {1: "B"} for state in recurrent.cell.states}
    outputs = {output: size} | {f"{state}_n": recurrent.hidden_size for state in recurrent.cell.states}
    return Port(model, call, inputs, outputs, cases, {"states": pairs(recurrent), "streaming": True})


def tagger(model: TaggingModel) -> Port:
    """Words (T, B) in sentences of these lengths (B,), their forms (T, B) and the spelling of these, to logits (T, B, tags).

    With a CRF also to tags (T, B), -1 past the ends.
    """

    def call(model: TaggingModel, *inputs: Tensor) -> Any:
        return model(*inputs) if model.crf is None else model.tagged(*inputs)

    def cases(steps: Sequence[int], batches: Sequence[int]) -> Iterator[Case]:
        draw = Draw()
        forms = lengths = characters = sizes = words = torch.empty(0)
        for T in steps:
            for B in batches:
                count = T * B // 2 + 1
                words, forms = draw.below(model.words.num_embeddings, T, B), draw.below(count, T, B)
                lengths, sizes = draw.lengths(T, B), draw.lengths(2 * T, count)
                characters = draw.below(model.characters.num_embeddings, 2 * T, count)
                yield case_of(f"T = {T}, B = {B}", inputs, words, lengths, forms, characters, sizes)
        whole, full = torch.full_like(lengths, len(words)), torch.full_like(sizes, len(characters))
        given = words, whole, forms, characters, full
        yield Case("no lengths", given, {"words": words, "forms": forms, "characters": characters})

    grid, spelled = {0: "T", 1: "B"}, {0: "C", 1: "U"}
    inputs = {"words": grid, "lengths": {0: "B"}, "forms": grid, "characters": spelled, "sizes": {0: "U"}}
    return Port(
        model,
        call,
        inputs,
        {"logits": model.output.out_features} | ({} if model.crf is None else {"tags": None}),
        cases,
        {},
        {"lengths": "words", "sizes": "characters"},
    )


def of_sequences(model: SequenceModel, output: str) -> Port:
    """Numbers x (T, B, channels), or tokens (T, B), in sequences of these lengths (B,), to (B, outputs).

    With each_step to (T, B, outputs). A causal model also takes states, and returns those after x; but not if it hears
    samples, since what is around a step may be in another call.
    """
    recurrent = model.recurrent
    name, causal = "x" if model.embedding is None else "tokens", not (recurrent.bidirectional or model.samples)
    initial = {
        f"{state}_0": torch.zeros(recurrent.num_layers, 1, recurrent.hidden_size)
        for state in (recurrent.cell.states if causal else ())
    }

    def call(model: SequenceModel, x: Tensor, lengths: Tensor, *states: Tensor) -> Any:
        return model.read(x, lengths, as_state(states)) if causal else model(x, lengths)

    def cases(steps: Sequence[int], batches: Sequence[int]) -> Iterator[Case]:
        draw = Draw()
        x = lengths = torch.empty(0)
        for T in steps:
            for B in batches:
                x, lengths = draw.sequences(model, T, B)
                states = [draw.normal(recurrent.num_layers, B, recurrent.hidden_size) for _ in initial]
                yield case_of(f"T = {T}, B = {B}", inputs, x, lengths, *states)
        x, full = x.nan_to_num(0.0), torch.full_like(lengths, len(x))
        states = [value.expand(-1, len(lengths), -1) for value in initial.values()]
        yield Case("neither lengths nor states" if causal else "no lengths", (x, full, *states), {name: x})

    inputs = {name: {0: "T", 1: "B"}, "lengths": {0: "B"}} | {state: {1: "B"} for state in initial}
    outputs, notes = {output: model.output.out_features}, {}
    if causal:
        outputs |= {f"{state}_n": recurrent.hidden_size for state in recurrent.cell.states}
        notes = {"states": pairs(recurrent)}
    return Port(model, call, inputs, outputs, cases, notes, {"lengths": name}, initial)


def translator(model: TranslationModel) -> Port:
    """Numbers x (T, B, channels), or tokens (T, B), in sequences of these lengths (B,), to texts (N, B) and logits of them.

    given (N, B) are the outputs to write, -1 where the likeliest one is: all of them if it is left out.
    """
    name, outputs = "x" if model.embedding is None else "tokens", model.output.out_features

    def call(model: TranslationModel, x: Tensor, lengths: Tensor, given: Tensor) -> Any:
        return model.write(x, lengths, given)

    def cases(steps: Sequence[int], batches: Sequence[int]) -> Iterator[Case]:
        draw = Draw()
        x = lengths = torch.empty(0)
        for T in steps:
            for B in batches:
                (x, lengths), given = draw.sequences(model, T, B), draw.below(outputs, 1 + T, B)
                given[-1, 1::2] = END
                yield case_of(f"T = {T}, B = {B}", inputs, x, lengths, given)
                begun = given.clone()
                begun[T // 2 :, ::2] = OPEN
                yield case_of(f"T = {T}, B = {B}, beginnings of texts", inputs, x, lengths, begun)
        x, full = x.nan_to_num(0.0), torch.full_like(lengths, len(x))
        yield Case("neither lengths nor texts", (x, full, None), {name: x})

    inputs = {name: {0: "T", 1: "B"}, "lengths": {0: "B"}, "given": {0: "N", 1: "B"}}
    return Port(model, call, inputs, {"logits": outputs, "text": None}, cases, {}, {"lengths": name})


def sequence_step(model: SequenceModel, output: str) -> Port:
    """Numbers x (B, n) of a step, as `Encoded.scaled` has them, or tokens (B,), and states, to (B, outputs) and states.

    Of a model that hears, x is the samples around the step.
    """
    embedding = model.embedding

    def call(model: SequenceModel, x: Tensor, *states: Tensor) -> Any:
        read = x if model.ear is None else model.ear.step(x)
        h, state = model.recurrent.step(model.inputs(read), as_state(states))
        return model.output(h), state

    def drawn(draw: Draw, B: int) -> Tensor:
        return draw.steps(model, B) if embedding is None else draw.below(embedding.num_embeddings, B)

    return _one_step(model, call, "x" if embedding is None else "tokens", drawn, output, model.output.out_features)


def forecaster(model: ForecastingModel) -> Port:
    """The past (lookback, N), the numbers of the columns (N,) and what is known (lookback + ahead, N, numbers), to (ahead, N, outputs)."""
    lookback, ahead, columns = model.lookback, model.horizon, len(model.column)

    def call(model: ForecastingModel, past: Tensor, column: Tensor, *given: Tensor) -> Any:
        none = past.new_empty(lookback + ahead, past.shape[1], 0)
        return model(past, column, given[0] if given else none)

    def cases(steps: Sequence[int], batches: Sequence[int]) -> Iterator[Case]:
        draw = Draw()
        for N in (*batches, *batches):
            values = [draw.normal(lookback, N), draw.below(columns, N)]
            if model.numbers:
                values.append(draw.steps(model, lookback + ahead, N))
            yield case_of(f"N = {N}", inputs, *values)

    inputs = {"past": {1: "N"}, "column": {0: "N"}} | ({"known": {1: "N"}} if model.numbers else {})
    return Port(model, call, inputs, {"forecast": model.outputs}, cases, {})


class Draw:
    """Random inputs, always the same."""

    def __init__(self):
        self.random = torch.Generator().manual_seed(0)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random)

    def steps(self, model: Reader | ForecastingModel, *shape: int) -> Tensor:
        """The numbers of steps, and codes of categories behind them."""
        known = () if model.categories is None else model.categories.known
        numbers = self.normal(*shape, model.numbers - len(known))
        return torch.cat([numbers, *(self.below(count + 1, *shape, 1) for count in known)], -1)

    def sequences(self, model: Reader, T: int, B: int) -> tuple[Tensor, Tensor]:
        """The numbers of steps (T, B, numbers), NaN past the end of a sequence, or tokens (T, B); and lengths."""
        if model.embedding is not None:
            return self.below(model.embedding.num_embeddings, T, B), self.lengths(T, B)
        x, lengths = self.steps(model, T, B), self.lengths(T, B)
        past = torch.arange(T)[:, None] >= lengths
        return x.masked_fill(past[..., None], torch.nan), lengths

    def below(self, size: int, *shape: int) -> Tensor:
        """Numbers of rows of an embedding, the last row among them."""
        drawn = torch.randint(size, shape, generator=self.random)
        drawn.view(-1)[-1] = size - 1
        return drawn

    def lengths(self, most: int, rows: int) -> Tensor:
        """Lengths from 1, the largest among them."""
        drawn = torch.randint(1, most + 1, (rows,), generator=self.random)
        drawn[-1] = most
        return drawn
