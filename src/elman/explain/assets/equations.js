// Every equation of the cell, with the number of one unit under each symbol, and this unit's gates and states along the text.

VIEWS.push({
  id: "equations",
  wide: 8,
  key: () => [chosen.net, chosen.t, chosen.layer, chosen.unit],
  draw() {
    const n = network(), { layer, unit, t } = chosen;
    return [
      head(say("inside"), layerChoice("inside-layer"), el("label", { class: "bar" }, say("unit"), unitInput("inside-unit"))),
      el("p", { class: "say" }, say("insideSay", { unit, layer: layer + 1, token: cut(visible(tokens[t]), 30) })),
      el("div", { class: "equations" }, n.cell.equations.map((line) => equation(n, line))),
      el("p", { class: "say soft" }, say("symbols"), n.cell.reference && ` ${n.cell.reference}.`),
    ];
  },
});

function unitInput(id) {
  const change = (event) => choose({ unit: Number.parseInt(event.target.value) || 0 });
  return el("input", { id, type: "number", min: 0, max: network().H - 1, value: chosen.unit, onchange: change });
}

function equation(n, line) {
  const [[, left]] = line, name = Object.entries(n.cell.gates).find(([, node]) => node === left)?.[0];
  const why = say(`why.${n.cell.name}.${line[0][0].split("_")[0]}`);
  const number = (node, place) => (node === null || (place && node === left) ? "\u00a0" : digits(n.node(trace(), chosen.layer, chosen.t, node)[n.layers[chosen.layer].widths[node] > 1 ? chosen.unit : 0]));
  return el("div", { class: "equation" },
    el("div", { class: "line" }, line.map(([text, node], place) => el("span", { class: place ? "term" : "term left" }, el("span", { class: "symbol" }, mathematics(text)), el("span", { class: "number" }, number(node, place))))),
    why && el("div", { class: "why" }, why),
    name && gauge(n, left));
}

// "h_{t-1}" with its index below the line
function mathematics(text) {
  return text.split(/(_\{[^}]*\}|_[\p{L}\d]+)/u).map((part, k) => (k % 2 ? el("sub", {}, part.replace(/[_{}]/g, "").replace("-", "−")) : part.replaceAll("-", "−")));
}

// How open a gate is, if it is one that opens and shuts.
function gauge(n, node) {
  if (n.cell.nodes[node][0] !== "sigmoid") return null;
  const v = n.node(trace(), chosen.layer, chosen.t, node)[chosen.unit];
  return el("span", { class: "track", title: percent(v) }, el("span", { class: "fill", style: `width: ${100 * v}%` }));
}

VIEWS.push({
  id: "along",
  wide: 4,
  slow: true,
  key: () => [chosen.net, chosen.t, chosen.layer, chosen.unit],
  draw() {
    const { layer, unit } = chosen;
    return [head(say("along", { unit })), el("p", { class: "say" }, say("alongSay")), el("div", { onclick: pick }, lanes(layer, unit))];
  },
});

function lanes(layer, unit) {
  const n = network(), { gates, outputs, nodes } = n.cell, W = 440, high = narrow() ? 44 : 72, left = 34, count = Math.min(tokens.length, narrow() ? 32 : 44);
  const shown = [...Object.entries(outputs).reverse(), ...Object.entries(gates).filter(([name]) => !(name in outputs))];
  const first = clamp(chosen.t - count + 12, 0, tokens.length - count), x = (t) => left + ((t - first + 0.5) * (W - left - 30)) / count;
  const svg = el("svg", { viewBox: `0 0 ${W} ${shown.length * high + 24}`, role: "img", "aria-label": say("along", { unit }) });
  svg.append(el("line", { x1: x(chosen.t), x2: x(chosen.t), y1: 0, y2: shown.length * high + 4, class: "now" }));
  shown.forEach(([name, node], lane) => {
    const values = Array.from({ length: count }, (_, k) => n.node(trace(), layer, first + k, node)[unit]), gate = nodes[node][0] === "sigmoid";
    const largest = gate ? 1 : Math.max(1, ...values.map(Math.abs)), y = (v) => lane * high + 4 + (gate ? 1 - v : (1 - v / largest) / 2) * (high - 10);
    const points = values.map((v, k) => `${x(first + k)} ${y(v)}`).join("L");
    svg.append(
      el("line", { x1: left, x2: W - 30, y1: y(0), y2: y(0), class: "zero" }),
      el("path", { d: `M${x(first)} ${y(0)}L${points}L${x(first + count - 1)} ${y(0)}Z`, class: "area" }),
      el("path", { d: `M${points}`, class: "curve" }),
      el("text", { x: 4, y: lane * high + high / 2 + 5, class: "name" }, name),
      el("text", { x: W - 26, y: lane * high + 13, class: "note" }, gate ? "1" : digits(largest)),
      el("text", { x: W - 26, y: lane * high + high - 5, class: "note" }, gate ? "0" : digits(-largest)));
  });
  const room = clamp(Math.floor((W - left - 30) / count / 6.4), 1, 8); // characters for each token
  for (let t = first; t < first + count; t++) svg.append(el("text", { x: x(t), y: shown.length * high + 18, class: t === chosen.t ? "small now" : "small", "data-t": t }, brief(tokens[t], room)));
  return svg;
}
