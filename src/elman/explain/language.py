"""What the page of a language model holds: its weights, its cell's graph and equations, a text, and units that track something."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from elman import graph, mathematics
from elman.cell import Cell
from elman.datasets.text import Corpus, blocks
from elman.datasets.vocabulary import Bytes, Characters, Vocabulary, Words
from elman.errors import InputError
from elman.explain import units
from elman.explain.contents import Contents, check_size, names
from elman.explain.memory import FADED, by_memory, encoded, gradients_by_token, looks_back, reach
from elman.explain.trace import trace
from elman.explain.units import pieces
from elman.tasks.language_model import PER, LanguageModel, TrainedLanguageModel, count_unknown, load
from elman.tasks.options import LanguageModelOptions as Options
from elman.tasks.separate import Changed
from elman.training.run import Run

SHOWN = 2000  # tokens that the page reads at most, the last ones of the text; what is before them is read here
DEFAULT = 400  # characters of held-out text that are shown if no text is given
SEARCHED = 20_000  # held-out tokens in which units are sought that track something
RANKED = 1000  # tokens by which units are put in order at most: the work grows with their square
SINGLE = 2_000_000  # parameters up to which weights are float32; more are float16


def language_models(runs: Sequence[Path], text: str | None) -> Contents:
    """Returns what the page of some language models holds.

    runs: that of the page, then those to compare it with. text: None for held-out text of the first run.
    Raises InputError if the runs cannot be compared, or if a page cannot hold them or the text.
    """
    models = [load(run) for run in runs]
    first = models[0]
    for run, model in zip(runs, models, strict=True):
        if model.vocabulary.unit != first.vocabulary.unit:
            raise InputError(
                f"{run} reads {model.vocabulary.unit}, but {runs[0]} reads {first.vocabulary.unit}; compare runs of the same unit"
            )
        check_size(model.model, run)
    held_out = [_held_out(model) for model in models]
    if text is None:
        text = _passage(first, held_out[0])
    ids = [encoded(model.vocabulary, text) for model in models]
    per, many = PER[first.vocabulary.unit], len(ids[0])
    tokens = pieces(first.vocabulary, text, ids[0])
    for run, model, own in zip(runs[1:], models[1:], ids[1:], strict=True):
        if pieces(model.vocabulary, text, own) != tokens:
            raise InputError(f"{run} cuts the text into other tokens than {runs[0]}; compare runs of one tokenizer")
    remarks, findings, networks = list[str](), list[str](), list[dict[str, Any]]()
    if many > SHOWN:
        remarks.append(f"the page shows the last {SHOWN} of {many} {per}s; the network has read those before them")
    for run, name, model, own, apart in zip(runs, names(runs), models, ids, held_out, strict=True):
        networks.append({"name": name, "score": _score(Run(run), model, apart)} | _network(model, own, tokens, apart))
        findings.append(f"{name}: {looks_back(reach(gradients_by_token(model.model, own)), len(own) - 1, per)}")
    data = {
        "task": "lm",
        "unit": first.vocabulary.unit,
        "tokens": tokens[-SHOWN:],
        "before": max(0, many - SHOWN),
        "typed": first.vocabulary.unit in ("characters", "bytes"),
        "most": SHOWN,
        "faded": FADED,
        "networks": networks,
    }
    return Contents(data, findings, remarks)


def _score(run: Run, trained: TrainedLanguageModel, held_out: Corpus | str) -> dict[str, float | None] | None:
    """Returns the evaluation by which the weights were kept; None if the run has none.

    bits: per character; None where so many tokens are unknown that bits are no length of the text, or where there are no
    characters. unknown: the share of unknown tokens; None if none can be, or the text is not at hand.
    """
    rows = run.metrics("validation_nats", "bits_per_character", "perplexity")
    best = min(rows, key=lambda row: float(row["validation_nats"]), default=None)
    if best is None:
        return None
    bits, share = float(best["bits_per_character"]), None
    if isinstance(held_out, Corpus) and trained.vocabulary.unknown is not None:
        share = count_unknown(held_out.validation, trained.vocabulary) / len(held_out.validation)
    return {"bits": None if math.isnan(bits) else bits, "perplexity": float(best["perplexity"]), "unknown": share}


def _held_out(trained: TrainedLanguageModel) -> Corpus | str:
    """Returns the text that a run was trained on, with its held-out part; or why there is none."""
    data = trained.config["data"]
    try:
        corpus = trained.corpus()
    except Changed:
        return "changed"
    except InputError:
        return "gone"
    sizes = len(corpus.train), len(corpus.validation)
    same = corpus.excerpt == data["excerpt"] and sizes == (data["train_tokens"], data["validation_tokens"])
    return corpus if same else "changed"


def _passage(trained: TrainedLanguageModel, held_out: Corpus | str) -> str:
    """Returns the held-out text that begins with the excerpt that the run keeps; the excerpt alone if there is no more."""
    excerpt, unit = str(trained.config["data"]["excerpt"]), trained.vocabulary.unit
    if isinstance(held_out, str):
        return excerpt
    file = Options(**trained.config["options"]).validation or trained.config["data"]["path"]
    # The file itself is searched, since its tokens may stand for words that the vocabulary lacks.
    passage, read_so_far = excerpt, ""
    for block in blocks(None if file is None else Path(file), unit):
        read_so_far = read_so_far[-DEFAULT:] + (block if isinstance(block, str) else block.decode("utf-8", "replace"))
        if (begin := read_so_far.rfind(excerpt)) >= 0:  # held-out text is at the end
            passage = read_so_far[begin : begin + DEFAULT]
    return passage


def symbols(vocabulary: Vocabulary) -> list[str]:
    """Returns how each token is written by itself."""
    if isinstance(vocabulary, Characters):
        return [*vocabulary.symbols, "\N{REPLACEMENT CHARACTER}"]
    if isinstance(vocabulary, Words):
        return [*vocabulary.words, "\N{REPLACEMENT CHARACTER}"]
    if isinstance(vocabulary, Bytes):
        return [chr(k) if k < 128 else f"\\x{k:02x}" for k in range(256)]
    return [vocabulary.decoder()(token) for token in range(vocabulary.size)]


def _network(trained: TrainedLanguageModel, ids: Tensor, tokens: list[str], held_out: Corpus | str) -> dict[str, Any]:
    """Returns a network, and what is known of the last SHOWN of these tokens, as written and as numbers."""
    model, vocabulary = trained.model, trained.vocabulary
    shown, state = ids[-SHOWN:], None
    with torch.no_grad():
        if len(ids) > SHOWN:
            _, state = model.recurrent(model.embedding(ids[:-SHOWN, None]))
        traced = trace(model.recurrent, model.embedding(shown[:RANKED, None]), state)
    orders = [{name: by_memory(v[:, 0]).tolist() for name, v in r.states.items()} for r in traced.recurrences]
    return model_as_data(model, state) | {
        "window": Options(**trained.config["options"]).window,
        "symbols": symbols(vocabulary),
        "unknown": vocabulary.unknown,
        "ids": shown.tolist(),
        "orders": orders,
        "tracking": _tracking(trained, tokens, held_out),
    }


def model_as_data(model: LanguageModel, state: Any = None) -> dict[str, Any]:
    """Returns a model as `engine.js` reads it: its sizes, its cell, its weights, and the state that it begins with."""
    weights = dict(model.recurrent.named_parameters())
    weights |= {"embedding": model.embedding.weight, "output": model.output.weight, "output_bias": model.output.bias}
    if model.bias is not None:
        weights["bias"] = model.bias
    count = sum(p.numel() for p in weights.values())
    fits_half = all(float(p.detach().abs().max()) <= torch.finfo(torch.float16).max for p in weights.values())
    precision = "f2" if count > SINGLE and fits_half else "f4"
    return {
        "cell": cell_as_data(model.recurrent.cell),
        "layers": model.recurrent.num_layers,
        "hidden": model.recurrent.hidden_size,
        "embedding": model.embedding.embedding_dim,
        "size": model.embedding.num_embeddings,
        "parameters": count,
        "precision": precision,
        "weights": {name: _pack(value, precision) for name, value in weights.items()},
        "state": None if state is None else _by_layer(model, state),
    }


def cell_as_data(cell: Cell) -> dict[str, Any]:
    """Returns a cell's graph and its equations. A node is [operation, arguments, name, value].

    Raises InputError if the cell's step cannot be traced.
    """
    try:
        traced = graph.trace(cell)
    except graph.NotTraceable as error:
        raise InputError(f"cell {cell.name!r} has no graph that a page could run: {error}") from error
    return {
        "name": cell.name,
        "reference": cell.reference,
        "gates": {gate: traced.gate(gate).index for gate in cell.gates},
        "inputGates": cell.anatomy.input_gates,
        "recurrentGates": cell.anatomy.recurrent_gates,
        "vectors": cell.vectors,
        "projected": cell.projected,
        "nodes": [[n.op, [a.index for a in n.arguments], n.name, n.value] for n in traced.nodes],
        "outputs": {name: node.index for name, node in traced.outputs.items()},
        "equations": [[[term.text, term.node] for term in line] for line in mathematics.terms(cell)],
    }


def _by_layer(model: LanguageModel, state: Any) -> list[dict[str, str]]:
    states = state if isinstance(state, tuple) else (state,)  # each (L, 1, width)
    names = model.recurrent.cell.states
    return [
        {name: _pack(value[layer, 0], "f4") for name, value in zip(names, states, strict=True)}
        for layer in range(model.recurrent.num_layers)
    ]


def _pack(value: Tensor, precision: str) -> str:
    """Returns numbers in base64, little-endian: float32 for "f4", float16 for "f2"."""
    array: NDArray[Any] = value.detach().float().cpu().numpy()
    return base64.b64encode(array.astype(f"<{precision}").tobytes()).decode()


def _tracking(trained: TrainedLanguageModel, text: list[str], held_out: Corpus | str) -> dict[str, Any]:
    """Returns the units that track something, with where it holds in the shown text; or why they are not known."""
    if isinstance(held_out, str):
        return {"missing": held_out, "found": []}
    tokens = held_out.validation[:SEARCHED].long()
    found = []
    for each in units.find(trained.model, trained.vocabulary, tokens):
        along = units.along(text, each.property)[-SHOWN:]
        found.append(each._asdict() | {"along": along.tolist()})
    return {"missing": None, "found": found}
