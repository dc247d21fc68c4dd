// The network unrolled around the chosen step: every layer, a dozen named units; values going forward, gradients going back.

VIEWS.push({
  id: "unrolled",
  wide: 8,
  slow: true,
  key: () => [chosen.net, chosen.t, chosen.layer, chosen.of, chosen.unit, chosen.mode],
  draw() {
    const back = chosen.mode === "backward", { window } = network().data;
    const steps = back ? columns(chosen.t - (narrow() ? 1 : 4)) : columns(chosen.t - (narrow() ? 1 : 3));
    const loss = () => el("b", { class: "mono" }, visible(tokens[chosen.t + 1] ?? symbol(chosen.net, target(chosen.net, chosen.t))));
    return [
      head(say("unrolled"), choice("mode", say("unrolled"), "mode", [["forward", say("forward")], ["backward", say("backward")]])),
      el("p", { class: "say" }, back ? rich("backwardSay", { truth: loss() }) : say("forwardSay")),
      el("div", { onclick: pick }, back ? backward(steps) : forward(steps)),
      back ? el("p", { class: "say" }, edge(window)) : el("p", { class: "say" }, conveyor()),
    ];
  },
});

// The steps that have room, the first of them `from` if it can be.
function columns(from) {
  const count = Math.min(tokens.length, narrow() ? 2 : 5), first = clamp(from, 0, tokens.length - count);
  return Array.from({ length: count }, (_, k) => first + k);
}

const WRITTEN = 12; // characters of a token that have room

// The frame of both drawings: a box for each step and layer, the input below, what is above left to the caller.
// size: height of a box. gutter: width on the left. top: height above the boxes.
function diagram(steps, size, gutter, top, label) {
  const W = narrow() ? 350 : 740, { L } = network(), gap = 34, wide = (W - gutter) / steps.length;
  const place = { wide: wide - 30, x: (k) => gutter + k * wide + 15, y: (l) => top + (L - 1 - l) * (size + gap), bottom: top + L * (size + gap) };
  const svg = el("svg", { viewBox: `0 0 ${W} ${place.bottom + 34}`, role: "img", "aria-label": label });
  steps.forEach((t, k) => {
    const x = place.x(k), now = t === chosen.t;
    svg.append(el("rect", { x: x - 8, y: 2, width: place.wide + 16, height: place.bottom + 30, rx: 8, class: now ? "column now" : "column", "data-t": t }));
    for (let l = 0; l < L; l++) svg.append(el("rect", { x, y: place.y(l), width: place.wide, height: size, rx: 5, class: "box", "data-t": t }));
    svg.append(el("text", { x: x + place.wide / 2, y: place.bottom + 18, class: now ? "token now" : "token", "data-t": t }, cut(visible(tokens[t]), WRITTEN)));
  });
  return [svg, place];
}

function arrow(x1, y1, x2, y2, width = 1.2, kind = "arrow") {
  const length = Math.hypot(x2 - x1, y2 - y1), [u, v] = [(x2 - x1) / length, (y2 - y1) / length], tip = 3 + width;
  return el("g", { class: kind },
    el("line", { x1, y1, x2: x2 - u * tip, y2: y2 - v * tip, "stroke-width": width }),
    el("path", { d: `M${x2} ${y2}L${x2 - u * tip - v * tip * 0.7} ${y2 - v * tip + u * tip * 0.7}L${x2 - u * tip + v * tip * 0.7} ${y2 - v * tip - u * tip * 0.7}Z` }));
}

function forward(steps) {
  const n = network(), k = chosen.net, line = 13, states = [...n.states].reverse();
  const rows = n.layers.map((_, l) => named(l)), size = Math.max(...rows.map((each) => each.length)) * line + 20;
  const [svg, { wide, x, y, bottom }] = diagram(steps, size, narrow() ? 112 : 170, 46, say("unrolled"));
  rows.forEach((units, l) => {
    if (n.L > 1) svg.append(el("text", { x: 2, y: y(l) + 12, class: "note" }, `${say("layer")} ${l + 1}`));
    units.forEach((unit, r) => {
      const own = l === chosen.layer && unit === chosen.unit;
      svg.append(el("text", { x: narrow() ? 104 : 162, y: y(l) + 27 + r * line, class: own ? "unit now" : "unit", onclick: () => choose({ layer: l, unit }) }, narrow() ? `${chosen.of} ${unit}` : nameOf(k, l, chosen.of, unit)));
    });
    states.forEach((of, s) => {
      const half = wide / states.length, middle = (at) => x(at) + half * (s + 0.5);
      const scales = units.map((unit) => unitScale(k, l, of, unit)), largest = units.map((unit) => extent(k, l, of, unit));
      steps.forEach((t, at) => {
        const values = n.state(trace(), l, t, of);
        svg.append(el("text", { x: middle(at), y: y(l) + 12, class: "note middle" }, of), el("line", { x1: middle(at), x2: middle(at), y1: y(l) + 17, y2: y(l) + size - 3, class: "zero" }));
        units.forEach((unit, r) => {
          const long = (values[unit] / largest[r]) * (half / 2 - 4);
          svg.append(el("rect", { x: middle(at) + Math.min(0, long), y: y(l) + 18 + r * line, width: Math.max(0.5, Math.abs(long)), height: line - 3, fill: css(signed(scales[r](t))), class: "bar" }));
        });
      });
    });
    steps.forEach((t, at) => {
      if (at) svg.append(arrow(x(at - 1) + wide, y(l) + size / 2, x(at), y(l) + size / 2));
      svg.append(arrow(x(at) + wide / 2, l ? y(l - 1) : bottom + 2, x(at) + wide / 2, y(l) + size));
    });
  });
  steps.forEach((t, at) => {
    const [[token, p]] = surest(k, t, 1), right = t + 1 < tokens.length && trace().ids[t + 1] === token;
    svg.append(arrow(x(at) + wide / 2, y(n.L - 1), x(at) + wide / 2, 33), el("text", { x: x(at) + wide / 2, y: 16, class: right ? "token right" : "token" }, cut(symbol(k, token), WRITTEN)), el("text", { x: x(at) + wide / 2, y: 30, class: right ? "note middle right" : "note middle" }, `${percent(p)}${right ? " ✓" : ""}`));
  });
  return svg;
}

function backward(steps) {
  const n = network(), k = chosen.net, found = gradient(k, chosen.t), states = [...n.states].reverse(), line = 34;
  const size = states.length * line + 8, [svg, { wide, x, y, bottom }] = diagram(steps, size, narrow() ? 40 : 60, 46, say("backward"));
  const all = [...found.input, ...found.states.flatMap((each) => Object.values(each).flatMap((v) => [...v]))], largest = Math.max(...all);
  const share = (v) => (v > 0 ? clamp(1 + Math.log10(v / largest) / 6, 0, 1) : 0); // six powers of ten
  n.layers.forEach((_, l) => {
    if (n.L > 1) svg.append(el("text", { x: 2, y: y(l) + 12, class: "note" }, `${l + 1}`));
    steps.forEach((t, at) => {
      if (t > chosen.t) return;
      const middle = y(l) + size / 2;
      states.forEach((of, s) => {
        const v = found.states[l][of][t], top = y(l) + 4 + s * line;
        svg.append(el("text", { x: x(at) + 6, y: top + 14, class: "norm" }, `∂E/∂${of}`), el("text", { x: x(at) + wide - 6, y: top + 14, class: "norm end" }, digits(v)));
        svg.append(el("rect", { x: x(at) + 6, y: top + 19, width: wide - 12, height: 7, rx: 2, class: "track" }), el("rect", { x: x(at) + 6, y: top + 19, width: (wide - 12) * share(v), height: 7, rx: 2, class: "level" }));
      });
      const into = states.reduce((sum, of) => Math.max(sum, at ? found.states[l][of][t - 1] ?? 0 : 0), 0);
      if (at) svg.append(arrow(x(at), middle, x(at - 1) + wide, middle, 0.8 + 4 * share(into), "arrow back"));
      svg.append(arrow(x(at) + wide / 2, y(l) + size, x(at) + wide / 2, l ? y(l - 1) : bottom + 3, 0.8 + 4 * share(l ? found.states[l - 1][n.states[0]][t] : found.input[t]), "arrow back"));
      if (!l) svg.append(el("text", { x: x(at) + wide / 2 + 8, y: bottom - 8, class: "norm" }, digits(found.input[t])));
    });
  });
  const at = steps.indexOf(chosen.t), loss = networks[k].predictions(trace(), chosen.t)[target(k, chosen.t)];
  svg.append(arrow(x(at) + wide / 2, 33, x(at) + wide / 2, y(n.L - 1), 4.8, "arrow back"), el("text", { x: x(at) + wide / 2, y: 25, class: "token now" }, `E = ${digits(-loss)}`));
  const first = chosen.t - n.data.window + 1; // the first step that training would have reached from here
  if (steps.includes(first) && first > 0) svg.append(el("line", { x1: x(steps.indexOf(first)) - 15, x2: x(steps.indexOf(first)) - 15, y1: 0, y2: bottom + 30, class: "edge" }));
  return svg;
}

// Where training's window would have cut the gradient, and what is left there.
function edge(window) {
  const first = chosen.t - window + 1;
  if (first < 0) return say("edgeNot", { window, t: chosen.t + 1 });
  const { states } = gradient(chosen.net, chosen.t), of = network().states.at(-1);
  const layer = states.at(-1)[of], largest = Math.max(...layer);
  return say("edge", { window, token: cut(visible(tokens[first]), WRITTEN), of, share: digits(layer[first] / largest) });
}

// How much of the memory goes on, where the cell has a gate f for it.
function conveyor() {
  const n = network(), { gates } = n.cell;
  if (!("f" in gates) || !n.states.includes("c")) return say("handsOn", { states: n.states.join(", ") });
  const f = n.node(trace(), chosen.layer, chosen.t, gates.f);
  return say("conveyor", { keep: percent(f.reduce((a, b) => a + b, 0) / f.length), layer: chosen.layer + 1 });
}
