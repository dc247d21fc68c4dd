// The frame of the pages of all tasks but the language model: their head, and which example is shown.

const items = data.sentences ?? data.sequences ?? data.windows;
const item = () => items[chosen.item];
Object.assign(chosen, { item: 0 });

let lengthOf = () => 1; // of an item, in what one can choose from
let shown; // the item that was shown before
settle = () => {
  chosen.item = clamp(chosen.item, 0, items.length - 1);
  if (shown !== chosen.item) version++;
  shown = chosen.item;
  tokens = Array.from({ length: lengthOf(item()) }, (_, t) => String(t));
  chosen.t = clamp(chosen.t, 0, tokens.length - 1);
};

VIEWS.push({
  id: "header",
  key: () => [],
  draw() {
    const { name, cell, layers, hidden, parameters } = data;
    document.title = say(`title.${data.task}`, { name });
    return [
      el("h1", {}, say(`title.${data.task}`, { name })),
      el("p", {}, say(layers === 1 ? "about1" : "about", { cell, layers, hidden, parameters: parameters.toLocaleString(chosen.lang) })),
      looks(),
    ];
  },
});

const visibleWord = (word) => [...word].map((c) => (/[\p{C}]/u.test(c) ? "·" : c)).join("");

const itemChoice = () => (items.length > 1 ? choice("item", say(`item.${data.task}`), "item", items.map((each, k) => [k, each.column ? `${each.group} ${each.column}`.trim() : String(k + 1)])) : null);

// Which value it is that a model predicts: of several, each is shown on its own.
const valueName = () => item().column ?? say("value.name");
const valueSaid = () => (item().column ? el("span", { class: "key" }, item().column) : null);

// Rows of probabilities: each a name, a share, and its place among all. The truth, if it is known, is marked: a name, or several.
// So is the probability from which on a class is said to be there, of a network that says several.
const threshold = (name) => data.thresholds?.[data.classes.indexOf(name)] ?? null;
const isTrue = (name, truth) => [truth].flat().includes(name);
function chances(list, truth) {
  return el("div", { class: "bars" }, list.map(([name, share, place]) => [
    el("span", { class: "place" }, String(place)),
    el("span", { class: isTrue(name, truth) ? "key right" : "key" }, name),
    el("span", { class: "track" }, el("span", { class: isTrue(name, truth) ? "fill right" : "fill", style: `width: ${100 * share}%` }), threshold(name) === null ? null : el("span", { class: "least", style: `left: ${100 * threshold(name)}%` })),
    el("span", { class: "value" }, percent(share)),
    el("span", { class: "tick" }, isTrue(name, truth) ? "✓" : ""),
  ]));
}

// What each direction adds to two logits, and to their difference, or to one number. each: {name, forward, backward, bias}, and
// {before, after} if tags depend on each other: what the tags of other words add. called: their sum.
const SHARES = { forward: "fromLeft", backward: "fromRight", bias: "bias", before: "tagsBefore", after: "tagsAfter" };
function shareTable([first, second], called = say("logit")) {
  const parts = Object.keys(SHARES).filter((part) => part in first);
  const columns = second ? [first, second, { name: `${first.name} − ${second.name}`, ...Object.fromEntries(parts.map((part) => [part, first[part] - second[part]])) }] : [first];
  const sum = (each) => parts.reduce((total, part) => total + each[part], 0);
  const largest = Math.max(...columns.flatMap((each) => [...parts.map((part) => each[part]), sum(each)].map(Math.abs)), 1e-30);
  const row = (label, value) => el("tr", {}, el("th", { scope: "row" }, label), columns.map((each) => el("td", {}, el("span", { class: "value" }, digits(value(each))), balance(value(each) / largest))));
  return el("table", { class: "shares" },
    el("thead", {}, el("tr", {}, el("td", {}), columns.map((each) => el("th", { scope: "col" }, each.name)))),
    el("tbody", {}, parts.map((part) => row(say(SHARES[part]), (each) => each[part])), row(called, sum)));
}

// A bar to the right of the middle for a positive share, to the left for a negative one.
function balance(share) {
  const long = 50 * clamp(Math.abs(share), 0, 1);
  return el("span", { class: "balance" }, el("span", { class: share < 0 ? "minus" : "plus", style: `width: ${long}%; left: ${share < 0 ? 50 - long : 50}%` }));
}

// How much what is said of a step, or a word, depends on each: 1 for the one that counts most, 0 for those that hardly count.
const dependence = (t) => {
  const norms = item().look[t], largest = Math.max(...norms, 1e-30), last = -Math.log10(data.faded);
  return norms.map((v) => (v > 0 ? clamp(1 + Math.log10(v / largest) / last, 0, 1) : 0));
};

function begin() {
  start(() => choose({}));
  window.elman = { chosen, choose, settled, items };
}

const HEARD = 200, QUIET = 12; // the height of what is heard, and how far below the loudest band a colour reaches, in nats

// A row of colours for each band of frequencies, low ones below.
function heard(svg, series, left, wide) {
  const T = series[0].length, K = series.length, loudest = series.flat().reduce((a, b) => Math.max(a, b));
  const softest = Math.max(loudest - QUIET, series.flat().reduce((a, b) => Math.min(a, b)));
  const canvas = el("canvas", { width: T, height: K }), pen = canvas.getContext("2d"), image = pen.createImageData(T, K);
  series.forEach((values, k) => values.forEach((v, t) => image.data.set([...more((v - softest) / Math.max(1e-30, loudest - softest)), 255], 4 * ((K - 1 - k) * T + t))));
  pen.putImageData(image, 0, 0);
  svg.append(el("image", { href: canvas.toDataURL(), x: left, y: 0, width: wide, height: HEARD - 4, preserveAspectRatio: "none", style: "image-rendering: pixelated" }));
  const named = [...new Set([0, 0.25, 0.5, 0.75, 1].map((share) => Math.round(share * (K - 1))))];
  named.forEach((k) => svg.append(el("text", { x: left - 4, y: 9 + (1 - (k + 0.5) / K) * (HEARD - 14), class: "note end" }, data.channels[k])));
}
