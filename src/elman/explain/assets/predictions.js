// What comes next: the likeliest tokens after this step, and the truth among them.

// The last tokens up to this step, in about a line: the number of the first, and how they are written.
function before(t) {
  let first = t, written = visible(tokens[t]);
  for (; first && t - first < 11 && written.length < 30; first--) written = visible(tokens[first - 1]) + written;
  return [first, written];
}

VIEWS.push({
  id: "predictions",
  wide: 4,
  key: () => [chosen.net, chosen.t],
  draw() {
    const { net: k, t } = chosen, list = surest(k, t, 8), truth = t + 1 < tokens.length ? traces[k].ids[t + 1] : null;
    const row = networks[k].predictions(traces[k], t), p = truth === null ? 0 : Math.exp(row[truth]);
    const rank = truth === null ? 0 : row.reduce((above, v) => above + (v > row[truth] ? 1 : 0), 1);
    const rows = list.map(([token, share], place) => [place + 1, symbol(k, token), share, token === truth]);
    if (truth !== null && !list.some(([token]) => token === truth)) rows.push([rank, visible(tokens[t + 1]), p, true]);
    const [first, context] = before(t);
    return [
      head(say("next")),
      el("p", { class: "say" }, rich("after", { context: el("b", { class: "mono" }, `${first ? "…" : ""}${context}`) })),
      el("div", { class: "bars" }, rows.map(([place, written, share, right]) => [
        el("span", { class: "place" }, String(place)),
        el("span", { class: right ? "key right" : "key" }, written),
        el("span", { class: "track" }, el("span", { class: right ? "fill right" : "fill", style: `width: ${100 * share}%` })),
        el("span", { class: "value" }, percent(share)),
        el("span", { class: "tick" }, right ? "✓" : ""),
      ])),
      el("p", { class: "say" }, truth === null ? say("last")
        : rich("came", { truth: el("b", { class: "mono" }, visible(tokens[t + 1])), rank: el("b", {}, String(rank)), bits: el("b", {}, digits(-Math.log2(p))) })),
    ];
  },
});
