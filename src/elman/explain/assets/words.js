// A tagger: the tags of a sentence, what each direction says of them, and which words they depend on, before and after.

lengthOf = (sentence) => sentence.words.length;
speak = () => `${item().words[chosen.t]}: ${item().predicted[chosen.t]}`;

VIEWS.push({
  id: "text",
  wide: 12,
  key: () => [chosen.item, chosen.t],
  draw() {
    const { words, predicted, truth } = item(), counts = dependence(chosen.t);
    const word = (each, t) => {
      const fill = more(counts[t]), wrong = truth && truth[t] !== predicted[t];
      return el("span", { class: "word", "data-t": t }, el("b", { style: `background-color: ${css(fill)}; color: ${readable(fill)}` }, visibleWord(each)), el("small", {}, wrong ? `${predicted[t]} ✗ ${truth[t]}` : predicted[t]));
    };
    return [
      head(say("sentence"), itemChoice()),
      el("p", { class: "say" }, say("sentenceSay")),
      el("div", {
        id: "ribbon", class: "ribbon words", tabindex: 0, role: "slider", "aria-label": say("sentence"), "aria-valuemin": 1, "aria-valuemax": words.length, onkeydown: keys, onclick: pick,
      }, words.map(word)),
      el("div", { class: "bar legend" }, say("faded", { n: Math.round(1 / data.faded) }), ramp(more, 0), say("counts")),
    ];
  },
});

VIEWS.push({
  id: "chances",
  wide: 5,
  key: () => [chosen.item, chosen.t],
  draw: () => [
    head(say("whichTag")),
    el("p", { class: "say" }, rich("forWord", { word: el("b", { class: "mono" }, visibleWord(item().words[chosen.t])) })),
    chances(item().likeliest[chosen.t].map((pair, k) => [...pair, k + 1]), item().truth?.[chosen.t]),
    item().truth ? null : el("p", { class: "say" }, say("noTruth")),
  ],
});

VIEWS.push({
  id: "shares",
  wide: 7,
  key: () => [chosen.item, chosen.t],
  draw: () => [head(say("directions")), el("p", { class: "say" }, say("before" in item().shares[0][0] ? "directionsTags" : "directionsSay")), shareTable(item().shares[chosen.t])],
});

VIEWS.push({
  id: "reach",
  wide: 12,
  key: () => [chosen.item, chosen.t],
  draw() {
    const { words, look } = item(), norms = look[chosen.t], largest = Math.max(...norms), known = norms.map((v) => v >= data.faded * largest && v > 0);
    const [first, last] = [known.indexOf(true), known.lastIndexOf(true)];
    return [
      head(say("bothWays")),
      el("p", { class: "say" }, say("bothWaysSay", { n: Math.round(1 / data.faded) })),
      el("p", {}, rich(first < 0 ? "bothWaysNothing" : "bothWaysFar", { word: el("b", { class: "mono" }, visibleWord(words[chosen.t])), before: String(Math.max(0, chosen.t - first)), after: String(Math.max(0, last - chosen.t)) })),
      el("div", { onclick: pick }, matrix(words)),
    ];
  },
});

function matrix(words) {
  const n = words.length, W = across(), room = Math.min((W - 130) / n, 26), written = room >= 11, left = written ? 124 : 4, top = written ? 92 : 4, side = written ? room : Math.min((W - 10) / n, 26);
  const svg = el("svg", { viewBox: `0 0 ${W} ${top + n * side + 6}`, role: "img", "aria-label": say("bothWays") });
  words.forEach((word, t) => {
    const now = t === chosen.t ? "word now" : "word", short = cut(visibleWord(word), 16);
    if (written) {
      svg.append(el("text", { x: left - 6, y: top + (t + 0.72) * side, class: `${now} end`, "data-t": t }, short));
      svg.append(el("text", { transform: `translate(${left + (t + 0.7) * side} ${top - 6}) rotate(-60)`, class: now, "data-t": t }, short));
    }
    dependence(t).forEach((share, s) => svg.append(el("rect", { x: left + s * side, y: top + t * side, width: side - 0.6, height: side - 0.6, fill: css(more(share)), "data-t": t })));
  });
  svg.append(el("rect", { x: left - 1, y: top + chosen.t * side - 1, width: n * side + 1, height: side + 1, class: "frame" }));
  return svg;
}

begin();
