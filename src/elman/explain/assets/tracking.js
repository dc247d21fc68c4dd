// Units that track what takes memory, each beside what the last token alone would tell.

VIEWS.push({
  id: "tracking",
  wide: 12,
  slow: true,
  key: () => [chosen.net],
  draw() {
    const { tracking } = network().data, { found, missing } = tracking;
    const title = head(say("tracking"));
    if (missing) return [title, el("p", { class: "say" }, say(`missing.${missing}`))];
    if (!found.length) return [title, el("p", { class: "say" }, say("trackingNone"))];
    return [title, el("p", { class: "say" }, say("trackingSay")), el("div", { class: "tracks" }, found.map(track))];
  },
});

function track(each) {
  const { layer, state, unit, property, kind } = each, name = say(`properties.${property}`);
  const scores = networks.map((other, k) => [other.data.name, other.data.tracking.found.find((found) => found.property === property)?.score ?? null, k === chosen.net]);
  const holds = tokens === data.tokens && kind === "flag" ? (t) => each.along[t] > 0.5 : null;
  return el("div", {},
    el("div", { class: "bar" }, el("h3", {}, name), el("span", { class: "soft" }, `${network().L > 1 ? `${say("layer")} ${layer + 1}, ` : ""}${state} ${unit}`), el("span", { class: "gap" }),
      el("button", { id: `show-${property}`, onclick: () => show(each) }, say("show"))),
    el("div", { class: "meters" }, scores.map(([own, score, now]) => meter(own, score, now)), meter(say("alone"), each.alone, false)),
    el("p", { class: "soft" }, kind === "flag" ? say("flag", { precision: percent(each.precision), recall: percent(each.recall) }) : say("number")),
    ribbon(unitColour(chosen.net, layer, state, unit), { under: holds, attributes: { role: "img", "aria-label": `${name}: ${state} ${unit}`, class: "ribbon small", tabindex: 0 } }));
}

function meter(name, score, now) {
  return el("div", { class: now ? "meter now" : "meter" }, el("span", {}, name),
    el("span", { class: "track" }, el("span", { class: "fill", style: `width: ${100 * clamp(score ?? 0, 0, 1)}%` })), el("span", { class: "value" }, score === null ? "–" : score.toFixed(2)));
}

function show({ layer, state, unit }) {
  choose({ layer, of: state, panel: state, unit, lens: "unit" });
  document.getElementById("text").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}
