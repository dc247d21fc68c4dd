// A translator: what it read and wrote, how likely each symbol was, and how much it looked at each step.

const CHANNELS = 6; // lines of numbers that are drawn

lengthOf = (sequence) => sequence.written.length;
const shownText = (text) => (text === "" ? say("attention.empty") : text);
const called = (symbol) => (symbol === "" ? say("attention.end") : visible(symbol));
speak = () => `${chosen.t + 1}: ${called(item().written[chosen.t])}`;

VIEWS.push({
  id: "text",
  wide: 12,
  key: () => [chosen.item, chosen.t],
  draw() {
    const { tokens: read, strange, written, label, text, look } = item(), { right, cut: unended } = item(), own = look[chosen.t];
    const fill = (s) => `background-color: ${css(more(own[s]))}; color: ${readable(more(own[s]))}`;
    const rows = [["written", text], ["truth", label]].filter(([, value]) => value !== null);
    return [
      head(say("sequence"), itemChoice()),
      el("p", { class: "say" }, say(read ? "attention.say" : "attention.sayNumbers")),
      el("table", { class: "numbers texts" }, el("tbody", {}, rows.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, say(`attention.${name}`)), el("td", {}, shownText(value)))))),
      right === null ? null : el("p", { class: "say" }, say(right ? "attention.right" : "attention.wrong")),
      unended ? el("p", { class: "say" }, say("attention.cut")) : null,
      read && el("p", { class: "note" }, say("attention.read")),
      read && el("div", { class: "ribbon words" }, read.map((token, s) => el("span", { class: "word" }, el("b", { class: strange.includes(s) ? "strange" : "", style: fill(s) }, visible(token))))),
      read && strangeOnes(strange.map((s) => visible(read[s]))),
      el("p", { class: "note" }, say("attention.written")),
      el("div", {
        id: "ribbon", class: "ribbon words", tabindex: 0, role: "slider", "aria-label": say("attention.written"), "aria-valuemin": 1, "aria-valuemax": written.length, onkeydown: keys, onclick: pick,
      }, written.map((symbol, t) => el("span", { class: "word", "data-t": t }, el("b", {}, called(symbol))))),
      read && el("div", { class: "bar legend" }, "0 %", ramp(more, 0), "100 %"),
    ];
  },
});

VIEWS.push({
  id: "chances",
  wide: 12,
  key: () => [chosen.item, chosen.t],
  draw: () => [
    head(say("attention.which", { n: chosen.t + 1 })),
    el("p", { class: "say" }, say("attention.afterThose")),
    chances(item().likeliest[chosen.t].map(([name, share], k) => [called(name), share, k + 1])),
  ],
});

VIEWS.push({
  id: "attention",
  wide: 12,
  key: () => [chosen.item, chosen.t],
  draw: () => [head(say("attention.matrix")), el("p", { class: "say" }, say("attention.matrixSay"), !data.audio && (item().series ?? []).length > CHANNELS ? ` ${say("attention.channels", { n: CHANNELS, of: item().series.length })}` : ""), el("div", { onclick: pick }, table(item()))],
});

// A row for each symbol, and a column for each step; above them what was read, as tokens or as lines of numbers.
function table({ tokens: read, series, written, look }) {
  const steps = look[0].length, W = across(), left = 110, wide = Math.min((W - left - 8) / steps, 30), high = clamp(wide, 14, 22);
  const longest = read ? Math.max(...read.map((token) => [...visible(token)].length)) : 0, turned = longest > 1 || wide < 11;
  const lane = 36, drawn = data.audio ? [] : (series ?? []).slice(0, CHANNELS), top = read ? (turned ? 20 + 7 * Math.min(longest, 14) : 20) : data.audio ? HEARD : drawn.length * lane + 6;
  const svg = el("svg", { viewBox: `0 0 ${W} ${top + written.length * high + 8}`, role: "img", "aria-label": say("attention.matrix") });
  const x = (s) => left + (s + 0.5) * wide;
  if (read && wide >= 6) read.forEach((token, s) => svg.append(el("text", turned ? { transform: `translate(${x(s) + 4} ${top - 6}) rotate(-60)`, class: "word" } : { x: x(s), y: top - 6, class: "word middle" }, cut(visible(token), 14))));
  if (data.audio) heard(svg, series, left, steps * wide);
  drawn.forEach((values, k) => {
    const known = values.filter((v) => v !== null), low = Math.min(...known), high = Math.max(...known), y = (v) => k * lane + 4 + (1 - (v - low) / Math.max(1e-30, high - low)) * (lane - 8);
    svg.append(el("path", { d: values.map((v, s) => (v === null ? "" : `${s && values[s - 1] !== null ? "L" : "M"}${x(s)} ${y(v)}`)).join(""), class: "curve" }));
    svg.append(el("text", { x: left - 6, y: k * lane + 22, class: "note end" }, cut(data.channels[k] ?? (data.time !== null && k === series.length - 1 ? say("sinceStep") : ""), 16)));
  });
  written.forEach((symbol, t) => {
    const y = top + t * high;
    svg.append(el("text", { x: left - 6, y: y + 0.72 * high, class: t === chosen.t ? "word now end" : "word end", "data-t": t }, cut(called(symbol), 14)));
    look[t].forEach((share, s) => svg.append(el("rect", { x: left + s * wide, y, width: Math.max(0.5, wide - 0.6), height: high - 0.6, fill: css(more(share)), "data-t": t })));
  });
  svg.append(el("rect", { x: left - 1, y: top + chosen.t * high - 1, width: steps * wide + 1, height: high + 1, class: "frame" }));
  return svg;
}

begin();
