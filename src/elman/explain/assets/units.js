// All units of a layer over the whole text, for one gate or state at a time: a row a unit, a column a token.

VIEWS.push({
  id: "units",
  wide: 12,
  slow: true,
  key: () => [chosen.net, chosen.layer, chosen.panel, chosen.of, chosen.unit, chosen.t],
  draw() {
    const n = network(), { outputs, gates, nodes } = n.cell, panels = [...n.states].reverse().concat(Object.keys(gates).filter((name) => !(name in outputs)));
    const node = outputs[chosen.panel] ?? gates[chosen.panel], opens = nodes[node][0] === "sigmoid";
    const order = n.data.orders[chosen.layer][n.states.at(-1)], row = order.indexOf(chosen.unit), T = tokens.length;
    const at = (event, box) => [Math.floor(((event.clientX - box.left) / box.width) * T), Math.floor(((event.clientY - box.top) / box.height) * n.H)];
    const point = (event) => {
      const [t, r] = at(event, event.currentTarget.getBoundingClientRect());
      choose({ t: clamp(t, 0, T - 1), unit: order[clamp(r, 0, n.H - 1)] });
    };
    const turn = (event) => {
      const far = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!far) return keys(event);
      event.preventDefault();
      choose({ unit: order[clamp(row + far, 0, n.H - 1)] });
    };
    return [
      head(say("all", { n: n.H }), layerChoice("units-layer"), choice("panel", say("panel"), "panel", panels.map((name) => [name, name]))),
      el("p", { class: "say" }, say("allSay")),
      el("div", {
        id: "map", class: "heat", tabindex: 0, role: "slider", "aria-orientation": "vertical", "aria-label": say("all", { n: n.H }), "aria-valuemin": 1, "aria-valuemax": n.H,
        "aria-valuenow": row + 1, "aria-valuetext": nameOf(chosen.net, chosen.layer, chosen.of, chosen.unit), onclick: point, onkeydown: turn,
      }, heatMap(node, opens, order), el("div", { class: "column", style: `left: ${(100 * (chosen.t + 0.5)) / T}%` }), el("div", { class: "row", style: `top: ${(100 * (row + 0.5)) / n.H}%` })),
      el("div", { class: "bar legend" }, opens ? say("shut") : say("ownLeast"), ramp(signed, -1), opens ? say("open") : say("ownMost"),
        el("span", { class: "gap" }), el("b", {}, nameOf(chosen.net, chosen.layer, chosen.of, chosen.unit)), `${chosen.panel} = ${digits(n.node(trace(), chosen.layer, chosen.t, node)[chosen.unit])}`),
    ];
  },
});

let drawn = {}; // the last heat map: moving the marks does not paint it again

function heatMap(node, opens, order) {
  const key = [version, chosen.net, chosen.layer, node].join();
  if (drawn.key === key) return drawn.canvas;
  const n = network(), T = tokens.length, H = n.H, layer = n.layers[chosen.layer], values = trace().values[chosen.layer];
  const canvas = el("canvas", { width: T, height: H, "aria-hidden": "true", style: `height: ${clamp(1.5 * H, 120, 440)}px` }), pen = canvas.getContext("2d"), image = pen.createImageData(T, H);
  const table = Array.from({ length: 256 }, (_, k) => signed(k / 127.5 - 1));
  order.forEach((unit, row) => {
    const at = (t) => values[t * layer.size + layer.at[node] + unit];
    let largest = 1e-30; // of this unit: a few large ones would leave all others pale
    for (let t = 0; t < T; t++) largest = Math.max(largest, Math.abs(at(t)));
    for (let t = 0; t < T; t++) {
      const x = opens ? at(t) : (at(t) / largest + 1) / 2;
      image.data.set([...table[Math.round(255 * clamp(x, 0, 1))], 255], 4 * (row * T + t));
    }
  });
  pen.putImageData(image, 0, 0);
  drawn = { key, canvas };
  return canvas;
}
