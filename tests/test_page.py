"""The page of a language model in a real browser: what it shows, how it is used, and what it refuses to do."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from browser import Opened, settled
from elman import Cell, State
from elman.errors import InputError
from elman.explain import contents, language, page, units
from elman.explain.memory import gradients_by_token, reach
from elman.explain.units import Tracking
from elman.tasks.language_model import load
from elman.training.loop import MODEL
from elman.training.run import Run
from forks import Child, Forks
from tiny_runs import elman, prose

TEXT = 'the "of and" (to the in)\n  a is that it was\nfor on are as with they'
VIEWS = ["text", "predictions", "unrolled", "equations", "along", "units", "reach", "tracking"]
SIZES = ["--hidden-size", 12, "--embedding-size", 6, "--batch-size", 4, "--window", 8, "--epochs", 1]

OpenPage = Callable[..., Opened]


def train(directory: Path, name: str, *options: object) -> Path:
    text = directory / "text.txt"
    text.write_text('"(é)"\n' * 3 + prose(3000))
    outcome = elman("train", "lm", text, "--run", directory / name, *SIZES, *options)
    assert outcome.status == 0, outcome.err
    return directory / name


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A peephole LSTM of two layers."""
    return train(tmp_path_factory.mktemp("runs"), "peephole", "--cell", "peephole_lstm", "--num-layers", 2)


@pytest.fixture(scope="module")
def other(run: Path) -> Path:
    """An Elman network."""
    return train(run.parent, "elman", "--cell", "rnn")


@pytest.fixture(scope="module")
def both(run: Path, other: Path) -> Path:
    """The page of both."""
    return page(run, TEXT, [other]).save(run.parent / "page.html")


@pytest.fixture
def opened(both: Path, open_page: OpenPage) -> Callable[..., Opened]:
    """A function that opens the page of both, when all of it is drawn."""
    return lambda **options: complete(open_page(both, **{"locale": "en-US"} | options))


def complete(opened: Opened) -> Opened:
    opened.page.wait_for_selector("#tracking h2")
    return opened


def drawn(opened: Opened) -> Opened:
    """Waits for the slow views, which are drawn a little later."""
    settled(opened.page)
    return opened


def chosen(opened: Opened, name: str = "t") -> Any:
    return opened.page.evaluate(f"elman.chosen.{name}")


# The file


def test_it_asks_for_nothing_and_fits_every_screen(opened: Callable[..., Opened]):
    for width in (390, 1280):
        shown = opened(width=width)
        assert [address for address in shown.requests if not address.startswith("data:")] == [
            shown.page.url.split("#")[0]
        ]
        assert shown.errors == []
        for mode in ("forward", "backward"):
            shown.page.evaluate(f"elman.choose({{ mode: '{mode}' }})")
            assert drawn(shown).page.evaluate("document.documentElement.scrollWidth") <= width
        for view in VIEWS:
            assert shown.page.locator(f"#{view}").bounding_box()["height"] > 60, view  # pyright: ignore[reportOptionalSubscript]


def test_it_lets_no_other_script_run_and_nothing_out(opened: Callable[..., Opened]):
    shown = opened()
    refused = shown.page.evaluate("""async () => {
      const refused = [];
      document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
      const script = document.createElement("script"), picture = document.createElement("img");
      script.textContent = "window.ran = true";
      picture.setAttribute("onload", "window.ran = true");
      picture.src = "http://example.invalid/a.png";
      document.body.append(script, picture);
      await fetch("http://example.invalid/").catch(() => null);
      await new Promise((go) => setTimeout(go, 50));
      return refused;
    }""")
    assert sorted(refused) == ["connect-src", "img-src", "script-src-attr", "script-src-elem"]
    assert shown.page.evaluate("window.ran") is None


def test_the_same_run_and_text_give_the_same_bytes_without_a_path(run: Path, tmp_path: Path):
    copy = shutil.copytree(run, tmp_path / run.name)
    first, again = page(run, TEXT).html, page(copy, TEXT).html
    assert first == again
    assert str(run.parent) not in first


HOSTILE = "</script><img src=x onerror=alert(1)><!--\0\u202e&amp; ${1} {t} /*SCRIPT*/ \u2028😀'\"\\"


def test_hostile_text_is_shown_as_text(run: Path, open_page: OpenPage, tmp_path: Path):
    shown = complete(open_page(page(run, HOSTILE).save(tmp_path / "page.html")))
    asked = []
    shown.page.on("dialog", lambda dialog: asked.append(dialog.message))
    assert shown.page.evaluate("elman.tokens.join('')") == HOSTILE
    assert shown.page.locator("#ribbon i").count() == len(HOSTILE)
    written = shown.page.locator("#ribbon").inner_text()
    assert "</script><img" in written
    assert "\u202e" not in written  # which would turn the rest of the text round
    shown.page.locator("#type").click()
    shown.page.locator("#typed").fill(HOSTILE[:40])
    assert shown.page.locator("img").count() == 0
    assert (asked, shown.errors) == ([], [])


def test_text_that_is_none_is_refused(run: Path):
    with pytest.raises(InputError, match="not UTF-8"):
        page(run, "the \ud800 of")


# Using it


def test_keys(opened: Callable[..., Opened]):
    shown = opened()
    ribbon, keyboard = shown.page.locator("#ribbon"), shown.page.keyboard
    ribbon.focus()
    for key, where in (("Home", 0), ("ArrowRight", 1), ("ArrowDown", 11), ("ArrowLeft", 10), ("End", len(TEXT) - 1)):
        keyboard.press(key)
        assert chosen(shown) == where
        assert ribbon.get_attribute("aria-valuenow") == str(where + 1)
        assert shown.page.evaluate("document.activeElement.id") == "ribbon"
        assert shown.page.locator("#ribbon .now").get_attribute("data-t") == str(where)
    assert "expected next" in (ribbon.get_attribute("aria-valuetext") or "")
    shown.page.locator("#lens-reach").focus()
    keyboard.press("Enter")
    assert chosen(shown, "lens") == "reach"
    assert shown.page.evaluate("document.activeElement.id") == "lens-reach"  # although the view was drawn again
    shown.page.locator("#map").focus()
    keyboard.press("ArrowDown")
    assert drawn(shown).page.evaluate("document.activeElement.id") == "map"
    assert shown.errors == []


def test_a_tap_on_a_small_screen(opened: Callable[..., Opened]):
    shown = opened(width=390, has_touch=True)
    shown.page.locator("#ribbon i").nth(20).tap()
    assert chosen(shown) == 20
    drawn(shown).page.locator("#unrolled .column").first.tap(position={"x": 20, "y": 6})
    assert chosen(shown) == 19


def test_a_click_in_the_heat_map(opened: Callable[..., Opened]):
    shown = drawn(opened())
    shown.page.locator("#map").scroll_into_view_if_needed()
    box = shown.page.locator("#map").bounding_box()
    assert box is not None
    order = shown.page.evaluate("elman.networks[0].data.orders[elman.chosen.layer].c")
    for t, row in ((7, 2), (50, 9)):
        place = {"x": box["width"] * (t + 0.5) / len(TEXT), "y": box["height"] * (row + 0.5) / len(order)}
        shown.page.locator("#map").click(position=place)  # pyright: ignore[reportArgumentType]
        assert (chosen(shown), chosen(shown, "unit")) == (t, order[row])


def test_every_view_shows_the_chosen_moment(opened: Callable[..., Opened]):
    shown = opened()
    seen = []
    for t in (12, 30):
        shown.page.locator("#ribbon i").nth(t).click()
        seen.append({view: drawn(shown).page.locator(f"#{view}").inner_html() for view in VIEWS})
    for view in VIEWS[:-1]:  # a unit tracks something whatever is chosen
        assert seen[0][view] != seen[1][view], view


def test_the_network_unrolled(opened: Callable[..., Opened]):
    for width, steps in ((390, 2), (1280, 5)):
        shown = opened(width=width)
        for mode in ("forward", "backward"):
            shown.page.evaluate(f"elman.choose({{ mode: '{mode}', t: 30 }})")
            drawing = drawn(shown).page.locator("#unrolled svg")
            assert drawing.locator(".column").count() == steps
            assert drawing.locator(".box").count() == 2 * steps
        said = drawing.locator("text").all_text_contents()
        norm = shown.page.evaluate("elman.gradient(0, 30).states[1].c[30]")
        assert sum(word == "∂E/∂c" for word in said) == 2 * steps
        assert any(word.startswith("E = ") for word in said)
        assert any(word[:3] == f"{norm:.3g}"[:3] for word in said)
        assert drawing.locator(".edge").count() == (0 if steps < 8 else 1)
    assert "windows of 8 steps" in shown.page.locator("#unrolled").inner_text()


def test_the_edge_of_the_window_is_marked(opened: Callable[..., Opened]):
    shown = opened()
    shown.page.evaluate("elman.networks[0].data.window = 3; elman.choose({ mode: 'backward', t: 30 })")
    assert drawn(shown).page.locator("#unrolled .edge").count() == 1


DRAWN = """() => {
  const [network] = elman.networks, [trace] = elman.traces, all = (what) => [...document.querySelectorAll(what)], steps = elman.tokens.map((_, t) => t);
  const canvas = document.querySelector("#map canvas"), pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const value = (layer, name, unit) => steps.map((t) => network.state(trace, layer, t, name)[unit]), points = (path) => path.getAttribute("d").slice(1).split("L").map((point) => Number(point.split(" ")[1]));
  const colour = (text) => text.match(/\\d+/g).map(Number);
  const units = all("#unrolled .unit").map((text) => Number(text.textContent.split(" ").at(-1).replace(")", "")));
  return {
    lane: [points(all("#along .curve")[0]), value(1, "c", 3)],
    map: network.data.orders[1].c.map((unit, row) => [steps.map((t) => pixels[4 * (row * steps.length + t)]), value(1, "h", unit)]),
    ribbon: [all("#ribbon i").slice(1).map((i) => colour(i.style.backgroundColor)[1]), [...trace.nats].slice(1)],
    chart: [points(all("#reach path.line0")[0]), [...elman.gradient(0, 30).input].reverse()],
    window: [Number(all("#reach line.edge")[1].getAttribute("x1")), ...[27, 28].map((t) => Number(all(`#reach text.small[data-t="${t}"]`)[0].getAttribute("x")))],
    units, bars: all("#unrolled rect.bar").map((bar) => Number(bar.getAttribute("width"))), columns: all("#unrolled rect.column").map((each) => Number(each.dataset.t)),
    states: [0, 1].map((layer) => ["c", "h"].map((name) => steps.map((t) => [...network.state(trace, layer, t, name)]))),
  };
}"""


def test_drawings_have_the_numbers(opened: Callable[..., Opened]):
    shown = opened(color_scheme="light")
    shown.page.evaluate("elman.networks[0].data.window = 3")
    shown.page.evaluate("elman.choose({ t: 30, layer: 1, unit: 3, of: 'c', panel: 'h', mode: 'forward' })")
    found = drawn(shown).page.evaluate(DRAWN)

    def follow(drawing: list[float], values: Any) -> float:
        return float(np.corrcoef(drawing, values)[0, 1])

    ys, whole = found["lane"]
    first = min(max(30 - len(ys) + 12, 0), len(whole) - len(ys))
    assert follow(ys, whole[first : first + len(ys)]) < -0.999
    assert all(follow(*row) > 0.9 for row in found["map"])
    assert follow(*found["ribbon"]) < -0.9
    norms = np.array(found["chart"][1][: len(found["chart"][0])])
    assert follow(found["chart"][0], np.log(norms / norms.max()).clip(np.log(1e-6))) < -0.999
    edge, before, inside = found["window"]
    assert edge == pytest.approx((before + inside) / 2)
    bars, columns, half = iter(found["bars"]), found["columns"], len(found["units"]) // 2
    states = np.array(found["states"])  # (layers, states, T, H)
    for layer, own in enumerate((found["units"][:half], found["units"][half:])):
        for values in states[layer]:
            shares = np.abs(values / np.abs(values).max(0))[np.ix_(columns, own)]
            assert follow([next(bars) for _ in range(shares.size)], shares.flatten()) > 0.99
    shown.page.evaluate("elman.choose({ mode: 'backward' })")
    edge, column = drawn(shown).page.evaluate(
        """["#unrolled line.edge", '#unrolled rect.column[data-t="28"]'].map((what) => document.querySelector(what)).map((each) => Number(each.getAttribute("x1") ?? each.getAttribute("x")))"""
    )
    assert edge == pytest.approx(column - 7)  # the window has three steps: 28, 29 and 30
    shares = shown.page.locator("#unrolled .level").evaluate_all(
        "(all) => all.map((each) => Number(each.getAttribute('width')))"
    )
    tracks = shown.page.locator("#unrolled rect.track").evaluate_all(
        "(all) => all.map((each) => Number(each.getAttribute('width')))"
    )
    gradients = shown.page.evaluate(
        "[0, 1].map((layer) => [26, 27, 28, 29, 30].map((t) => ['c', 'h'].map((name) => elman.gradient(0, 30).states[layer][name][t])))"
    )
    everything = shown.page.evaluate(
        "elman.gradient(0, 30).states.flatMap((each) => Object.values(each).flatMap((v) => [...v])).concat([...elman.gradient(0, 30).input])"
    )
    exact = 1 + np.log10(np.array(gradients).flatten() / max(everything)) / 6  # six powers of ten
    assert np.allclose(np.array(shares) / np.array(tracks), exact.clip(0, 1), atol=1e-6)


def test_every_symbol_has_its_number(opened: Callable[..., Opened]):
    shown = opened()
    shown.page.evaluate("elman.choose({ t: 25, layer: 1, unit: 3 })")
    lines = shown.page.locator("#equations .line").all()
    assert len(lines) == 6
    names, numbers = {}, {}
    for line in lines:
        terms = [term.inner_text().split("\n") for term in line.locator(".term").all()]
        names[terms[0][0]] = [term[0].strip() for term in terms]
        numbers[terms[0][0]] = terms[0][1]
    assert names["ct"] == ["ct", "=", "ft", "⊙", "ct−1", "+", "it", "⊙", "gt"]
    values = shown.page.evaluate(
        "Object.entries(elman.networks[0].cell.gates).map(([name, node]) => [name, elman.networks[0].node(elman.traces[0], 1, 25, node)[3]])"
    )
    for name, value in values:
        assert float(numbers[f"{name}t"].replace("−", "-")) == pytest.approx(value, abs=6e-3)
    assert shown.page.locator("#equations .why").count() == 6


def test_the_first_and_the_last_moment(opened: Callable[..., Opened]):
    shown = opened()
    for t in (0, len(TEXT) - 1):
        for mode in ("forward", "backward"):
            shown.page.evaluate(f"elman.choose({{ t: {t}, mode: '{mode}', lens: 'reach' }})")
            drawn(shown)
    assert shown.errors == []
    assert "ends here" in shown.page.locator("#predictions").inner_text()


def test_another_text_can_be_typed(opened: Callable[..., Opened]):
    shown = opened()
    shown.page.locator("#type").click()
    area = shown.page.locator("#typed")
    assert area.input_value() == TEXT
    area.press("End")
    before = shown.page.evaluate("elman.networks.map((each) => (each.work = 0))")
    area.press("Control+End")
    area.press_sequentially("Ω!")
    assert shown.page.evaluate("elman.tokens.join('')") == TEXT + "Ω!"
    assert shown.page.evaluate("document.activeElement.id") == "typed"
    forward = [layers * 2 for layers in (2, 1)]  # what was typed, and nothing before it
    backward = drawn(shown).page.evaluate("elman.networks.map((each) => each.L * (elman.chosen.t + 1))")
    work = shown.page.evaluate("elman.networks.map((each) => each.work)")
    assert [w - f for w, f in zip(work, forward, strict=True)] <= [3 * b for b in backward]
    assert before == [0, 0]
    assert shown.page.locator("#ribbon .strange").count() == 2
    assert "Ω" in shown.page.locator("#text .say").inner_text()
    assert "more" not in shown.page.locator("#text .say").inner_text()
    area.fill("".join(map(chr, range(0x391, 0x3A2))) + "абвгдеж")
    assert "(Α Β" in (said := shown.page.locator("#text .say").inner_text())
    assert "в and 4 more)" in said  # 20 of 24
    area.fill("")
    assert shown.page.evaluate("elman.tokens.length") > 0  # nothing is no text
    area.fill("of")
    assert chosen(shown) == 1
    shown.page.locator("#again").click()
    assert shown.page.evaluate("elman.tokens.join('')") == TEXT
    assert shown.page.locator("#typed").count() == 0
    assert shown.errors == []


@pytest.mark.parametrize(("language", "another", "said"), [("en-GB", "zh", "The text"), ("zh-TW", "en", "文本")])
def test_the_language_of_the_browser_and_another(opened: Callable[..., Opened], language: str, another: str, said: str):
    shown = opened(locale=language)
    assert shown.page.locator("#text h2").inner_text() == said
    shown.page.locator("#language").click()
    assert shown.page.locator("html").get_attribute("lang") == another
    assert shown.page.locator("#text h2").inner_text() != said
    written = drawn(shown).page.locator("main").inner_text()
    assert "undefined" not in written
    assert "{" not in written
    assert shown.errors == []


def test_light_and_dark(opened: Callable[..., Opened]):
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = opened(color_scheme="light"), opened(color_scheme="dark")
    assert sum(map(int, re.findall(r"\d+", light.page.evaluate(ground)))) > 700
    assert sum(map(int, re.findall(r"\d+", dark.page.evaluate(ground)))) < 100
    first = dark.page.evaluate(ground)
    dark.page.locator("#theme").click()
    assert dark.page.evaluate(ground) == light.page.evaluate(ground) != first


def test_nothing_moves_where_no_motion_is_wanted(opened: Callable[..., Opened]):
    moving = "getComputedStyle(document.querySelector('.fill')).transitionDuration"
    assert opened(reduced_motion="reduce").page.evaluate(moving) == "0s"
    assert opened(reduced_motion="no-preference").page.evaluate(moving) != "0s"


def test_a_link_says_what_to_show(opened: Callable[..., Opened], open_page: OpenPage, tmp_path: Path):
    address = opened().page.url.split("#")[0]
    shown = open_page(Path(address.removeprefix("file://")))
    for link, found in (
        ("#t=7&net=1&lens=unit&unit=5", {"t": 7, "net": 1, "lens": "unit", "unit": 5}),
        (
            "#t=99999&net=9&layer=-3&unit=x&lang=xx&panel=no&lens=no&of=no",
            {"t": len(TEXT) - 1, "net": 1, "layer": 0, "unit": 0, "lang": "en"},
        ),
    ):
        shown.page.goto("about:blank")
        shown.page.goto(address + link)
        drawn(complete(shown))
        assert {name: chosen(shown, name) for name in found} == found
        assert shown.errors == []


def test_a_notebook_shows_it_in_a_frame(run: Path, browser: Any):
    frame = page(run, TEXT)._repr_html_()
    context = browser.new_context(offline=True)
    failed: list[str] = []
    context.on("weberror", lambda error: failed.append(str(error.error)))
    shown = context.new_page()
    shown.set_content(f"<!doctype html><body>{frame}</body>")
    inside = shown.frame_locator("iframe")
    inside.locator("#ribbon i").nth(9).click()
    assert inside.locator("#ribbon").get_attribute("aria-valuenow") == "10"
    assert failed == []
    context.close()


def test_anyone_can_use_it(opened: Callable[..., Opened]):
    from axe_playwright_python.sync_playwright import Axe

    for width, scheme, locale, choice in (
        (1280, "light", "en-US", {"mode": "backward", "lens": "reach"}),
        (390, "dark", "zh-CN", {"lens": "unit"}),
    ):
        shown = opened(width=width, color_scheme=scheme, locale=locale)
        shown.page.evaluate("(choice) => elman.choose({ t: 40, ...choice })", choice)
        shown.page.locator("#type").click()
        found = Axe().run(drawn(shown).page)
        assert found.violations_count == 0, found.generate_report()


# What it says


@pytest.mark.usefixtures("no_pictures")
def test_how_far_back_is_what_the_command_says(run: Path, other: Path, opened: Callable[..., Opened]):
    shown = opened()
    for k, directory in enumerate((run, other)):
        model = load(directory)
        ids = torch.from_numpy(model.vocabulary.encode(TEXT).copy()).long()
        norms = gradients_by_token(model.model, ids)
        mine = shown.page.evaluate(f"[...elman.gradient({k}, {len(TEXT) - 2}).input]")
        assert mine == pytest.approx(norms.tolist(), rel=1e-3, abs=1e-3 * float(norms.max()) * 1e-3)
        far = shown.page.evaluate(f"elman.reach(elman.gradient({k}, {len(TEXT) - 2}).input)")
        assert far == reach(norms)
        assert f"over {far} character" in elman("explain", directory, "--text", TEXT).out or far == len(norms)
    shown.page.evaluate(f"elman.choose({{ t: {len(TEXT) - 2} }})")
    lines = drawn(shown).page.locator("#reach li").all_inner_texts()
    assert [line.split()[0] for line in lines] == ["peephole", "elman"]
    assert shown.page.locator("#reach .curve").count() == 2


def test_probabilities_with_the_truth_marked(run: Path, opened: Callable[..., Opened]):
    shown = opened()
    shown.page.evaluate("elman.choose({ t: 30 })")
    model = load(run)
    ids = torch.from_numpy(model.vocabulary.encode(TEXT).copy()).long()
    with torch.no_grad():
        row = model.model(ids[:31, None])[0][-1, 0].log_softmax(0)
    said = shown.page.locator("#predictions").inner_text()
    rank = int((row > row[ids[31]]).sum()) + 1
    assert f"number {rank} on the list" in said
    assert f"{-float(row[ids[31]]) / torch.log(torch.tensor(2.0)):.2f} bits" in said
    for t in range(20, 32):
        shown.page.evaluate(f"elman.choose({{ t: {t} }})")
        assert shown.page.locator("#predictions .key.right").all_inner_texts() == [
            TEXT[t + 1].replace(" ", "␣").replace("\n", "⏎")
        ]


def test_units_that_track_something_are_named_wherever_they_are_shown(
    run: Path, open_page: OpenPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = Tracking("quotes", "flag", 1, "c", 5, -1, 0.01, 0.83, 0.30, 0.8, 0.9, -0.2, 0.3)
    monkeypatch.setattr(units, "find", lambda *_: [found])
    shown = complete(open_page(page(run, TEXT).save(tmp_path / "page.html"), locale="en-US"))
    assert (chosen(shown, "unit"), chosen(shown, "layer"), chosen(shown, "of")) == (5, 1, "c")
    said = shown.page.locator("#tracking").inner_text()
    assert "inside quotes" in said
    assert re.search(r"peephole\s+0.83", said)
    assert re.search(r"last token alone\s+0.30", said)
    assert "inside quotes (c 5)" in shown.page.locator("#unrolled").inner_html()
    holds = shown.page.locator("#tracking .ribbon i").evaluate_all(
        "(all) => all.map((i) => i.classList.contains('holds'))"
    )
    begin = TEXT.index('"')
    assert sum(holds) >= len("of and")
    assert all(holds[begin + 1 : begin + 7])
    lit = shown.page.locator("#tracking .ribbon i").evaluate_all("(all) => all.map((i) => i.style.backgroundColor)")
    shown.page.locator("#show-quotes").click()
    assert shown.page.locator("#ribbon i").evaluate_all("(all) => all.map((i) => i.style.backgroundColor)") == lit
    shown.page.locator("#type").click()
    shown.page.locator("#typed").fill("of the")
    assert drawn(shown).page.locator("#tracking .holds").count() == 0  # where it holds is known of the first text only


def test_no_unit_tracks_anything(run: Path, open_page: OpenPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(units, "find", lambda *_: [])
    shown = complete(open_page(page(run, TEXT).save(tmp_path / "page.html"), locale="en-US"))
    assert "No unit tracks" in shown.page.locator("#tracking").inner_text()


@pytest.mark.parametrize(("state", "said"), [("gone", "not where it was"), ("changed", "has changed since")])
def test_held_out_text_that_is_gone_or_changed(run: Path, open_page: OpenPage, tmp_path: Path, state: str, said: str):
    copy = shutil.copytree(run, tmp_path / "run")
    config = json.loads((copy / "config.json").read_text())
    config["data"]["path"] = str(tmp_path / "text.txt")
    (copy / "config.json").write_text(json.dumps(config))
    if state == "changed":
        (tmp_path / "text.txt").write_text(prose(3000, seed=1))
    shown = complete(open_page(page(copy).save(tmp_path / "page.html"), locale="en-US"))
    assert said in shown.page.locator("#tracking").inner_text()
    assert shown.page.evaluate("elman.tokens.join('')") == config["data"]["excerpt"]


def test_of_a_long_text_the_end_is_shown_and_all_is_read(
    run: Path, open_page: OpenPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(language, "SHOWN", 20)
    made = page(run, TEXT)
    assert made.remarks == [
        f"the page shows the last 20 of {len(TEXT)} characters; the network has read those before them"
    ]
    shown = complete(open_page(made.save(tmp_path / "page.html"), locale="en-US"))
    assert shown.page.evaluate("elman.tokens.join('')") == TEXT[-20:]
    assert f"read {len(TEXT) - 20} characters before" in shown.page.locator("#text").inner_text()
    model = load(run)
    ids = torch.from_numpy(model.vocabulary.encode(TEXT).copy()).long()
    with torch.no_grad():
        exact = model.model(ids[:, None])[0][-1, 0].log_softmax(0)
    first = shown.page.evaluate("[...elman.networks[0].predictions(elman.traces[0], 19)]")
    assert first == pytest.approx(exact.tolist(), abs=1e-4)
    shown.page.locator("#type").click()
    shown.page.locator("#typed").fill(TEXT[-20:] + "!")  # what is typed has nothing before it
    assert "before this text" not in shown.page.locator("#text").inner_text()
    with torch.no_grad():
        exact = model.model(ids[-20:, None])[0][-1, 0].log_softmax(0)
    again = shown.page.evaluate("[...elman.networks[0].predictions(elman.traces[0], 19)]")
    assert again == pytest.approx(exact.tolist(), abs=1e-4)
    shown.page.locator("#again").click()
    assert shown.page.evaluate("[...elman.networks[0].predictions(elman.traces[0], 19)]") == pytest.approx(first)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("unit", ["bytes", "bpe", "words"])
def test_other_units(run: Path, open_page: OpenPage, tmp_path: Path, unit: str):
    size = [] if unit == "bytes" else ["--vocabulary-size", 300 if unit == "bpe" else 30]
    own = train(tmp_path, unit, "--unit", unit, *size)
    assert (
        len("".join(json.loads(re.findall(r'id="data">(.*?)</script>', page(own).html)[0])["tokens"])) > 150
    )  # all held-out text
    text = "the of é and"
    shown = complete(open_page(page(own, text).save(tmp_path / "page.html"), locale="en-US"))
    assert shown.page.evaluate("elman.tokens.join('')") == text
    assert shown.page.locator("#type").count() == (unit == "bytes")
    head = shown.page.locator("#header p").first.inner_text()
    if unit == "words":
        kept = min(Run(own).metrics(), key=lambda row: float(row["validation_nats"]))
        validation, unknown = load(own).corpus().validation, load(own).vocabulary.unknown
        share = 100 * sum(token == unknown for token in validation.tolist()) / len(validation)
        assert 1 < share < 10
        perplexity = f"perplexity {float(kept['perplexity']):.1f} per word on held-out text"
        assert head.endswith(f"{perplexity}, of which {share:.1f} % is unknown")
    else:
        assert re.search(r"; \d\.\d{3} bits per character on held-out text$", head)
    if unit == "bytes":
        shown.page.locator("#type").click()
        shown.page.locator("#typed").fill("aé")
        assert shown.page.evaluate("elman.tokens") == ["a", "", "é"]
        assert shown.page.evaluate("elman.traces[0].ids") == list("aé".encode())
    assert drawn(shown).errors == []


def test_strings_of_both_languages():
    def leaves(value: Any, at: str = "") -> dict[str, str]:
        if isinstance(value, str):
            return {at: value}
        return {key: said for name, inside in value.items() for key, said in leaves(inside, f"{at}.{name}").items()}

    said = [
        leaves(json.loads(files("elman.explain").joinpath("assets", f"{name}.json").read_text(encoding="utf-8")))
        for name in ("en", "zh")
    ]
    assert list(said[0]) == list(said[1])
    for key, english in said[0].items():
        assert sorted(re.findall(r"\{\w+\}", english)) == sorted(re.findall(r"\{\w+\}", said[1][key])), key
        assert said[1][key].strip()


# Refusals


@pytest.mark.usefixtures("no_pictures")
def test_runs_that_cannot_be_compared(run: Path, other: Path, tmp_path: Path):
    own = train(tmp_path, "bytes", "--unit", "bytes")
    with pytest.raises(
        InputError, match=r"bytes reads bytes, but .*peephole reads characters; compare runs of the same unit"
    ):
        page(run, TEXT, [own])
    with pytest.raises(InputError, match="3 runs to compare with are too many; give at most 2"):
        page(run, TEXT, [other] * 3)
    copies = page(run, TEXT, [run, run]).html
    assert all(f'"name":"{name}"' in copies for name in ("peephole", "peephole (2)", "peephole (3)"))


def test_networks_that_a_page_cannot_hold(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    copy = shutil.copytree(run, tmp_path / "run")
    model = load(copy).model
    with torch.no_grad():
        model.output.weight[0, 0] = torch.nan
    Run(copy).save_tensors(MODEL, model.state_dict(), {})
    with pytest.raises(InputError, match="weights that are not finite; train again"):
        page(copy, TEXT)
    monkeypatch.setattr(contents, "MOST", 100)
    with pytest.raises(
        InputError, match=r"has [\d,]+ parameters, but a page holds at most 100; draw a picture instead"
    ):
        page(run, TEXT)


def test_a_cell_that_no_graph_can_hold():
    def untraceable(x, R, s):
        return State(h=torch.cumsum(x.h + R.h @ s.h, -1))

    with pytest.raises(InputError, match=r"cell 'untraceable' has no graph that a page could run: .*cumsum"):
        language.cell_as_data(Cell(untraceable, gates=("h",)))


def test_a_page_needs_no_matplotlib(run: Path, forks: Forks):
    code = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
    del sys.modules[name]  # which forks begin with
from elman.explain import page
page(sys.argv[1])
print("matplotlib" in sys.modules)
"""
    (done,) = forks.run(Child(code, (str(run),)))
    assert done.stdout == "False\n", done.stderr


def test_texts_that_are_too_short(run: Path):
    for text in ("", "of"):
        with pytest.raises(InputError, match=f"the text has {len(text)} tokens; give at least 3"):
            page(run, text)
