// The networks of a page of language models: their traces, gradients and units, and reading another text.

const networks = data.networks.map((each) => Object.assign(new Network(each), { data: each }));
tokens = data.tokens;

// net: the network. layer, of, unit: a unit of a state. lens: what colours the text. panel: the gate or state of which all
// units are shown. mode: values or gradients.
Object.assign(chosen, { net: 0, layer: 0, of: "", unit: 0, lens: "surprise", panel: "", mode: "forward" });
let last; // the network that was chosen before
settle = () => {
  chosen.net = clamp(chosen.net, 0, networks.length - 1);
  if (last !== undefined && last !== chosen.net) Object.assign(chosen, remarkable(chosen.net));
  last = chosen.net;
  const { L, H, states, cell } = network();
  chosen.t = clamp(chosen.t, 0, tokens.length - 1);
  chosen.layer = clamp(chosen.layer, 0, L - 1);
  chosen.unit = clamp(chosen.unit, 0, H - 1);
  if (!states.includes(chosen.of)) chosen.of = states.at(-1);
  if (!(chosen.panel in cell.gates) && !states.includes(chosen.panel)) chosen.panel = states.at(-1);
};

let traces = []; // of each network
const network = () => networks[clamp(chosen.net, 0, networks.length - 1)];
const trace = () => traces[chosen.net];
const isStrange = (t) => network().data.unknown !== null && trace().ids[t] === network().data.unknown;

const layerChoice = (id) => (network().L > 1 ? el("span", { class: "bar" }, say("layer") + " ", choice(id, say("layer"), "layer", Array.from({ length: network().L }, (_, l) => [l, String(l + 1)]))) : null);

// Units

const tracked = (k, layer) => networks[k].data.tracking.found.filter((each) => each.layer === layer);
const trackedAs = (k, layer, of, unit) => tracked(k, layer).find((each) => each.state === of && each.unit === unit);

function nameOf(k, layer, of, unit) {
  const known = trackedAs(k, layer, of, unit);
  return known ? `${say(`properties.${known.property}`)} (${of} ${unit})` : `${of} ${unit}`;
}

// The unit to look at first: the first that tracks something, or else the one that remembers most.
function remarkable(k) {
  const [found] = networks[k].data.tracking.found, of = networks[k].states.at(-1);
  return found ? { layer: found.layer, of: found.state, unit: found.unit } : { layer: 0, of, unit: networks[k].data.orders[0][of][0] };
}

// A unit's value at a step as a colour's number from −1 to 1, the same wherever it is shown: around the threshold that it
// is judged by if it tracks something, else around zero.
function unitScale(k, layer, of, unit) {
  const value = (t) => networks[k].state(traces[k], layer, t, of)[unit], known = trackedAs(k, layer, of, unit);
  if (!known) {
    const largest = extent(k, layer, of, unit);
    return (t) => value(t) / largest;
  }
  const middle = known.threshold ?? (known.low + known.high) / 2;
  const up = Math.max(1e-9, known.high - middle), down = Math.max(1e-9, middle - known.low);
  return (t) => known.sign * clamp((value(t) - middle) / (value(t) > middle ? up : down), -1, 1);
}

// The unit's largest value in this text, in size. Many views ask for it at every step.
function extent(k, layer, of, unit) {
  const { extents, values } = traces[k], { size, at } = networks[k].layers[layer], key = [layer, of, unit].join();
  if (!extents.has(key)) {
    let largest = 1e-30;
    for (let t = 0, place = at[networks[k].cell.outputs[of]] + unit; t < tokens.length; t++, place += size) largest = Math.max(largest, Math.abs(values[layer][place]));
    extents.set(key, largest);
  }
  return extents.get(key);
}

// About a dozen units of a layer to look at: the one that is chosen, those that track something, those that remember most.
function named(layer, count = 12) {
  const k = chosen.net, of = chosen.of, found = tracked(k, layer).filter((each) => each.state === of).map((each) => each.unit);
  const order = networks[k].data.orders[layer][of], all = [...new Set([...found, ...order])].slice(0, count);
  if (layer === chosen.layer && !all.includes(chosen.unit)) all[all.length - 1] = chosen.unit;
  return all;
}

// Predictions and gradients

const nats = (k, t) => traces[k].nats[t];

// The loss that is differentiated at step t: of the token that follows, or of the likeliest one after the last.
function target(k, t) {
  if (t + 1 < tokens.length) return traces[k].ids[t + 1];
  return networks[k].predictions(traces[k], t).reduce((best, p, v, row) => (p > row[best] ? v : best), 0);
}

function gradient(k, t) {
  const { gradients } = traces[k];
  if (!gradients.has(t)) keep(k, t, networks[k].back(traces[k], t, target(k, t)));
  return gradients.get(t);
}

function keep(k, t, found) {
  const { gradients } = traces[k];
  if (gradients.size > 50) gradients.clear();
  gradients.set(t, found);
}

// Differentiates what the slow views show, in pieces: a key that is pressed meanwhile need not wait.
prepare = async (newest) => {
  const { t } = chosen;
  for (const [k, each] of networks.entries()) {
    const { gradients } = traces[k], steps = each.backward(traces[k], t, target(k, t));
    for (let begun = performance.now(); !gradients.has(t); ) {
      const { done, value } = steps.next();
      if (done) keep(k, t, value);
      else if (performance.now() - begun > 15) {
        await new Promise((go) => setTimeout(go));
        if (!newest()) return;
        begun = performance.now();
      }
    }
  }
};

// How far back a prediction looks, as elman.explain.memory.reach has it: to the first token whose gradient is not faded.
function reach(norms) {
  const largest = Math.max(...norms);
  return largest > 0 ? norms.length - norms.findIndex((v) => v >= data.faded * largest) : 0;
}

function surest(k, t, count) {
  // The likeliest tokens after step t: pairs of a token and its probability
  const row = networks[k].predictions(traces[k], t), found = [];
  row.forEach((p, v) => {
    if (found.length === count && p <= row[found.at(-1)]) return;
    const place = found.findIndex((other) => p > row[other]);
    found.splice(place < 0 ? found.length : place, 0, v);
    found.length = Math.min(found.length, count);
  });
  return found.map((v) => [v, Math.exp(row[v])]);
}

const symbol = (k, token) => (token === networks[k].data.unknown ? say("unknown") : visible(networks[k].data.symbols[token]));

// Reading

// Cuts a typed text into tokens: pairs of ids, for each network, and how they are written.
function encode(text) {
  if (data.unit === "bytes") {
    const bytes = Array.from(new TextEncoder().encode(text)), decoder = new TextDecoder();
    return [networks.map(() => bytes), bytes.map((byte) => decoder.decode(Uint8Array.of(byte), { stream: true }))];
  }
  const written = [...text];
  const idsOf = (network) => {
    network.numbers ??= new Map(network.data.symbols.slice(0, network.data.unknown).map((c, k) => [c, k]));
    return written.map((c) => network.numbers.get(c) ?? network.data.unknown);
  };
  return [networks.map(idsOf), written];
}

let reading = 0; // the number of the newest reading, which ends all others

// Reads a text with all networks, and draws. Long work is done in pieces, with a word on how far it is.
async function read(ids, written) {
  const own = ++reading, initial = (each) => (written === data.tokens ? each.initial : null);
  const fresh = networks.map((each, k) => each.begin(ids[k], traces[k], initial(each)));
  for (const [k, each] of networks.entries()) {
    const piece = Math.max(1, Math.floor(3e7 / each.data.parameters));
    while (fresh[k].done < ids[k].length) {
      each.advance(fresh[k], piece);
      if (fresh[k].done < ids[k].length) {
        progress(say("reading", { name: each.data.name, share: percent(fresh[k].done / ids[k].length) }));
        await new Promise((go) => setTimeout(go));
        if (own !== reading) return;
      }
    }
    fresh[k].gradients = new Map(); // by the step that they begin at
    fresh[k].extents = new Map(); // by unit
  }
  progress("");
  tokens = written;
  traces = fresh;
  version++;
  choose({});
}

function progress(text) {
  document.getElementById("progress").textContent = text;
}

