"""What the page of a translator holds: what it writes, and how much each symbol looks at what was read."""

from __future__ import annotations

from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elman.datasets.sequences import Labelled
from elman.explain.contents import Contents, rounded
from elman.explain.shown import SHOWN, beginning, chosen_sequences, head, series_of
from elman.recurrence import use_engine
from elman.tasks import texts, translation
from elman.tasks.gathered import split
from elman.tasks.pieces import Pieces
from elman.tasks.translation import END, Translator

STEPS = 120  # of a sequence, and symbols of a text, at most: a drawing has a field for each pair of them
LIKELIEST = 5  # symbols whose probabilities are shown


def translator(run: Path, text: str | None, data: Path | None) -> Contents:
    """Returns what the page of a translator holds.

    text: texts, one in each line. data: a file of sequences, with labels or without.
    """
    trained = translation.load(run)
    page = head(run, trained, ["", *trained.reading.symbols], text)
    every, source = chosen_sequences(run, trained, text, data)
    shown, remarks = list[dict[str, Any]](), list[str]()
    for each in islice(every, SHOWN):
        part, steps = beginning(each, page["unit"], STEPS)
        if steps > STEPS:
            remarks.append(f"of sequence {each.name}, the page shows and reads the first {STEPS} of {steps} steps")
        shown.append(_translated(trained, part, source))
        if shown[-1]["more"]:
            remarks.append(f"of the text of sequence {each.name}, the page shows the first {STEPS} symbols")
    return Contents(page | {"sequences": shown}, [], remarks)


def _translated(trained: Translator, sequence: Labelled, source: Path) -> dict[str, Any]:
    """Returns a sequence, what is written for it, how likely each symbol is, and how much it looks at each step."""
    encoded, model = trained.encode([sequence], source), deepcopy(trained.model).double().eval()
    x, lengths = encoded.batch(Pieces.whole(np.arange(1), encoded.rows.lengths))
    with torch.no_grad(), use_engine("reference"):
        x = x.double() if model.embedding is None else x
        logits, said = model.write(x, lengths)
        look = model.looks(x, lengths, said)[0]  # (N, S)
    names, tokens = ["", *trained.reading.symbols], None
    if isinstance(sequence.content, str):
        tokens = split(sequence.content, trained.options.unit) or [""]
    known, chances = set(trained.reading.tokens), logits[:STEPS, 0].softmax(-1)
    order = chances.argsort(-1, descending=True)[:, :LIKELIEST]
    outputs, unit = said[:, 0].tolist(), trained.options.label_unit
    text = trained.text(k for k in outputs if k != END)
    return {
        "name": sequence.name,
        "tokens": tokens,
        "strange": [t for t, token in enumerate(tokens or []) if token not in known],
        "series": None if tokens is not None else series_of(sequence),
        "label": sequence.label,
        "text": trained.text(k for k in outputs[:STEPS] if k != END),
        "right": None if sequence.label is None else texts.spell(str(sequence.label), unit) == texts.spell(text, unit),
        "cut": END not in outputs,
        "written": [names[k] for k in outputs[:STEPS]],
        "more": len(outputs) > STEPS,
        "likeliest": [[[names[k], rounded(float(chances[t, k]))] for k in own] for t, own in enumerate(order.tolist())],
        "look": [[float(f"{v:.2g}") for v in row] for row in look[:STEPS].tolist()],
    }
