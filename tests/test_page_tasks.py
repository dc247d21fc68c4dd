"""The pages of taggers, classifiers, regressors and forecasters: their numbers, and the pages in a browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from browser import Opened, settled
from elman import explain
from elman.datasets.reading import BadRows
from elman.errors import InputError
from elman.explain import directions, past
from elman.explain.directions import pooled_shares
from elman.tasks import classification, forecasting, regression, tagging
from elman.training import fit
from tiny_runs import TAGGED, elman, lines, of_every_task

OpenPage = Callable[..., Opened]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return of_every_task(tmp_path_factory.mktemp("tasks"))


def test_held_out_sequences_have_the_names_of_the_file(made: SimpleNamespace):
    every = [json.loads(line) for line in (made.directory / "numbers.jsonl").read_text().splitlines()]
    shown = directions.classifier(made.numbers, None, None).data["sequences"]
    for each in shown:
        assert each["truth"] == every[int(each["name"]) - 1]["label"]  # the number of the line
        assert len(each["series"][0]) == len(every[int(each["name"]) - 1]["values"])
    named = "".join(json.dumps({"id": f"é{k}", **row}) + "\n" for k, row in enumerate(every, 1))
    before = (made.directory / "numbers.jsonl").read_text()
    (made.directory / "numbers.jsonl").write_text(named)
    try:
        again = directions.classifier(made.numbers, None, None).data["sequences"]
    finally:
        (made.directory / "numbers.jsonl").write_text(before)
    assert [each["name"] for each in again] == [f"é{each['name']}" for each in shown]


def close(mine: float, exact: float) -> bool:
    return mine == pytest.approx(exact, rel=2e-3, abs=2e-3)  # four digits are kept of each part


# Taggers


def test_what_both_directions_say_is_the_logit(made: SimpleNamespace):
    trained = tagging.load(made.tag)
    data = directions.tagger(made.tag, "the cat sat\ncat\nin the strange, of it", None).data
    assert [each["words"] for each in data["sentences"]] == [
        ["the", "cat", "sat"],
        ["cat"],
        ["in", "the", "strange,", "of", "it"],
    ]
    for sentence in data["sentences"]:
        batch = trained.encode([tagging.Sentence(sentence["words"], [])]).batch([0])
        with torch.no_grad():
            logits = trained.model(**batch)[:, 0]
        for t, shares in enumerate(sentence["shares"]):
            row = dict(zip(trained.vocabulary.tags, logits[t].tolist(), strict=True))
            assert shares[0]["name"] == sentence["predicted"][t] == max(row, key=lambda name: row[name])
            for each in shares:
                assert close(each["forward"] + each["backward"] + each["bias"], row[each["name"]])
            chances = dict(zip(row, logits[t].softmax(0).tolist(), strict=True))
            assert all(close(p, chances[name]) for name, p in sentence["likeliest"][t])
        assert sentence["truth"] is None


def test_the_forward_direction_knows_nothing_of_what_follows(made: SimpleNamespace):
    first, second = (
        directions.tagger(made.tag, text, None).data["sentences"][0]["shares"] for text in ("the cat sat", "the cat of")
    )
    by_name = [{each["name"]: each for each in shares[0]} for shares in (first, second)]
    both = by_name[0].keys() & by_name[1].keys()
    assert both
    for name in both:
        assert by_name[0][name]["forward"] == by_name[1][name]["forward"]
        assert by_name[0][name]["backward"] != by_name[1][name]["backward"]


def test_what_a_tag_depends_on_by_finite_differences(made: SimpleNamespace):
    trained = tagging.load(made.tag)
    words, model = ["the", "cat", "sat", "of"], trained.model.double()
    data = directions.tagger(made.tag, " ".join(words), None).data["sentences"][0]
    batch = trained.encode([tagging.Sentence(words, [])]).batch([0])
    lengths = batch.pop("lengths")
    with torch.no_grad():
        x = model.inputs(**batch)
        own = [trained.vocabulary.tags.index(name) for name in data["predicted"]]

        def chances(x: Tensor) -> Tensor:
            return model.output(model.recurrent(x, lengths=lengths)[0])[:, 0].log_softmax(-1)[range(4), own]

        norms = torch.zeros(4, 4, dtype=torch.float64)
        for s in range(4):
            d = torch.zeros(4, x.shape[2], dtype=torch.float64)
            for k in range(x.shape[2]):
                push = torch.zeros_like(x)
                push[s, 0, k] = 1e-5
                d[:, k] = (chances(x + push) - chances(x - push)) / 2e-5
            norms[:, s] = d.norm(dim=1)
    assert np.allclose(data["look"], norms, rtol=2e-3, atol=1e-6)
    assert norms.min() > 0  # all words count, before and after


def test_the_first_held_out_sentences_are_shown_with_their_tags(made: SimpleNamespace):
    data = directions.tagger(made.tag, None, None).data
    assert len(data["sentences"]) == 4  # a tenth
    for sentence in data["sentences"]:
        assert sentence["truth"] == ["DET" if word in TAGGED[:3] else "X" for word in sentence["words"]]
    bare = made.directory / "bare.txt"
    bare.write_text("the\ncat\n\nsat\n")
    assert [s["words"] for s in directions.tagger(made.tag, None, bare).data["sentences"]] == [["the", "cat"], ["sat"]]


def test_of_a_long_sentence_the_beginning_is_shown(made: SimpleNamespace):
    made_of = directions.tagger(made.tag, "the " * 120, None)
    assert len(made_of.data["sentences"][0]["words"]) == 100
    assert made_of.remarks == ["of sentence 1, the page shows and reads the first 100 of 120 words"]


# Classifiers


def test_the_shares_of_all_steps_are_the_logits_of_the_model(made: SimpleNamespace):
    for name in ("numbers", "texts"):
        trained = classification.load(getattr(made, name))
        data = directions.classifier(getattr(made, name), None, None).data
        path = made.directory / f"{name}.jsonl"
        texts = {len(each["look"][0]) for each in data["sequences"]}
        assert len(texts) > 1
        for sequence in data["sequences"]:
            content: Any = (
                " ".join(sequence["tokens"]) if sequence["tokens"] else np.array(sequence["series"], np.float32).T
            )
            logits = trained.outputs(trained.encode([directions.Labelled("", content, "a")], path))[0]
            row = dict(zip(trained.reading.classes, logits.tolist(), strict=True))
            ranked = sorted(row, key=lambda each: -row[each])
            assert [each["name"] for each in sequence["shares"]] == ranked[:2]
            assert sequence["predicted"] == ranked[0]
            assert sequence["truth"] in row
            for each in sequence["shares"]:
                assert close(each["bias"] + sum(each["forward"]) + sum(each["backward"]), row[each["name"]])
            assert close(max(sequence["probabilities"]), float(logits.softmax(0).max()))


def test_each_part_of_the_head_goes_where_it_belongs():
    h = torch.tensor([[1.0, 5.0], [3.0, -2.0], [2.0, 4.0]])  # (T, 2 H) of one unit in each direction
    mean, largest, last = torch.tensor([[3.0, 6.0]]), torch.tensor([[10.0, 100.0]]), torch.tensor([[1000.0, 10000.0]])
    forward, backward = pooled_shares(h, torch.cat([mean, largest, last], 1))[:, 0].tolist()
    assert forward == [1, 3 + 30, 2 + 2000]
    assert backward == [10 + 500 + 50000, -4, 8]


def test_what_a_class_depends_on_by_finite_differences(made: SimpleNamespace):
    trained = classification.load(made.numbers)
    sequence = directions.classifier(made.numbers, None, None).data["sequences"][0]
    values = np.array(sequence["series"]).T  # (T, channels)
    own, deviation = (
        [trained.reading.classes.index(each["name"]) for each in sequence["shares"]],
        trained.reading.deviation,
    )
    model = trained.model.double()
    x = (torch.tensor(values) - torch.tensor(trained.reading.mean)) / torch.tensor(deviation)
    lengths = torch.tensor([len(x)])
    with torch.no_grad():
        found = torch.zeros(2, len(x), x.shape[1], dtype=torch.float64)
        for t in range(len(x)):
            for k in range(x.shape[1]):
                push = torch.zeros_like(x, dtype=torch.float64)
                push[t, k] = 1e-6
                up, down = (model((x.double() + sign * push)[:, None], lengths)[0, own] for sign in (1, -1))
                found[:, t, k] = (up - down) / 2e-6
    assert np.allclose(sequence["look"], found.norm(dim=2), rtol=5e-3, atol=1e-5)


def test_many_steps_are_put_together(made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    whole = directions.classifier(made.numbers, None, None).data["sequences"]
    monkeypatch.setattr(directions, "DRAWN", 5)
    for few, all_of in zip(directions.classifier(made.numbers, None, None).data["sequences"], whole, strict=True):
        assert len(few["look"][0]) == len(few["shares"][0]["forward"]) == len(few["series"][0]) <= 5
        for mine, exact in zip(few["shares"], all_of["shares"], strict=True):
            assert sum(mine["forward"]) == pytest.approx(sum(exact["forward"]), abs=2e-3)
        assert max(few["look"][0]) == max(all_of["look"][0])


def test_texts_of_ones_own_to_classify(made: SimpleNamespace):
    data = directions.classifier(made.texts, "the cat\n\nsat of", None).data
    assert [each["tokens"] for each in data["sequences"]] == [["the", "cat"], ["sat", "of"]]
    assert [each["truth"] for each in data["sequences"]] == [None, None]
    bare = made.directory / "bare.jsonl"
    bare.write_text('{"values": [[1, 2], [3, 4]]}\n')
    assert directions.classifier(made.numbers, None, bare).data["sequences"][0]["series"] == [[1, 3], [2, 4]]


def test_words_that_the_network_cannot_tell_apart_are_crossed_out(
    made: SimpleNamespace, open_page: OpenPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    text = "the zebra, cat zebra"
    for drawn in (400, 2):  # one token at a time, and three
        monkeypatch.setattr(directions, "DRAWN", drawn)
        (sequence,) = directions.classifier(made.texts, text, None).data["sequences"]
        assert sequence["tokens"] == ["the", "zebra", ",", "cat", "zebra"]
        assert sequence["strange"] == [1, 2, 4]
        page = explain.page(made.texts, text).save(tmp_path / "page.html")
        shown = open_page(page, locale="en-US")
        assert shown.page.locator("#ribbon .strange").all_inner_texts() == ["zebra", ",", "zebra"]
        assert shown.page.locator("#ribbon").inner_text() == "the zebra , cat zebra "
        assert "lacks (zebra ,)" in shown.page.locator("#text .say").nth(1).inner_text()
        assert shown.errors == []
    shown = open_page(explain.page(made.texts, "the cat").save(tmp_path / "page.html"), locale="en-US")
    assert shown.page.locator("#text .say").count() == 1
    assert all(each["strange"] == [] for each in directions.classifier(made.numbers, None, None).data["sequences"])


# Numbers


def test_the_shares_of_all_steps_are_the_value_in_its_unit(made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    trained = regression.load(made.regress)
    reading = trained.reading
    swapped = []
    for seed in range(3):  # quantiles of random weights are in any order, and the page has to put them into theirs
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in trained.model.parameters():
                parameter.copy_(0.6 * torch.randn_like(parameter))
            if seed == 2:
                trained.model.output.bias.data += torch.tensor([-30.0, 0.0, 30.0])
        monkeypatch.setattr(regression, "load", lambda run: trained)
        data = directions.regressor(made.regress, None, None).data
        assert len(data["sequences"]) == 8
        given = [json.loads(line) for line in (made.directory / "valued.jsonl").read_text().splitlines()]
        for sequence in data["sequences"]:
            content = np.array(sequence["series"]).T
            encoded = trained.encode([directions.Labelled("", content, "0")], Path("none"))
            raw = trained.outputs(encoded)[0].double() * reading.spread[0] + reading.center[0]
            swapped.append(raw.tolist() != sorted(raw.tolist()))
            assert sequence["spread"] == pytest.approx(sorted(raw.tolist()), rel=1e-4, abs=1e-4)
            assert sequence["predicted"] == sequence["spread"][1]
            assert sequence["truth"] == pytest.approx(given[int(sequence["name"]) - 1]["label"], abs=1e-3)
            (share,) = sequence["shares"]
            total = share["bias"] + sum(share["forward"]) + sum(share["backward"])
            assert total == pytest.approx(sequence["predicted"], rel=2e-3)
    assert any(swapped)
    assert not all(swapped)


# Forecasters


@pytest.mark.parametrize("name", ["forecast", "recursive"])
def test_what_a_forecast_reads_by_finite_differences(made: SimpleNamespace, name: str):
    run = getattr(made, name)
    trained, data = forecasting.load(run), past.forecaster(run, None, None).data
    table = np.loadtxt(made.directory / "series.csv", delimiter=",", skiprows=1)
    o, scales = trained.options, trained.scales
    columns = ["y", "z"] if name == "forecast" else ["push", "y", "z"]
    assert [window["column"] for window in data["windows"]] == columns
    for k, window in enumerate(data["windows"]):
        column = table[:, ["t", "push", "y", "z"].index(window["column"])]
        cut = len(column) - o.horizon
        assert np.allclose(window["past"], column[cut - o.lookback : cut], rtol=1e-3)
        assert np.allclose(window["truth"], column[cut:], rtol=1e-3)
        known = torch.zeros(o.lookback + o.horizon, 1, len(scales.known), dtype=torch.float64)
        if scales.known:
            known[:, 0, 0] = torch.tensor((table[cut - o.lookback :, 1] - scales.mean[-1]) / scales.deviation[-1])
        double = forecasting.Forecaster(trained.model.double(), scales, o)

        def forecast(
            change: np.ndarray,
            k: int = k,
            column: np.ndarray = column,
            cut: int = cut,
            known: Tensor = known,
            double: Any = double,
        ) -> np.ndarray:
            values = torch.tensor((column[cut - o.lookback : cut] + change - scales.mean[k]) / scales.deviation[k])[
                :, None
            ]
            found = double.criterion.middle(double.forecast(values, torch.tensor([k]), known))[:, 0]
            return found.numpy() * scales.deviation[k] + scales.mean[k]

        assert np.allclose(window["forecast"], forecast(np.zeros(o.lookback)), rtol=1e-3, atol=1e-3)
        exact = np.stack([(forecast(push) - forecast(-push)) / 2e-4 for push in 1e-4 * np.eye(o.lookback)], 1)
        exact[:, -1] -= 1  # of the last value, whose change is forecast
        assert np.allclose(window["gradients"], exact[window["ahead"]], rtol=5e-3, atol=1e-4)
        assert len(window["spread"]) == (3 if name == "forecast" else 0)


def test_a_truth_that_was_filled_in_is_not_shown(open_page: OpenPage, tmp_path: Path):
    (tmp_path / "a.csv").write_text("t,y\n" + "".join(f"{t},{t % 4}\n" for t in range(60) if t not in (30, 56, 57)))
    options = forecasting.Options(
        time="t",
        fill_gaps=True,
        horizon=6,
        lookback=8,
        segment=4,
        period=4,
        split="0.6,0.4,0",
        hidden_size=4,
        epochs=0.1,
    )
    fit(forecasting.begin(tmp_path / "a.csv", options, "cpu", BadRows()), tmp_path / "run")
    (window,) = past.forecaster(tmp_path / "run", None, None).data["windows"]
    assert window["truth"] == [2, 3, None, None, 2, 3]
    assert None not in window["past"]
    page = open_page(explain.page(tmp_path / "run").save(tmp_path / "page.html"), locale="en-US").page
    page.wait_for_selector("#ribbon")
    paths = page.locator("#ribbon path").evaluate_all("(all) => all.map((each) => each.getAttribute('d'))")
    assert [path.count("M") for path in paths] == [1, 2, 1]  # past, truth, forecast
    assert [path.count("L") for path in paths] == [7, 2, 6]
    assert not any(word in path for path in paths for word in ("null", "NaN", "undefined"))


def test_values_far_from_zero_are_told_apart(made: SimpleNamespace, tmp_path: Path):
    table = np.loadtxt(made.directory / "series.csv", delimiter=",", skiprows=1)
    table[:, 2] += 101325.0
    (tmp_path / "far.csv").write_text(lines("t,push,y,z", *(",".join(map(str, row)) for row in table)))
    window = past.forecaster(made.forecast, None, tmp_path / "far.csv").data["windows"][0]
    assert np.allclose(window["truth"], table[-6:, 2], rtol=0, atol=1e-3)
    numbers = [{"values": (1e5 + np.arange(9) / 100).tolist()}, {"values": [3.0]}]
    (tmp_path / "far.jsonl").write_text(
        lines(*map(json.dumps, [{"values": [[v, v] for v in n["values"]]} for n in numbers]))
    )
    far, one = directions.classifier(made.numbers, None, tmp_path / "far.jsonl").data["sequences"]
    assert np.allclose(far["series"][0], 1e5 + np.arange(9) / 100, rtol=0, atol=1e-2)
    assert one["series"] == [[3], [3]]


# The pages


@pytest.fixture(
    params=["tag", "numbers", "texts", "several", "regress", "labels", "levels", "spoken", "translated", "forecast"]
)
def opened(
    request: pytest.FixtureRequest, made: SimpleNamespace, open_page: OpenPage, tmp_path: Path
) -> Callable[..., Opened]:
    path = explain.page(getattr(made, request.param)).save(tmp_path / "page.html")

    def open_it(**options: Any) -> Opened:
        shown = open_page(path, **{"locale": "en-US"} | options)
        shown.page.wait_for_selector("#ribbon")
        return shown

    return open_it


def test_the_page_in_a_browser(opened: Callable[..., Opened]):
    from axe_playwright_python.sync_playwright import Axe

    for width, scheme, language in ((1280, "light", "en-US"), (390, "dark", "zh-CN")):
        shown = opened(width=width, color_scheme=scheme, locale=language)
        ribbon, keyboard = shown.page.locator("#ribbon"), shown.page.keyboard
        count = int(ribbon.get_attribute("aria-valuemax") or 0)
        ribbon.focus()
        keyboard.press("Home")
        before = shown.page.locator("main").inner_html()
        keyboard.press("ArrowRight")
        assert shown.page.evaluate("elman.chosen.t") == min(1, count - 1)
        assert ribbon.get_attribute("aria-valuenow") == str(min(2, count))
        assert shown.page.locator("main").inner_html() != before
        assert shown.page.evaluate("document.activeElement.id") == "ribbon"
        shown.page.locator("#item-1").click()
        assert shown.page.evaluate("elman.chosen.item") == 1
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
        assert Axe().run(shown.page).violations_count == 0, Axe().run(shown.page).generate_report()
        written = shown.page.locator("main").inner_text()
        assert "undefined" not in written
        assert "NaN" not in written
        assert "{" not in written
        shown.page.locator("#language").click()
        settled(shown.page)
        assert shown.page.locator("main").inner_text() != written
        assert shown.errors == []
        assert len([address for address in shown.requests if not address.startswith("data:")]) == 1


def test_the_table_adds_up(made: SimpleNamespace, open_page: OpenPage, tmp_path: Path):
    shown = open_page(explain.page(made.tag, "the cat sat").save(tmp_path / "page.html"), locale="en-US")
    shown.page.locator("#ribbon .word").nth(1).click()
    rows = [row.split("\t")[1:] for row in shown.page.locator("#shares tbody tr").all_inner_texts()]
    table = [[float(cell.replace("−", "-")) for cell in row] for row in rows]
    for column in range(3):
        assert table[3][column] == pytest.approx(sum(row[column] for row in table[:3]), abs=0.03)
    for row in table:
        assert row[2] == pytest.approx(row[0] - row[1], abs=0.03)


def test_drawings_have_the_numbers(made: SimpleNamespace, open_page: OpenPage, tmp_path: Path):
    def of(run: Path, text: str | None = None) -> Any:
        page = open_page(
            explain.page(run, text).save(tmp_path / "page.html"), locale="en-US", color_scheme="light"
        ).page
        page.evaluate("elman.choose({ t: 1 })")
        settled(page)
        return page

    shown = of(made.tag, "the cat sat of")
    for t, look in enumerate(shown.evaluate("elman.items[0].look")):
        cells = shown.locator(f'#reach rect[data-t="{t}"]')
        xs, ys, fills = (
            cells.evaluate_all(f"(all) => all.map((each) => each.getAttribute('{name}'))")
            for name in ("x", "y", "fill")
        )
        greens = [int(fill.split()[1]) for fill in fills]
        assert len(set(ys)) == 1
        assert sorted(map(float, xs)) == list(map(float, xs))
        assert int(np.argmin(greens)) == int(np.argmax(look))

    shown = of(made.texts)
    sequence = shown.evaluate("elman.items[0]")
    said = [float(b.replace("−", "-")) for b in shown.locator("#reach p b").all_inner_texts()[1:3]]
    first = sequence["shares"][0]
    assert said == pytest.approx([first["forward"][1], first["backward"][1]], abs=6e-3)
    assert shown.locator("#chances .place").all_inner_texts() == ["1", "2", "3"]
    assert shown.locator("#chances .key.right").all_inner_texts() == [sequence["truth"]]

    shown = of(made.labels)
    look = shown.evaluate("elman.items[0].look[1]")
    high = shown.locator("#reach rect.other").evaluate_all("(all) => all.map((each) => +each.getAttribute('height'))")
    wanted = np.clip(1 + np.log10(np.maximum(look, 1e-30) / max(look)) / 3, 0, 1)
    assert np.allclose(np.array(high) / max(high), wanted, atol=0.01)
    assert shown.locator("#chances .place").count() == len(shown.evaluate("elman.items[0].likeliest[1]"))

    shown = of(made.forecast)
    high = (
        shown.locator("#reads svg")
        .first.locator("rect.level")
        .evaluate_all("(all) => all.map((each) => +each.getAttribute('height'))")
    )
    size = np.abs(shown.evaluate("elman.items[0].gradients[1]"))
    assert np.allclose(np.array(high) / max(high), size / size.max(), atol=0.01)


def test_the_frame_of_the_chosen_word_is_inside_the_sentence(
    made: SimpleNamespace, open_page: OpenPage, tmp_path: Path
):
    shown = open_page(explain.page(made.tag, "the cat sat of").save(tmp_path / "page.html"), locale="en-US").page
    edges = "(each) => [each.getBoundingClientRect().top, each.closest('#ribbon').getBoundingClientRect().top]"
    word, sentence = shown.locator("#ribbon .now").evaluate(edges)
    style = shown.locator("#ribbon .now").evaluate(
        "(each) => [getComputedStyle(each).outlineWidth, getComputedStyle(each).outlineOffset]"
    )
    assert word - sentence >= sum(float(size.removesuffix("px")) for size in style)


def test_the_truth_among_many_classes_keeps_its_rank(
    made: SimpleNamespace, open_page: OpenPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = directions.classifier(made.texts, "the cat", None)
    names = [f"class {k}" for k in range(40)]
    found.data["classes"] = names
    found.data["sequences"][0] |= {"probabilities": [(40 - k) / 820 for k in range(40)], "truth": "class 30"}
    monkeypatch.setattr(directions, "classifier", lambda *_: found)
    shown = open_page(explain.page(made.texts).save(tmp_path / "page.html")).page
    assert shown.locator("#chances .place").all_inner_texts() == [*map(str, range(1, 9)), "31"]


REFUSED = {
    "a text for numbers": (["{numbers}", "--text", "the"], ["{numbers} reads numbers", "--data"]),
    "a text for a forecaster": (["{forecast}", "--text", "1 2 3"], ["{forecast} forecasts numbers", "--data"]),
    "a text and data": (
        ["{tag}", "--text", "the cat", "--data", "{directory}/none.txt"],
        ["--text and --data {directory}/none.txt both say what {tag} reads; give one of them"],
    ),
    "a text and data to classify": (
        ["{texts}", "--text", "the cat", "--data", "{directory}/texts.jsonl"],
        ["--text and --data {directory}/texts.jsonl both"],
    ),
    "a text and series": (
        ["{forecast}", "--text", "1 2 3", "--data", "{directory}/series.csv"],
        ["{forecast} forecasts numbers", "give --data instead of --text"],
    ),
    "no words": (["{tag}", "--text", "  "], ["has no sentence"]),
    "no text": (["{texts}", "--text", ""], ["--text has no sequence"]),
    "data that are not there": (["{tag}", "--data", "{directory}/none.txt"], ["{directory}/none.txt", "No such file"]),
    "data of another kind": (["{numbers}", "--data", "{directory}/texts.jsonl"], ["{directory}/texts.jsonl"]),
    "too few rows": (
        ["{forecast}", "--data", "{directory}/short.csv"],
        ["{directory}/short.csv has 5 rows", "need 18"],
    ),
    "a comparison": (["{tag}", "--compare", "{tag}"], ["{tag} is a run of 'tag'", "--compare"]),
    "a picture": (["{tag}", "--output", "{directory}/a.png"], ["{tag} is a run of 'tag'", "--output NAME.html"]),
    "a layer": (["{tag}", "--layer", "1"], ["--layer is for pictures", "{tag}/page.html"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_ends_with_one_sentence(made: SimpleNamespace, case: str):
    (made.directory / "short.csv").write_text(lines("t,push,y,z", *(f"{t},1,2,3" for t in range(5))))
    places = {name: str(value) for name, value in vars(made).items()}
    arguments, mentions = ([part.format(**places) for part in parts] for parts in REFUSED[case])
    status, out, err = elman("explain", *arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert all(mention in err for mention in mentions), err


def test_data_that_are_gone(made: SimpleNamespace, tmp_path: Path):
    import shutil

    for name, remedy in (
        ("tag", "--data or --text"),
        ("numbers", "--data"),
        ("texts", "--data or --text"),
        ("forecast", "--data"),
    ):
        run = shutil.copytree(getattr(made, name), tmp_path / name)
        config = json.loads((run / "config.json").read_text())
        config["data"]["path"] = str(tmp_path / "gone.txt")
        (run / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match=rf"gone.txt.*give {remedy}$"):
            explain.page(run)


@pytest.mark.parametrize("name", ["tag", "numbers", "texts", "forecast"])
def test_data_that_have_changed(made: SimpleNamespace, tmp_path: Path, name: str):
    """Split anew, they would be shown as held out where they were learned from."""
    import shutil

    run = shutil.copytree(getattr(made, name), tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    file = Path(config["data"]["path"])
    config["data"]["path"] = str(tmp_path / file.name)
    (run / "config.json").write_text(json.dumps(config))
    rows = file.read_text().splitlines(True)
    (tmp_path / file.name).write_text("".join(rows))
    assert explain.page(run)
    (tmp_path / file.name).write_text("".join([*rows, *rows[-2:]] if name != "forecast" else rows[:-1]))
    remedy = "--data or --text" if name in ("tag", "texts") else "--data"
    with pytest.raises(InputError) as caught:
        explain.page(run)
    assert str(caught.value) == (
        f"the held-out part of the data of {run} cannot be shown: {tmp_path / file.name} changed after the training; "
        f"give {remedy}"
    )
    assert explain.page(run, data=tmp_path / file.name)
    (run / "checkpoint" / "state.safetensors").unlink()  # nothing says what the data were
    assert explain.page(run)


def test_a_series_that_became_shorter_than_its_parts(made: SimpleNamespace, tmp_path: Path):
    rows = (made.directory / "series.csv").read_text().splitlines(True)
    (tmp_path / "a.csv").write_text("".join(rows))
    options: Any = {"time": "t", "period": 4, "lookback": 12, "segment": 3, "horizon": 6, "split": "60,30,30"}
    task = forecasting.begin(
        tmp_path / "a.csv", forecasting.Options(hidden_size=4, epochs=0.1, **options), "cpu", BadRows()
    )
    fit(task, tmp_path / "run")
    (tmp_path / "a.csv").write_text("".join(rows[:100]))
    with pytest.raises(InputError, match=r"the training read 120 rows, but a series has 99; give --data$"):
        explain.page(tmp_path / "run")


def test_the_command_writes_a_page(made: SimpleNamespace):
    status, out, err = elman("explain", made.forecast)
    assert (status, out, err) == (0, "", f"page in {made.forecast / 'page.html'}; open it in a browser\n")
    assert (made.forecast / "page.html").read_text().startswith("<!doctype html>")
