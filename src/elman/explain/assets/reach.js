// How far back a prediction looks: the gradient of its loss by each earlier token, of all networks, by distance and as text.

const DASHES = [null, "7 4", "2 3"]; // a line for each network
const LEAST = 6; // powers of ten below the largest that the chart shows

VIEWS.push({
  id: "reach",
  wide: 12,
  slow: true,
  key: () => [chosen.net, chosen.t],
  draw() {
    const { t } = chosen;
    const said = networks.map((each, k) => {
      const far = reach(gradient(k, t).input), key = far > t ? "lookAll" : "look", per = say(`${far === 1 ? "one" : "per"}.${data.unit}`);
      return el("li", { class: `line${k}` }, swatch(k), el("b", {}, each.data.name), " ", say(key, { n: far, per }));
    });
    const first = Math.max(0, t - 159);
    return [
      head(say("reach")),
      el("p", { class: "say" }, say("reachSay", { n: Math.round(1 / data.faded) })),
      el("ul", { class: "lines" }, said),
      el("div", { onclick: pick }, chart(t)),
      networks.map((each, k) => el("div", { class: "labelled" }, networks.length > 1 ? el("b", { class: `line${k}` }, each.data.name) : null,
        ribbon(reachColour(k), { first, last: t, attributes: { role: "img", "aria-label": say("reachText", { name: each.data.name }), class: "ribbon small" } }))),
    ];
  },
});

const swatch = (k) => el("svg", { viewBox: "0 0 34 10", class: "swatch", "aria-hidden": "true" }, el("line", { x1: 1, x2: 33, y1: 5, y2: 5, "stroke-dasharray": DASHES[k] }));

function chart(t) {
  const W = across(), H = 220, left = 46, far = Math.max(4, Math.min(t, { 350: 40, 700: 100, 1120: 160 }[across()])), every = narrow() ? 10 : 20;
  const x = (distance) => W - 14 - ((W - left - 20) * distance) / far, y = (share) => 10 + clamp(-Math.log10(Math.max(share, 1e-30)) / LEAST, 0, 1) * (H - 20);
  const svg = el("svg", { viewBox: `0 0 ${W} ${H + 46}`, role: "img", "aria-label": say("reach") });
  for (let power = 0; power <= LEAST; power += 2)
    svg.append(el("line", { x1: left, x2: W - 8, y1: y(10 ** -power), y2: y(10 ** -power), class: "zero" }), el("text", { x: left - 6, y: y(10 ** -power) + 4, class: "note end" }, power ? `10⁻${"⁰¹²³⁴⁵⁶"[power]}` : "1"));
  svg.append(el("line", { x1: left, x2: W - 8, y1: y(data.faded), y2: y(data.faded), class: "edge" }), el("text", { x: left + 4, y: y(data.faded) - 5, class: "note" }, say("fadedLine", { n: Math.round(1 / data.faded) })));
  const windows = new Map(networks.map((each) => [each.data.window, each]));
  for (const window of windows.keys())
    if (window <= far) svg.append(el("line", { x1: x(window - 0.5), x2: x(window - 0.5), y1: 4, y2: H, class: "edge" }), el("text", { x: x(window - 0.5) - 6, y: 20, class: "note end" }, say("window", { window })));
  networks.forEach((_, k) => {
    const { input } = gradient(k, t), largest = Math.max(...input), points = [];
    for (let distance = 0; distance <= Math.min(t, far); distance++) {
      const share = largest > 0 ? input[t - distance] / largest : 0;
      points.push(`${x(distance)} ${y(share)}`);
      if (share < 10 ** -LEAST) break;
    }
    svg.append(el("path", { d: `M${points.join("L")}`, class: `curve line${k}`, "stroke-dasharray": DASHES[k] }));
  });
  const room = clamp(Math.floor((W - left - 20) / far / 6.4), 1, 8); // characters for each token
  for (let distance = 0; distance <= Math.min(t, far); distance++)
    svg.append(el("text", { x: x(distance), y: H + 14, class: distance ? "small" : "small now", "data-t": t - distance }, brief(tokens[t - distance], room)));
  for (let distance = 0; distance <= far; distance += every) svg.append(el("text", { x: x(distance), y: H + 30, class: "note middle" }, String(distance + 1)));
  svg.append(el("text", { x: left, y: H + 44, class: "note" }, `← ${say("back", { per: say(`per.${data.unit}`) })}`));
  return svg;
}
