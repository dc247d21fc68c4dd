// A forecaster: its forecast beside the truth, and how each value of the past bears on it.

lengthOf = (window) => window.ahead.length; // t chooses a step ahead
speak = () => say("aheadBy", { n: item().ahead[chosen.t] + 1 });

// How each value of the past bears on a forecast, without the 1 by which the last value counts in all of them.
const bearing = (t) => item().gradients[t];

VIEWS.push({
  id: "text",
  wide: 12,
  key: () => [chosen.item, chosen.t],
  draw() {
    const { quantiles, ahead } = item();
    return [
      head(say("forecast"), itemChoice()),
      el("p", { class: "say" }, say("forecastSay", { n: ahead.length }), quantiles.length > 1 ? ` ${say("band", { low: quantiles[0], high: quantiles.at(-1) })}` : ""),
      el("div", { id: "ribbon", tabindex: 0, role: "slider", "aria-label": say("forecast"), "aria-valuemin": 1, "aria-valuemax": ahead.length, onkeydown: keys, onclick: pick }, together()),
      el("ul", { class: "lines inline" }, [["truth", say("truth")], ["guess", say("theForecast")]].map(([name, label]) => el("li", {}, el("svg", { viewBox: "0 0 34 10", class: "swatch", "aria-hidden": "true" }, el("line", { x1: 1, x2: 33, y1: 5, y2: 5, class: name })), label))),
    ];
  },
});

function together() {
  const { past, truth, forecast, spread, ahead } = item(), W = across(), H = 260, left = 54, n = past.length + truth.length;
  const all = [...past, ...truth.filter((v) => v !== null), ...forecast, ...(spread[0] ?? []), ...(spread.at(-1) ?? [])], low = Math.min(...all), high = Math.max(...all);
  const x = (k) => left + (k * (W - left - 10)) / (n - 1), y = (v) => 8 + (1 - (v - low) / Math.max(1e-30, high - low)) * (H - 34), line = (values, from) => values.map((v, k) => (v === null ? "" : `${(values[k - 1] ?? null) === null ? "M" : "L"}${x(from + k)} ${y(v)}`)).join(""); // a truth that is not known breaks it
  const svg = el("svg", { viewBox: `0 0 ${W} ${H}`, "aria-hidden": "true" }), from = past.length;
  if (spread.length) svg.append(el("path", { d: `${line(spread[0], from)}L${spread.at(-1).map((v, k) => `${x(from + k)} ${y(v)}`).reverse().join("L")}Z`, class: "area" }));
  svg.append(el("path", { d: line(past, 0), class: "curve truth" }), el("path", { d: line(truth, from), class: "curve truth" }), el("path", { d: line([past.at(-1), ...forecast], from - 1), class: "curve guess" }));
  svg.append(el("line", { x1: x(from - 0.5), x2: x(from - 0.5), y1: 0, y2: H - 20, class: "edge" }), el("text", { x: left - 6, y: 16, class: "note end" }, digits(high)), el("text", { x: left - 6, y: H - 26, class: "note end" }, digits(low)));
  svg.append(el("text", { x: left, y: H - 6, class: "note" }, `−${past.length}`), narrow() ? "" : el("text", { x: x(from) + 4, y: H - 6, class: "note" }, "+1"), el("text", { x: W - 8, y: H - 6, class: "note end" }, `+${truth.length}`));
  ahead.forEach((k, t) => svg.append(el("circle", { cx: x(from + k), cy: y(forecast[k]), r: t === chosen.t ? 6 : 3, class: t === chosen.t ? "point now" : "point", "data-t": t })));
  return svg;
}

VIEWS.push({
  id: "reads",
  wide: 12,
  key: () => [chosen.item, chosen.t],
  draw() {
    const { ahead, past } = item(), by = bearing(chosen.t), largest = Math.max(...by.map(Math.abs), 1e-30);
    const first = by.findIndex((v) => Math.abs(v) >= data.faded * largest);
    return [
      head(say("reads", { n: ahead[chosen.t] + 1 })),
      el("p", { class: "say" }, say("readsSay")),
      el("p", {}, say(first < 0 ? "readsNothing" : "readsFar", { n: past.length - first, all: past.length, per: Math.round(1 / data.faded) })),
      lane(by, largest),
      item().beside.length ? el("p", { class: "say" }, say("besideSay")) : null,
      item().beside.map(({ name, words, bears }) => {
        const own = bears[chosen.t];
        return el("div", {}, el("p", {}, `${name}: ${most(own, words)}`), lane(own, Math.max(...own.map(Math.abs), 1e-30), name));
      }),
    ];
  },
});

// The three steps that bear most on the forecast, with their words if they have some.
function most(by, words) {
  const back = item().past.length, at = (k) => (k < back ? `−${back - k}` : `+${k - back + 1}`);
  const order = by.map((v, k) => [Math.abs(v), k]).filter(([v]) => v > 0).sort((a, b) => b[0] - a[0]).slice(0, 3);
  const called = (k) => (words === null ? "" : `${words[k] === null ? say("unknown") : words[k] === "" ? say("noWord") : visibleWord(words[k])} `);
  return order.length ? order.map(([, k]) => `${called(k)}${at(k)} (${digits(by[k])})`).join(", ") : say("bearsNothing");
}

// Bars for the values of the past, and for those ahead if these are read, too. name: the column, if it is another one.
function lane(by, largest, name = null) {
  const W = across(), H = name === null ? 150 : 110, left = 54, wide = (W - left - 10) / by.length, middle = (H - 22) / 2, back = item().past.length;
  const svg = el("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": name === null ? say("readsSay") : `${name}. ${say("besideSay")}` });
  svg.append(el("line", { x1: left, x2: W - 8, y1: middle, y2: middle, class: "zero" }), el("text", { x: left - 6, y: 12, class: "note end" }, digits(largest)), el("text", { x: left - 6, y: 2 * middle, class: "note end" }, digits(-largest)));
  by.forEach((v, k) => svg.append(el("rect", { x: left + k * wide, y: middle - Math.max(0, (v / largest) * middle), width: Math.max(0.8, wide - 0.4), height: Math.max(0.3, (Math.abs(v) / largest) * middle), class: "level" })));
  const further = by.length > back;
  if (further) svg.append(el("line", { x1: left + back * wide, x2: left + back * wide, y1: 0, y2: H - 18, class: "edge" }));
  svg.append(el("text", { x: left, y: H - 4, class: "note" }, `−${back}`), el("text", { x: W - 8, y: H - 4, class: "note end" }, further ? `+${by.length - back}` : say("lastValue")));
  return svg;
}

VIEWS.push({
  id: "map",
  wide: 12,
  key: () => [chosen.item, chosen.t],
  draw() {
    const { ahead, past } = item(), gradients = ahead.map((_, t) => bearing(t)), largest = Math.max(...gradients.flat().map(Math.abs), 1e-30), T = past.length;
    const canvas = el("canvas", { width: T, height: ahead.length, "aria-hidden": "true", style: "height: 240px" }), pen = canvas.getContext("2d"), image = pen.createImageData(T, ahead.length);
    const strength = (v) => Math.sign(v) * clamp(1 + Math.log10(Math.max(Math.abs(v), 1e-30) / largest) / 3, 0, 1); // three powers of ten
    gradients.forEach((by, row) => by.forEach((v, k) => image.data.set([...signed(strength(v)), 255], 4 * (row * T + k))));
    pen.putImageData(image, 0, 0);
    const point = (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      choose({ t: Math.floor(((event.clientY - box.top) / box.height) * ahead.length) });
    };
    return [
      head(say("allAhead")),
      el("p", { class: "say" }, say("allAheadSay")),
      el("div", { class: "heat", onclick: point }, canvas, el("div", { class: "row", style: `top: ${(100 * (chosen.t + 0.5)) / ahead.length}%` })),
      el("div", { class: "bar legend" }, say("lowers"), ramp(signed, -1), say("raises")),
    ];
  },
});

begin();
