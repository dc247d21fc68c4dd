// A classifier: the classes of a sequence, what each step says of them in each direction, and which steps they depend on.
// Or a model that predicts a number: the same of this value. Or one of several classes at once: the same of each of these.

const numeric = data.task === "regress", several = data.task === "multilabel";
const told = (key, fill) => say(numeric ? `value.${key}` : several && key === "seriesSay" ? `classes.${key}` : key, fill);

lengthOf = (sequence) => sequence.look[0].length;
speak = () => say("step", { n: chosen.t * item().stride + 1 });
const written = (token) => (data.unit === "characters" ? visible(token) : visibleWord(token));
chosen.t = 1e9; // the last step, where the forward direction has read everything

VIEWS.push({
  id: "text",
  wide: 12,
  key: () => [chosen.item, chosen.t],
  draw() {
    const { shares: [{ forward, backward, name }], tokens: words, strange, series, stride } = item(), unknown = new Set(strange), both = forward.map((v, t) => v + backward[t]), largest = Math.max(...both.map(Math.abs), 1e-30);
    const slider = {
      id: "ribbon", tabindex: 0, role: "slider", "aria-label": say("sequence"), "aria-valuemin": 1, "aria-valuemax": both.length, onkeydown: keys, onclick: pick,
    };
    const word = (t) => {
      const fill = signed(both[t] / largest), part = words.slice(t * stride, (t + 1) * stride), after = data.unit === "characters" ? "" : " ";
      return el("i", { "data-t": t, style: `background-color: ${css(fill)}; color: ${readable(fill)}` }, part.map((each, k) => [unknown.has(t * stride + k) ? el("span", { class: "strange" }, written(each)) : written(each), after]));
    };
    return [
      head(say("sequence"), itemChoice()),
      el("p", { class: "say" }, told(words ? "sequenceSay" : "seriesSay", { name }), data.gaps ? ` ${say("broken")}` : "", data.categories.length ? ` ${say("wordsSay")}` : ""),
      words ? el("div", { ...slider, class: "ribbon" }, both.map((_, t) => word(t))) : el("div", slider, lines(series, stride)),
      spoken(),
      words ? el("div", { class: "bar legend" }, told("against"), ramp(signed, -1), told("infavour")) : null,
      strangeOnes(strange.map((t) => written(words[t]))),
    ];
  },
});

if (numeric) VIEWS.push({
  id: "value",
  wide: 5,
  key: () => [chosen.item],
  draw() {
    const { predicted, quantiles, spread, truth } = item(), rows = [[told("predicted"), predicted], ...(quantiles.length > 1 ? quantiles.map((q, k) => [told("quantile", { q }), spread[k]]) : []), [told("truth"), truth]];
    return [
      head(told("which"), valueSaid()),
      el("table", { class: "numbers" }, el("tbody", {}, rows.filter(([, v]) => v !== null).map(([name, v]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, String(v).replace("-", "−")))))),
      numberLine(),
      truth === null ? el("p", { class: "say" }, say("noTruth")) : null,
    ];
  },
});
else VIEWS.push({
  id: "chances",
  wide: 5,
  key: () => [chosen.item],
  draw() {
    const { probabilities, truth } = item(), list = data.classes.map((name, k) => [name, probabilities[k]]).sort((a, b) => b[1] - a[1]).map((pair, k) => [...pair, k + 1]);
    const kept = list.filter(([name, , place]) => place <= 8 || isTrue(name, truth) || name === item().column);
    const lacking = several ? (truth ?? []).filter((name) => !data.classes.includes(name)) : [];
    return [head(say(several ? "classes.which" : "whichClass")), several ? el("p", { class: "say" }, say("classes.whichSay")) : null, chances(kept, truth), lacking.length ? el("p", { class: "say" }, say("classes.lacking", { names: lacking.join(", ") })) : null, truth ? null : el("p", { class: "say" }, say("noTruth"))];
  },
});

// The prediction as a dot, its outer quantiles as a band and the true value as a tick, on the range of all sequences that are shown.
function numberLine() {
  const { predicted, spread, truth } = item(), W = 300, every = items.filter((each) => each.column === item().column).flatMap((each) => [each.predicted, ...each.spread, each.truth]).filter((v) => v !== null), low = Math.min(...every), high = Math.max(...every);
  const x = (v) => 10 + ((v - low) / Math.max(1e-30, high - low)) * (W - 20);
  const svg = el("svg", { viewBox: `0 0 ${W} 44`, "aria-hidden": "true" });
  svg.append(el("line", { x1: 10, x2: W - 10, y1: 14, y2: 14, class: "zero" }));
  if (spread.length > 1) svg.append(el("rect", { x: x(spread[0]), y: 9, width: Math.max(1, x(spread[spread.length - 1]) - x(spread[0])), height: 10, class: "other" }));
  if (truth !== null) svg.append(el("line", { x1: x(truth), x2: x(truth), y1: 3, y2: 25, class: "true" }));
  svg.append(el("circle", { cx: x(predicted), cy: 14, r: 4, class: "level" }));
  svg.append(el("text", { x: 10, y: 40, class: "note" }, digits(low)), el("text", { x: W - 10, y: 40, class: "note end" }, digits(high)));
  return svg;
}

VIEWS.push({
  id: "shares",
  wide: 7,
  key: () => [chosen.item],
  draw() {
    const total = (list) => list.reduce((a, b) => a + b, 0);
    return [head(say("directions")), el("p", { class: "say" }, told("directionsSay")), shareTable(item().shares.map((each) => ({ ...each, name: each.name || valueName(), forward: total(each.forward), backward: total(each.backward) })), numeric ? valueName() : say("logit"))];
  },
});

VIEWS.push({
  id: "reach",
  wide: 12,
  key: () => [chosen.item, chosen.t],
  draw() {
    const { shares: [first], look: [norms], tokens: words, stride } = item(), t = chosen.t, largest = Math.max(...norms);
    return [
      head(told("byStep", { name: first.name })),
      el("p", { class: "say" }, told("byStepSay", { name: first.name })),
      el("p", {}, rich("atStep", { step: el("b", {}, words ? `${t * stride + 1} (${visible(words[t * stride])})` : String(t * stride + 1)), forward: el("b", {}, digits(first.forward[t])), backward: el("b", {}, digits(first.backward[t])), look: el("b", {}, largest > 0 ? percent(norms[t] / largest) : "0") })),
      el("div", { onclick: pick }, byStep(first, norms)),
    ];
  },
});

function byStep(first, norms) {
  const W = across(), lane = 84, { left, x, wide } = place(W), most = Math.max(...first.forward.map(Math.abs), ...first.backward.map(Math.abs), 1e-30), largest = Math.max(...norms, 1e-30), powers = 4;
  const svg = el("svg", { viewBox: `0 0 ${W} ${3 * lane + 4}`, role: "img", "aria-label": told("byStep", { name: first.name }) });
  const bar = (t, top, from, to, name) => svg.append(el("rect", { x: x(t) - wide / 2 + 0.3, y: top + Math.min(from, to), width: Math.max(0.8, wide - 0.6), height: Math.max(0.4, Math.abs(to - from)), class: name }));
  [["forward", say("fromLeft")], ["backward", say("fromRight")]].forEach(([way, label], k) => {
    const top = k * lane + 16, middle = (lane - 20) / 2;
    svg.append(el("text", { x: left, y: top - 4, class: "note" }, label), el("text", { x: left - 6, y: top + 8, class: "note end" }, digits(most)), el("text", { x: left - 6, y: top + 2 * middle, class: "note end" }, digits(-most)));
    svg.append(el("line", { x1: left, x2: W - 8, y1: top + middle, y2: top + middle, class: "zero" }));
    first[way].forEach((v, t) => bar(t, top, middle, middle - (v / most) * middle, "level"));
  });
  const top = 2 * lane + 16, high = lane - 20;
  svg.append(el("text", { x: left, y: top - 4, class: "note" }, told("dependsOn")), el("text", { x: left - 6, y: top + 8, class: "note end" }, "1"), el("text", { x: left - 6, y: top + high, class: "note end" }, "10⁻⁴"));
  norms.forEach((v, t) => bar(t, top, high, high * clamp(-Math.log10(Math.max(v, 1e-30) / largest) / powers, 0, 1), "other"));
  return choosing(svg, W, 3 * lane);
}

begin();
