// A model that says something of each step: its class, its value or a symbol, what each direction says of it, and on which steps it depends.

const several = data.task === "multilabel", numeric = several || data.task === "regress", transcribed = data.task === "transcribe";
chosen.t = Math.max(transcribed ? items[0].predicted.findIndex((name) => name !== "") : Math.floor(items[0].predicted.length / 2), 0);
const told = (key, fill) => say(`${several ? "everyClass" : numeric ? "everyValue" : transcribed ? "everySymbol" : "every"}.${key}`, fill);

lengthOf = (sequence) => sequence.predicted.length;
const called = (name) => (transcribed ? (name === "" ? say("everySymbol.blank") : visible(name)) : name);
speak = () => `${say("step", { n: chosen.t + 1 })}: ${called(item().predicted[chosen.t])}`;

VIEWS.push({
  id: "text",
  wide: 12,
  key: () => [chosen.item, chosen.t],
  draw() {
    const { series } = item(), slider = {
      id: "ribbon", tabindex: 0, role: "slider", "aria-label": say("sequence"), "aria-valuemin": 1, "aria-valuemax": tokens.length, onkeydown: keys, onclick: pick,
    };
    return [
      head(say("sequence"), itemChoice()),
      el("p", { class: "say" }, told("say"), data.gaps ? ` ${say("broken")}` : "", data.categories.length ? ` ${say("wordsSay")}` : ""),
      transcribed ? el("table", { class: "numbers" }, el("tbody", {}, [[say("every.predicted"), item().text], [say("every.truth"), item().label]].filter(([, v]) => v !== null).map(([name, v]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, visible(v)))))) : null,
      el("div", slider, numeric ? lines(series, 1, 96, values) : lines(series, 1, 62, classes)),
      spoken(),
      el("div", { class: "bar legend" }, say("faded", { n: Math.round(1 / data.faded) }), ramp(more, 0), say("counts")),
    ];
  },
});

// A row that shows on which steps the chosen one depends.
function shade(svg, top) {
  const { left, x, wide } = place(across());
  svg.append(el("text", { x: left - 6, y: top + 10, class: "note end" }, say("every.depends")));
  dependence(chosen.t).forEach((share, t) => svg.append(el("rect", { x: x(t) - wide / 2, y: top, width: wide + 0.4, height: 12, fill: css(more(share)) })));
}

// The true and the predicted class of each step, as rows of pieces with the same class.
function classes(svg, top) {
  const { predicted, truth } = item();
  shade(svg, top + 4);
  if (transcribed) return symbols(svg, top + 26);
  [["truth", truth ?? []], ["predicted", predicted]].forEach(([name, list], row) => {
    pieces(svg, top + 20 + row * 20, say(`every.${name}`), list, (t) => hue(data.classes.indexOf(list[t])));
  });
}

// The symbols that are said, each above the step where it begins; a bar is a step that says one, and no bar one that says nothing.
function symbols(svg, top) {
  const { predicted } = item(), { x, wide } = place(across());
  let free = -1;
  predicted.forEach((name, t) => {
    if (name === "") return;
    svg.append(el("rect", { x: x(t) - wide / 2, y: top + 16, width: Math.max(1, wide), height: 14, fill: css(hue(data.classes.indexOf(name) - 1)) }));
    if (name === predicted[t - 1] || x(t) < free) return;
    svg.append(el("text", { x: x(t) - 3, y: top + 11, class: "note" }, cut(visible(name), 12)));
    free = x(t) + 7 * Math.min(12, [...name].length);
  });
}

// The true and the predicted value of each step, and the outer quantiles.
function values(svg, top) {
  const { predicted, truth, spread } = item(), { left, x } = place(across()), known = truth ?? [];
  shade(svg, top + 4);
  const all = [...predicted, ...known, ...spread.flat()].filter((v) => v !== null), low = Math.min(...all), high = Math.max(...all);
  const y = (v) => top + 24 + (1 - (v - low) / Math.max(1e-30, high - low)) * 66;
  svg.append(el("text", { x: left - 6, y: top + 32, class: "note end" }, digits(high)), el("text", { x: left - 6, y: top + 92, class: "note end" }, digits(low)));
  const path = (list) => list.map((v, t) => (v === null ? "" : `${t && list[t - 1] !== null ? "L" : "M"}${x(t)} ${y(v)}`)).join("");
  if (spread[0].length > 1) {
    const back = spread.map((row, t) => `L${x(t)} ${y(row[0])}`).reverse().join("");
    svg.append(el("path", { d: `${path(spread.map((row) => row[row.length - 1]))}${back}Z`, class: "band" }));
  }
  svg.append(el("path", { d: path(known), class: "curve truth" }), el("path", { d: path(predicted), class: "curve line0" }));
  known.forEach((v, t) => v !== null && (known[t - 1] ?? null) === null && (known[t + 1] ?? null) === null && svg.append(el("circle", { cx: x(t), cy: y(v), r: 2.5, class: "truth" })));
}

if (numeric) VIEWS.push({
  id: "value",
  wide: 5,
  key: () => [chosen.item, chosen.t],
  draw() {
    const { predicted, quantiles, spread, truth } = item(), t = chosen.t, own = truth?.[t] ?? null;
    const rows = [[say(several ? "everyClass.predicted" : "value.predicted"), predicted[t]], ...(quantiles.length > 1 ? quantiles.map((q, k) => [say("value.quantile", { q }), spread[t][k]]) : []), ...(several ? [[say("everyClass.threshold"), threshold(item().column)]] : []), [say(several ? "everyClass.truth" : "value.truth"), own]];
    return [
      head(told("which", { n: t + 1 }), valueSaid()),
      el("table", { class: "numbers" }, el("tbody", {}, rows.filter(([, v]) => v !== null).map(([name, v]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, String(v).replace("-", "−")))))),
      own === null ? el("p", { class: "say" }, say("noTruth")) : null,
    ];
  },
});
else VIEWS.push({
  id: "chances",
  wide: 5,
  key: () => [chosen.item, chosen.t],
  draw() {
    const { likeliest, truth } = item(), t = chosen.t, own = truth?.[t] ?? null;
    return [head(told("which", { n: t + 1 })), chances(likeliest[t].map(([name, share], k) => [called(name), share, k + 1]), own), own === null && !transcribed ? el("p", { class: "say" }, say("noTruth")) : null];
  },
});

VIEWS.push({
  id: "shares",
  wide: 7,
  key: () => [chosen.item, chosen.t],
  draw() {
    const own = item().shares[chosen.t].map((each) => ({ ...each, name: numeric ? valueName() : called(each.name) }));
    return [head(say("directions")), el("p", { class: "say" }, say(data.causal ? "every.causal" : numeric && !several ? "value.directionsSay" : "directionsSay")), shareTable(own, numeric && !several ? valueName() : say("logit"))];
  },
});

VIEWS.push({
  id: "reach",
  wide: 12,
  key: () => [chosen.item, chosen.t],
  draw() {
    const norms = item().look[chosen.t], largest = Math.max(...norms), known = norms.map((v) => v >= data.faded * largest && v > 0);
    const [first, last] = [known.indexOf(true), known.lastIndexOf(true)];
    return [
      head(say("bothWays")),
      el("p", { class: "say" }, told("reachSay", { n: Math.round(1 / data.faded) })),
      el("p", {}, rich(first < 0 ? "every.nothing" : "every.far", { n: el("b", {}, String(chosen.t + 1)), before: String(Math.max(0, chosen.t - first)), after: String(Math.max(0, last - chosen.t)) })),
      el("div", { onclick: pick }, byStep(norms)),
    ];
  },
});

function byStep(norms) {
  const W = across(), high = 96, { left, x, wide } = place(W), largest = Math.max(...norms, 1e-30), powers = -Math.log10(data.faded);
  const svg = el("svg", { viewBox: `0 0 ${W} ${high + 20}`, role: "img", "aria-label": say("bothWays") });
  svg.append(el("text", { x: left, y: 10, class: "note" }, told("dependsOn")), el("text", { x: left - 6, y: 24, class: "note end" }, "1"), el("text", { x: left - 6, y: high + 16, class: "note end" }, `1/${Math.round(1 / data.faded)}`));
  norms.forEach((v, t) => {
    const tall = high * clamp(1 + Math.log10(Math.max(v, 1e-30) / largest) / powers, 0, 1);
    svg.append(el("rect", { x: x(t) - wide / 2 + 0.3, y: 16 + high - tall, width: Math.max(0.8, wide - 0.6), height: tall, class: "other" }));
  });
  return choosing(svg, W, high + 16);
}

begin();
