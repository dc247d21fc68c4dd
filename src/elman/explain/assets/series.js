// The numbers of a sequence as lines over its steps, of which one is chosen.

function place(W) {
  const left = 46, n = tokens.length;
  return { left, x: (t) => left + ((t + 0.5) * (W - left - 8)) / n, wide: (W - left - 8) / n };
}

// An invisible column for each step, to be chosen; the chosen one is marked.
function choosing(svg, W, H) {
  const { x, wide } = place(W);
  svg.append(el("line", { x1: x(chosen.t), x2: x(chosen.t), y1: 0, y2: H, class: "now" }));
  tokens.forEach((_, t) => svg.append(el("rect", { x: x(t) - wide / 2, y: 0, width: wide, height: H, class: "column", "data-t": t })));
  return svg;
}

// A line is broken where a number is missing. rows: the height of what `below` draws under the lines; it is given where that begins.
function lines(series, stride, rows = 0, below = () => {}) {
  const W = across(), lane = clamp(240 / series.length, 36, 80), { left, x } = place(W);
  const svg = el("svg", { viewBox: `0 0 ${W} ${series.length * lane + rows + 18}`, "aria-hidden": "true" });
  series.forEach((values, k) => {
    const known = values.filter((v) => v !== null), low = known.length ? Math.min(...known) : 0, high = known.length ? Math.max(...known) : 0, y = (v) => k * lane + 6 + (1 - (v - low) / Math.max(1e-30, high - low)) * (lane - 12);
    const there = (t) => (values[t] ?? null) !== null;
    svg.append(el("path", { d: values.map((v, t) => (there(t) ? `${there(t - 1) ? "L" : "M"}${x(t)} ${y(v)}` : "")).join(""), class: "curve" }));
    values.forEach((v, t) => there(t) && !there(t - 1) && !there(t + 1) && svg.append(el("circle", { cx: x(t), cy: y(v), r: 1.8, class: "lonely" })));
    const name = data.time !== null && k === series.length - 1 ? say("sinceStep") : data.channels[k] ?? "";
    if (name) svg.append(el("text", { x: left + 2, y: k * lane + 12, class: "note" }, cut(name, 40)));
    if (known.length) svg.append(el("text", { x: left - 6, y: k * lane + 14, class: "note end" }, digits(high)), el("text", { x: left - 6, y: (k + 1) * lane - 4, class: "note end" }, digits(low)));
  });
  const low = series.length * lane + rows;
  svg.append(el("text", { x: left, y: low + 14, class: "note" }, say("step", { n: 1 })), el("text", { x: W - 8, y: low + 14, class: "note end" }, String(tokens.length * stride)));
  below(svg, series.length * lane);
  return choosing(svg, W, low);
}
