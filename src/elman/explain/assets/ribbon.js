// The head of the page, and the text: where one chooses the moment that all views show.

VIEWS.push({
  id: "header",
  key: () => [chosen.net],
  draw() {
    const { name, cell, layers, hidden, parameters, score } = network().data;
    const about = say(layers === 1 ? "about1" : "about", { cell: cell.name, layers, hidden, parameters: parameters.toLocaleString(chosen.lang) });
    document.title = say("title.lm", { name });
    return [
      el("h1", {}, say("title.lm", { name })),
      el("p", {}, about, score === null ? "" : said(score)),
      networks.length > 1 ? choice("net", say("network"), "net", networks.map((each, k) => [k, each.data.name])) : null,
      looks(),
    ];
  },
});

function said({ bits, perplexity, unknown }) {
  if (bits !== null) return say("score", { bits: bits.toFixed(3) });
  const share = unknown === null ? "" : say("scoreUnknown", { share: percent(unknown) });
  return say("scorePerplexity", { perplexity: perplexity.toFixed(1), one: say(`one.${data.unit}`), share });
}

VIEWS.push({
  id: "text",
  wide: 12,
  get slow() {
    return chosen.lens === "reach"; // which changes with every step, and takes a pass backward
  },
  key: () => [chosen.net, chosen.lens, chosen.layer, chosen.of, chosen.unit, chosen.lens === "reach" && chosen.t, typing !== null, tooLong],
  draw() {
    const { net, layer, of, unit } = chosen, lenses = { surprise: surpriseColour, unit: unitColour, reach: reachColour };
    if (!(chosen.lens in lenses)) chosen.lens = "surprise";
    return [
      el("div", { class: "bar" }, el("h2", {}, say("text")), el("span", { class: "gap" }),
        choice("lens", say("colour"), "lens", [["surprise", say("surprise")], ["unit", nameOf(net, layer, of, unit)], ["reach", say("looksBack")]]),
        data.typed ? el("button", { id: "type", "aria-expanded": String(typing !== null), onclick: openTyping }, say("type")) : null),
      el("p", { class: "hint" }, say("tap", { one: say(`one.${data.unit}`) })),
      ribbon(lenses[chosen.lens](), {
        strange: isStrange,
        attributes: {
          id: "ribbon", tabindex: 0, role: "slider", "aria-label": say("text"), onkeydown: keys, "aria-valuemin": 1, "aria-valuemax": tokens.length,
        },
      }),
      el("div", { class: "bar legend" }, legend()),
      strangeOnes(tokens.filter((_, t) => isStrange(t)).map(visible)),
      data.before && tokens === data.tokens ? el("p", { class: "say" }, say("before", { n: data.before, per: say(`per.${data.unit}`) })) : null,
      tooLong ? el("p", { class: "say" }, say("tooLong", { n: data.most, per: say(`per.${data.unit}`) })) : null,
    ];
  },
});

speak = () => {
  const [token, p] = surest(chosen.net, chosen.t, 1)[0];
  return say("spoken", { token: visible(tokens[chosen.t]), t: chosen.t + 1, n: tokens.length, top: symbol(chosen.net, token), p: percent(p) });
};

const surpriseColour = (k = chosen.net) => (t) => (t ? more(nats(k, t) / Math.LN2 / 8) : more(0));

function unitColour(k = chosen.net, layer = chosen.layer, of = chosen.of, unit = chosen.unit) {
  const scale = unitScale(k, layer, of, unit);
  return (t) => signed(scale(t));
}

function reachColour(k = chosen.net) {
  const { input } = gradient(k, chosen.t), largest = Math.max(...input), last = -Math.log10(data.faded);
  return (t) => (t > chosen.t ? null : more(largest > 0 ? 1 + Math.log10(input[t] / largest) / last : 0));
}

// What the colours of the text say.
function legend() {
  if (chosen.lens === "surprise") return [say("expected"), ramp(more, 0), say("surprising")];
  if (chosen.lens === "reach") return [say("faded", { n: Math.round(1 / data.faded) }), ramp(more, 0), say("counts")];
  const known = trackedAs(chosen.net, chosen.layer, chosen.of, chosen.unit);
  return known ? [say("dim"), ramp(signed, -1), say("lit")] : [say("negative"), ramp(signed, -1), say("positive")];
}

// Another text

let typing = null; // what is being typed, while something is
let tooLong = false; // more was typed than is read

VIEWS.push({
  id: "typing",
  wide: 12,
  still: true, // what is typed changes the text, and must not change the place in which one types
  key: () => [typing !== null],
  draw() {
    if (typing === null) return [];
    const area = el("textarea", { id: "typed", rows: 4, spellcheck: "false", "aria-label": say("type"), oninput: (event) => event.isComposing || type(area.value), oncompositionend: () => type(area.value) });
    area.value = typing;
    return [
      area,
      el("div", { class: "bar" },
        el("button", { id: "done", onclick: closeTyping }, say("done")),
        el("button", { id: "again", onclick: () => ((tooLong = false), closeTyping(), read(data.networks.map((each) => each.ids), data.tokens)) }, say("again"))),
    ];
  },
});

function type(text) {
  typing = text;
  const [ids, written] = encode(text.slice(0, 2 * data.most + 1)); // a character has one or two units of JavaScript's
  tooLong = written.length > data.most;
  if (written.length) read(ids.map((each) => each.slice(0, data.most)), written.slice(0, data.most));
}

function openTyping() {
  if (typing !== null) return closeTyping();
  typing = tokens.join("");
  choose({});
  document.getElementById("typed").focus();
}

function closeTyping() {
  typing = null;
  choose({});
  document.getElementById("type").focus();
}
