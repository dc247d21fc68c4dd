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

// Below the lines stand the words of each category. A line is broken where a number is missing. rows: the height of what `below` draws under the lines; it is given where that begins.
function lines(series, stride, rows = 0, below = () => {}) {
  const W = across(), lane = clamp(240 / series.length, 36, 80), { left, x } = place(W), words = item().words ?? [];
  const under = data.audio ? HEARD : series.length * lane, low = under + words.length * 20 + rows;
  const svg = el("svg", { viewBox: `0 0 ${W} ${low + 18}`, "aria-hidden": "true" });
  if (data.audio) heard(svg, series, left, W - left - 8);
  else series.forEach((values, k) => {
    const known = values.filter((v) => v !== null), low = known.length ? Math.min(...known) : 0, high = known.length ? Math.max(...known) : 0, y = (v) => k * lane + 6 + (1 - (v - low) / Math.max(1e-30, high - low)) * (lane - 12);
    const there = (t) => (values[t] ?? null) !== null;
    svg.append(el("path", { d: values.map((v, t) => (there(t) ? `${there(t - 1) ? "L" : "M"}${x(t)} ${y(v)}` : "")).join(""), class: "curve" }));
    values.forEach((v, t) => there(t) && !there(t - 1) && !there(t + 1) && svg.append(el("circle", { cx: x(t), cy: y(v), r: 1.8, class: "lonely" })));
    const name = data.time !== null && k === series.length - 1 ? say("sinceStep") : data.channels[k] ?? "";
    if (name) svg.append(el("text", { x: left + 2, y: k * lane + 12, class: "note" }, cut(name, 40)));
    if (known.length) svg.append(el("text", { x: left - 6, y: k * lane + 14, class: "note end" }, digits(high)), el("text", { x: left - 6, y: (k + 1) * lane - 4, class: "note end" }, digits(low)));
  });
  words.forEach((each, k) => pieces(svg, under + 2 + k * 20, data.categories[k], each.words, (t) => hue(each.codes[t] - 1)));
  svg.append(el("text", { x: left, y: low + 14, class: "note" }, data.audio ? "0 s" : say("step", { n: 1 })), el("text", { x: W - 8, y: low + 14, class: "note end" }, data.audio ? `${digits(tokens.length * stride * data.audio)} s` : String(tokens.length * stride)));
  below(svg, low - rows);
  return choosing(svg, W, low);
}

// A row of what each step is called; steps in a row that are called the same are one piece. null: it is called nothing.
function pieces(svg, y, name, list, fill) {
  const { left, x, wide } = place(across());
  svg.append(el("text", { x: left - 6, y: y + 13, class: "note end" }, cut(name, 9)));
  for (let t = 0, end; t < list.length; t = end) {
    for (end = t + 1; end < list.length && list[end] === list[t]; end++);
    if (list[t] === null) continue;
    const colour = fill(t), long = (end - t) * wide, room = Math.floor((long - 3) / 6);
    svg.append(el("rect", { x: x(t) - wide / 2, y, width: Math.max(0.5, long - (wide > 3 ? 1 : 0)), height: 17, fill: css(colour) }));
    if (room > 1) svg.append(el("text", { x: x(t) - wide / 2 + 3, y: y + 13, style: `fill: ${readable(colour)}`, class: "note" }, cut(list[t], room)));
  }
}

// The words of the chosen step.
const spoken = () => {
  const own = item().words ?? [], told = ({ words, codes }) => {
    const word = words[chosen.t] ?? "", shown = word === "" ? say("noWord") : visibleWord(word);
    return codes[chosen.t] ? shown : say("unknownWord", { word: shown });
  };
  return own.length ? el("p", {}, `${say("step", { n: chosen.t * (item().stride ?? 1) + 1 })}: ${own.map((each, k) => `${data.categories[k]} ${told(each)}`).join(", ")}`) : null;
};

// Colours of classes and of words: as many lightnesses as are told apart side by side, in a few hues.
const HUES = [[31, 119, 180], [255, 127, 14], [44, 160, 44], [214, 39, 40], [148, 103, 189], [140, 86, 75], [227, 119, 194], [188, 189, 34], [23, 190, 207], [120, 120, 120]];
const hue = (k) => (k < 0 ? [160, 160, 160] : HUES[k % HUES.length].map((v) => Math.round(v + (255 - v) * [0, 0.45, 0.7][Math.floor(k / HUES.length) % 3])));
