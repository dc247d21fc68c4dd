"""What the pages of taggers, classifiers of both kinds, regressors and transcribers hold: what each direction says, and how far it looks, back and ahead.

The last layer's two directions enter an output by a sum, W_f h_f + W_b h_b + b, so what each of them says is exact.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elman.datasets import conll, sequences
from elman.datasets.conll import Sentence
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Labelled
from elman.errors import InputError
from elman.explain.contents import Contents, described, held_out_part, rounded
from elman.explain.shown import SHOWN, beginning, chosen_sequences, head, series_of, words_of
from elman.recurrence import use_engine
from elman.tasks import classification, multilabel, regression, tagging, transcription
from elman.tasks.classification import Classifier
from elman.tasks.gathered import Gathered, split
from elman.tasks.multilabel import Multilabeler
from elman.tasks.pieces import Pieces
from elman.tasks.regression import Regressor
from elman.tasks.sequence_model import SequenceModel
from elman.tasks.tagging import Tagger
from elman.tasks.transcription import Transcriber
from elman.tasks.values import Criterion
from elman.tasks.whole import Trained

WORDS = 100  # of a sentence at most: each word takes a pass backward over all
STEPS = 2000  # of a sequence at most
EVERY = 240  # steps of a sequence at most of which something is said; each takes a pass backward over all
FEW = 4  # such sequences
CLASSES = 4  # of a sequence that may have several, each of which is shown on its own
DRAWN = 400  # steps that are drawn of a sequence at most; of more, as many at a time are put together
BLANK = ""  # what the output of a transcriber is called that says nothing
LIKELIEST = 5  # tags whose probabilities are shown


def tagger(run: Path, text: str | None, data: Path | None) -> Contents:
    """Returns what the page of a tagger holds.

    text: sentences, one in each line, whose words stand between blanks. data: a file of sentences, with tags or without.
    """
    trained = tagging.load(run)
    page = {"task": "tag"} | described(run, trained.model, trained.options, trained.vocabulary.tags)
    chosen, remarks = list[Sentence](), list[str]()
    for number, sentence in enumerate(islice(_sentences(run, trained, text, data), SHOWN), 1):
        if len(sentence.words) > WORDS:
            remarks.append(
                f"of sentence {number}, the page shows and reads the first {WORDS} of {len(sentence.words)} words"
            )
        chosen.append(Sentence(sentence.words[:WORDS], sentence.tags[:WORDS]))
    if not chosen:
        raise InputError(f"{data or 'the text'} has no sentence; give at least one")
    return Contents(page | {"sentences": [_tagged(trained, each) for each in chosen]}, [], remarks)


def _sentences(run: Path, trained: Tagger, text: str | None, data: Path | None) -> Iterable[Sentence]:
    if text is not None:
        return (Sentence(words, []) for line in text.splitlines() if (words := line.split()))
    if data is not None:
        return _with_tags_if_any(data, trained)
    with held_out_part(run, "--data or --text"):
        found, _, validation = trained.read_again()
    forms, tags = list(found.forms), list(found.tags)

    def sentence(k: int) -> Sentence:
        return Sentence([forms[n] for n in found.forms_of[k]], [tags[n] for n in found.tags_of[k]])

    # Sentences of a few words show little, and long ones are hard to survey; but where there are no others, they must do.
    return (sentence(k) for k in sorted(validation, key=lambda k: not 5 <= found.forms_of.lengths[k] <= 30))


def _with_tags_if_any(data: Path, trained: Tagger) -> Iterator[Sentence]:
    options, found = trained.options, list[Sentence]()
    with contextlib.suppress(InputError):
        found = list(islice(conll.sentences(data, options.tag, bad=BadRows(options.skip_bad)), SHOWN))
    # It may have words only: this is an error, or all of them are skipped.
    yield from found or conll.sentences(data, options.tag, tagged=False, bad=BadRows(options.skip_bad))


def _tagged(trained: Tagger, sentence: Sentence) -> dict[str, Any]:
    """Returns a sentence, its tags, and for every word what each direction says of them and what this depends on."""
    model, names = deepcopy(trained.model).double().eval(), trained.vocabulary.tags
    batch = trained.encode([sentence]).batch([0])
    lengths = batch.pop("lengths")
    with use_engine("reference"):
        with torch.no_grad():
            inputs = model.inputs(**batch)
            h = model.recurrent(inputs, lengths=lengths)[0][:, 0]  # (T, 2 H)
            scores = model.output(h)  # (T, tags)
            logits, tags, around = scores, scores.argmax(-1), dict[str, Tensor]()
            if model.crf is not None:
                logits, tags = model.crf(scores[:, None])[:, 0], model.crf.decode(scores[:, None])[:, 0]
                before, after = (each[:, 0] for each in model.crf.messages(scores[:, None]))
                around["before"] = before - before.mean(-1, keepdim=True)
                around["after"] = after - after.mean(-1, keepdim=True)
        order = logits.argsort(-1, descending=True)
        # Beside the tag that is said, the likeliest of the others.
        others = order[order != tags[:, None]].view(len(tags), len(names) - 1)
        shown = torch.cat([tags[:, None], others[:, :1]], 1)
        look = _both_ways(model, inputs, lengths, tags)
    return {
        "words": sentence.words,
        "truth": sentence.tags or None,
        "predicted": [names[k] for k in tags.tolist()],
        "likeliest": _likeliest(logits, order, names),
        "shares": _shares(model, h, shown, names, around=around),
        "look": [[rounded(v) for v in row] for row in look.tolist()],
    }


def _likeliest(logits: Tensor, order: Tensor, names: Sequence[str]) -> list[list[list[Any]]]:
    """Returns the likeliest names at each step and their probabilities. order: all of them, (T, names), likelier ones first."""
    chances = logits.softmax(-1)
    return [
        [[names[k], rounded(float(chances[t, k]))] for k in own] for t, own in enumerate(order[:, :LIKELIEST].tolist())
    ]


def _shares(
    model: tagging.TaggingModel | SequenceModel,
    h: Tensor,
    order: Tensor,
    names: Sequence[str],
    unit: float = 1.0,
    offset: float = 0.0,
    around: Mapping[str, Tensor] | None = None,
) -> list[list[dict[str, Any]]]:
    """Returns what each direction adds to some outputs of each step.

    h: (T, 2 H), or (T, H) if the model reads forward only: the backward direction then adds nothing. order: the numbers of
    the outputs, (T, n). unit: what outputs are multiples of; offset: what is added besides the model's own bias. around: what
    the outputs of other steps add, (T, outputs), by names.
    """
    width, weight = model.recurrent.hidden_size, model.output.weight.detach()
    forward, backward = (unit * h[:, own] @ weight[:, own].T for own in (slice(width), slice(width, None)))
    bias = unit * model.output.bias.detach() + offset
    return [
        [
            {
                "name": names[k],
                "forward": rounded(float(forward[t, k])),
                "backward": rounded(float(backward[t, k])),
                "bias": rounded(float(bias[k])),
            }
            | {name: rounded(float(value[t, k])) for name, value in (around or {}).items()}
            for k in own
        ]
        for t, own in enumerate(order.tolist())
    ]


def _both_ways(
    model: tagging.TaggingModel | SequenceModel,
    inputs: Tensor,
    lengths: Tensor,
    own: Tensor,
    chances: bool = True,
) -> Tensor:
    """Returns the norm of d log p(tag own[t] of word t) / d inputs[s], row t and column s of (T, T).

    inputs: (T, 1, I), what the recurrent layers read of a sentence. chances: whether outputs are logits; else the norm is
    that of the gradient of the output itself.
    """
    # As many copies of the sentence side by side as it has words, one for each: then one pass backward serves all.
    words = torch.arange(len(inputs))
    copies = inputs.detach().repeat(1, len(words), 1).requires_grad_()
    h, _ = model.recurrent(copies, lengths=lengths.repeat(len(words)))
    if isinstance(model, tagging.TaggingModel) and model.crf is not None:
        told = model.crf(model.output(h))[words, words]  # (T, outputs), of word t in copy t
    else:
        outputs = model.output(h[words, words])
        told = outputs.log_softmax(-1) if chances else outputs
    (d_x,) = torch.autograd.grad(told[words, own].sum(), copies)  # (T, copies, I)
    return d_x.norm(dim=2).T


def _as_they_are(_: Gathered, own: NDArray[np.int64]) -> list[int]:
    return own.tolist()


def classifier(run: Path, text: str | None, data: Path | None) -> Contents:
    """Returns what the page of a classifier holds.

    text: texts, one in each line. data: a file of sequences, with labels or without.
    """
    trained = classification.load(run)
    order = _turns if trained.options.pooled else _as_they_are
    return _whole(run, text, data, trained, trained.reading.classes, order, _classes)


def regressor(run: Path, text: str | None, data: Path | None) -> Contents:
    """Returns what the page of a model that predicts a number holds; its arguments are those of `classifier`."""
    trained = regression.load(run)
    return _whole(run, text, data, trained, [], said=_value, outputs=lambda *_: list(enumerate(trained.values)))


def multilabeler(run: Path, text: str | None, data: Path | None) -> Contents:
    """Returns what the page of a multi-label classifier holds; its arguments are those of `classifier`."""
    trained = multilabel.load(run)
    order = _turns if trained.options.pooled else partial(_richest, trained)
    found = _whole(run, text, data, trained, trained.reading.classes, order, _there, partial(_shown_classes, trained))
    found.data["thresholds"] = [rounded(p) for p in trained.model.threshold.sigmoid().tolist()]
    return found


def transcriber(run: Path, text: str | None, data: Path | None) -> Contents:
    """Returns what the page of a transcriber holds; its arguments are those of `classifier`."""
    trained = transcription.load(run)
    return _whole(run, text, data, trained, [BLANK, *trained.reading.symbols])


def _whole(
    run: Path,
    text: str | None,
    data: Path | None,
    trained: Classifier | Multilabeler | Regressor | Transcriber,
    classes: Sequence[str],
    order: Callable[[Gathered, NDArray[np.int64]], list[int]] = _as_they_are,
    said: Callable[[Any, Tensor, str | None, int], Said] | None = None,
    outputs: Callable[[Labelled, Path], Sequence[tuple[int, str]]] = lambda *_: [(0, "")],
) -> Contents:
    """order: in which order held-out sequences are shown. said: what the model says of a sequence, if it is pooled.

    outputs: which values or classes of a sequence are shown, each on its own, and what they are called: nothing if there is one.
    """
    options = trained.options
    page = head(run, trained, classes, text)
    every, source = chosen_sequences(run, trained, text, data, order)
    shown, remarks = list[dict[str, Any]](), list[str]()
    if said is not None and options.pooled:
        most, read = SHOWN, partial(_read, say=said)
    else:
        most, read = SHOWN if options.pooled else FEW, _every
        page |= {"each_step": True, "causal": options.causal}
        page |= {"categories": ["text"]} if page["unit"] is not None else {}
    for n, each in enumerate(every, 1):
        part, steps = (each, 0) if read is not _every else beginning(each, page["unit"], EVERY)
        own = outputs(part, source)
        if shown and len(shown) + len(own) > most:
            break
        if steps > EVERY:
            remarks.append(f"of sequence {each.name}, the page shows and reads the first {EVERY} of {steps} steps")
        for k, name in own:
            content = read(trained, part, source, k=k)
            shown.append(content | ({"group": str(n), "column": name} if name else {}))
    return Contents(page | {"sequences": shown}, [], remarks)


def _turns(found: Gathered, own: NDArray[np.int64]) -> list[int]:
    """Returns these places in turns by class, so that several are shown."""
    seen: dict[int, list[int]] = {}
    for k in own:
        seen.setdefault(int(found.labels[k][0]), []).append(int(k))
    return [k for _, k in sorted((place, k) for own in seen.values() for place, k in enumerate(own))]


def _richest(trained: Multilabeler, found: Gathered, own: NDArray[np.int64]) -> list[int]:
    """Returns these places; sequences in which many different classes occur come first."""
    return multilabel.Sets(found, trained.reading).richest(own).tolist()


class Said(NamedTuple):
    """What a model says of a sequence, and which of its outputs, times a unit, add up to it."""

    contents: dict[str, Any]
    shares: list[tuple[int, str]]  # numbers of outputs, and what they are called
    unit: float = 1.0
    bias: float = 0.0  # besides the model's own


def _classes(trained: Classifier, logits: Tensor, truth: str | None, _: int) -> Said:
    names = trained.reading.classes
    order = logits.argsort(descending=True)[:2].tolist()
    chances = [rounded(p) for p in logits.softmax(-1).tolist()]
    contents = {"truth": truth or None, "predicted": names[order[0]], "probabilities": chances}
    return Said(contents, [(k, names[k]) for k in order])


def _there(trained: Multilabeler, logits: Tensor, truth: str | None, k: int) -> Said:
    """k: which of the classes."""
    chances = [rounded(p) for p in logits.sigmoid().tolist()]
    contents = {
        "truth": _true_classes(trained, truth),
        "predicted": trained.names(trained.said(logits)),
        "probabilities": chances,
    }
    return Said(contents, [(k, trained.reading.classes[k])])


def _true_classes(trained: Multilabeler, label: str | None) -> list[str] | None:
    """Returns the classes that a label has; None if there is none, as data that are explained need none."""
    if label is None:
        return None
    (own, _), (others, _) = multilabel.members([label], trained.reading.classes, trained.reading.columns)
    return [*trained.names(own == 1), *others]


def _shown_classes(trained: Multilabeler, sequence: Labelled, source: Path) -> list[tuple[int, str]]:
    """Returns the likeliest of the classes that a sequence has, or is said to have, or else the likeliest of all."""
    labels = [sequence.label] if sequence.labels is None else sequence.labels
    true = {name for label in labels for name in _true_classes(trained, label) or ()}
    most = trained.outputs(trained.encode([sequence], source)).amax(0)
    names, said = trained.reading.classes, trained.said(most)
    order = most.argsort(descending=True).tolist()
    own = [k for k in order if said[k] or names[k] in true][:CLASSES] or order[:1]
    return [(k, names[k]) for k in own]


def _value(trained: Regressor, outputs: Tensor, truth: str | None, k: int) -> Said:
    """k: which of the values."""
    reading, criterion, first = trained.reading, trained.criterion, k * trained.criterion.outputs
    center, spread = reading.center[k], reading.spread[k]
    outputs = outputs[first : first + criterion.outputs]
    order = outputs.argsort()  # as `Criterion.in_order` has them
    own = [rounded(float(v) * spread + center, spread) for v in outputs[order]]
    value = sequences.numbers_in(truth, len(reading.center))[k]  # data that are explained need no labels
    contents = {
        "truth": None if np.isnan(value) else rounded(value, spread),
        "predicted": float(criterion.middle(torch.tensor(own, dtype=torch.float64))),
        "quantiles": list(criterion.quantiles),
        "spread": own,
    }
    return Said(contents, [(first + int(criterion.middle(order)), "")], spread, center)


def _read(
    trained: Trained[Any, Any],
    sequence: Labelled,
    source: Path,
    say: Callable[[Any, Tensor, str | None, int], Said],
    k: int = 0,
) -> dict[str, Any]:
    """Returns a sequence, what the model says of it, what each step adds in each direction and what this depends on.

    k: which of several values, or classes.
    """
    content = sequence.content
    tokens = split(content, trained.options.unit) if isinstance(content, str) else None
    encoded = trained.encode([sequence], source)
    if (steps := int(encoded.rows.lengths[0])) > STEPS:
        raise InputError(
            f"{source}: sequence {sequence.name} has {steps} steps, but a page shows at most {STEPS}; give a shorter one"
        )
    model, known = deepcopy(trained.model).double().eval(), set(trained.reading.tokens)
    x, lengths = encoded.batch(Pieces.whole(np.arange(1), encoded.rows.lengths))
    with use_engine("reference"):
        with torch.no_grad():
            inputs = model.inputs(x.double() if model.embedding is None else x)
        inputs = inputs.requires_grad_()
        h, state = model.recurrent(inputs, lengths=lengths)  # (T, 1, 2 H)
        outputs = model.head(h, state, lengths)[0]  # (outputs,)
        said = say(trained, outputs.detach(), sequence.label, k)
        look = [_norms(outputs[k], inputs) for k, _ in said.shares]
    bias = model.output.bias.detach()
    parts = said.unit * pooled_shares(h[:, 0].detach(), model.output.weight.detach())  # (2, outputs, T)
    stride = -(-steps // DRAWN)
    cuts = range(0, steps, stride)
    return {
        "name": sequence.name,
        "tokens": tokens or ([""] if tokens is not None else None),
        "strange": [t for t, token in enumerate(tokens or []) if token not in known],
        "series": None if isinstance(content, str) else series_of(sequence, stride),
        "words": [] if tokens is not None else words_of(trained, sequence, stride),
        "stride": stride,
        **said.contents,
        "shares": [
            {
                "name": name,
                "bias": rounded(said.unit * float(bias[k]) + said.bias),
                "forward": [rounded(float(parts[0, k, cut : cut + stride].sum())) for cut in cuts],
                "backward": [rounded(float(parts[1, k, cut : cut + stride].sum())) for cut in cuts],
            }
            for k, name in said.shares
        ],
        "look": [[max(norms[cut : cut + stride]) for cut in cuts] for norms in look],
    }


def _every(
    trained: Classifier | Multilabeler | Regressor | Transcriber, sequence: Labelled, source: Path, k: int = 0
) -> dict[str, Any]:
    """Returns a sequence, what the model says of each step, what each direction adds to this, and what it depends on.

    k: which of several values, or of several classes of a step.
    """
    encoded, model = trained.encode([sequence], source), deepcopy(trained.model).double().eval()
    x, lengths = encoded.batch(Pieces.whole(np.arange(1), encoded.rows.lengths))
    classes, names, criterion, center, spread = [], [""] * trained.width, Criterion("mse"), 0.0, 1.0
    if isinstance(trained, Classifier):
        names = classes = trained.reading.classes
    elif isinstance(trained, Transcriber):
        names = classes = [BLANK, *trained.reading.symbols]
    elif isinstance(trained, Multilabeler):
        names = trained.reading.classes
    else:
        criterion, center, spread = trained.criterion, trained.reading.center[k], trained.reading.spread[k]
    first = k * criterion.outputs
    with use_engine("reference"):
        with torch.no_grad():
            inputs = model.inputs(x.double() if model.embedding is None else x)
            h = model.recurrent(inputs, lengths=lengths)[0][:, 0]  # (T, 2 H), or (T, H) if causal
            outputs = model.output(h)  # (T, outputs)
        if not classes:
            outputs = outputs[:, first : first + criterion.outputs]
        # The likeliest classes first; or the output that is the middle one, of those that rise.
        order = (
            outputs.argsort(-1, descending=True) if classes else first + criterion.middle(outputs.argsort(-1))[:, None]
        )
        look = _both_ways(model, inputs, lengths, order[:, 0], bool(classes))
    content = {
        "name": sequence.name,
        "series": [] if isinstance(sequence.content, str) else series_of(sequence),
        "words": words_of(trained, sequence),
        "shares": _shares(model, h, order[:, :2], names, spread, center),
        "look": [[float(f"{v:.2g}") for v in row] for row in look.tolist()],
    }
    labels = list(sequence.labels or ())
    if isinstance(trained, Transcriber):
        ((said, _),) = transcription.read_off(order[:, :1].numpy(), lengths.numpy())
        content["text"], content["label"] = trained.text(said), sequence.label
    if classes:
        content["truth"] = labels if any(label is not None for label in labels) else None
        content["predicted"] = [classes[k] for k in order[:, 0].tolist()]
        content["likeliest"] = _likeliest(outputs, order, classes)
        return content
    if isinstance(trained, Multilabeler):
        known = [
            None if np.isnan(own[k]) else float(own[k]) for own in encoded.members(encoded.all_places(np.arange(1)))
        ]
        chances = [rounded(p) for p in outputs[:, 0].sigmoid().tolist()]
        content["truth"] = known if any(v is not None for v in known) else None
        return content | {"spread": [[p] for p in chances], "predicted": chances, "quantiles": []}
    values = outputs.sort(-1).values * spread + center
    known = (sequences.numbers_in(label, trained.width // criterion.outputs)[k] for label in labels)
    truth = [None if np.isnan(v) else rounded(v, spread) for v in known]
    content["truth"] = truth if any(v is not None for v in truth) else None
    content["spread"] = [[rounded(v, spread) for v in row] for row in values.tolist()]
    content["predicted"] = [rounded(v, spread) for v in criterion.middle(values).tolist()]
    content["quantiles"] = list(criterion.quantiles)
    return content


def pooled_shares(h: Tensor, weight: Tensor) -> Tensor:
    """Returns what each step adds to each output of the linear layer in each direction, (2, outputs, T).

    h: (T, 2 H), the outputs of the last layer. weight: (outputs, 6 H), those of their mean, their maximum, and the last one.
    The mean is a sum over steps. A unit's maximum belongs to the step where it is (the first, if several have it). The last
    output belongs to the last step of the forward direction, and to the first step of the backward direction.
    """
    steps, width = h.shape
    mean, largest, last = weight.split(width, 1)  # each (outputs, 2 H)
    every = mean[:, None] * h / steps  # (outputs, T, 2 H)
    place = h.argmax(0)  # (2 H,), of equal ones the first
    units = torch.arange(width)
    every[:, place, units] += largest * h[place, units]
    forward, backward = units[: width // 2], units[width // 2 :]
    every[:, -1, forward] += last[:, forward] * h[-1, forward]
    every[:, 0, backward] += last[:, backward] * h[0, backward]
    return torch.stack([every[:, :, forward].sum(-1), every[:, :, backward].sum(-1)])


def _norms(value: Tensor, x: Tensor) -> list[float]:
    """Returns the norm of the gradient of a value by every step of x (T, 1, I)."""
    (d_x,) = torch.autograd.grad(value, x, retain_graph=True)
    return [rounded(v) for v in d_x[:, 0].norm(dim=1).tolist()]
