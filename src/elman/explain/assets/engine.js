// Reads a text with a language model, and differentiates its predictions. It knows no cell: it runs the cell's graph, which
// `elman.graph` traced. There is no DOM here. A step is computed in float64, as all numbers in JavaScript are, and kept as
// float32.
//
// T steps, H units, E the width of an embedding, Y that of a layer's output, V the size of the vocabulary. A cell's graph is a
// list of nodes [operation, numbers of its arguments, name, value], each after its arguments; `outputs` has the nodes of the
// new state.

// Each operation: its value, and the adjoint of each argument from the adjoint d of the result y and the arguments.
// null stands for an argument that only decides. The table in elman/operations.py says the same.
const larger = (d, a, b) => (a < b ? 0 : a === b ? d / 2 : d);
const either = (holds) => ({
  value: (a, b, x, y) => (holds(a, b) ? x : y),
  shares: [null, null, (d, _, a, b) => (holds(a, b) ? d : 0), (d, _, a, b) => (holds(a, b) ? 0 : d)],
});
const OPERATIONS = {
  add: { value: (a, b) => a + b, shares: [(d) => d, (d) => d] },
  sub: { value: (a, b) => a - b, shares: [(d) => d, (d) => -d] },
  mul: { value: (a, b) => a * b, shares: [(d, y, a, b) => d * b, (d, y, a) => d * a] },
  div: { value: (a, b) => a / b, shares: [(d, y, a, b) => d / b, (d, y, a, b) => (-d * y) / b] },
  neg: { value: (a) => -a, shares: [(d) => -d] },
  sigmoid: { value: (a) => 1 / (1 + Math.exp(-a)), shares: [(d, y) => d * y * (1 - y)] },
  tanh: { value: Math.tanh, shares: [(d, y) => d * (1 - y * y)] },
  relu: { value: (a) => (a < 0 ? 0 : a), shares: [(d, y) => (y <= 0 ? 0 : d)] },
  exp: { value: Math.exp, shares: [(d, y) => d * y] },
  log: { value: Math.log, shares: [(d, y, a) => d / a] },
  log1p: { value: Math.log1p, shares: [(d, y, a) => d / (1 + a)] },
  erf: { value: erf, shares: [(d, y, a) => ((d * 2) / Math.sqrt(Math.PI)) * Math.exp(-a * a)] },
  sqrt: { value: Math.sqrt, shares: [(d, y) => d / (2 * y)] },
  abs: { value: Math.abs, shares: [(d, y, a) => d * Math.sign(a)] },
  maximum: { value: (a, b) => Math.max(a, b), shares: [(d, y, a, b) => larger(d, a, b), (d, y, a, b) => larger(d, b, a)] },
  minimum: { value: (a, b) => Math.min(a, b), shares: [(d, y, a, b) => larger(d, b, a), (d, y, a, b) => larger(d, a, b)] },
  where_less: either((a, b) => a < b),
  where_less_equal: either((a, b) => a <= b),
  where_equal: either((a, b) => a === b),
};
// Operations over all units of a row: the value that every unit gets, and with the adjoints of all units, the adjoint of each.
const OVER_ROW = {
  mean: (row) => row.reduce((a, b) => a + b, 0) / row.length,
  sum: (row) => row.reduce((a, b) => a + b, 0),
};

function erf(a) {
  if (Math.abs(a) > 6) return Math.sign(a); // nearer to 1 than any number
  let term = a, sum = a; // exp(-a^2) times the sum of 2^n a^(2n + 1) / (1 3 5 ... (2n + 1)), all of one sign
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
    term *= (2 * a * a) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-a * a) * sum;
}

function unpack(text, precision) {
  // Numbers from base64, little-endian: "f4" is float32, "f2" is float16
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  if (precision === "f4") return Float32Array.from({ length: bytes.length / 4 }, (_, k) => view.getFloat32(4 * k, true));
  return Float32Array.from({ length: bytes.length / 2 }, (_, k) => half(view.getUint16(2 * k, true)));
}

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
}

function multiply(W, row, rows, width, v, from, out, to) {
  // out[to ...] = W[row ...] v[from ...], for so many rows
  for (let r = 0; r < rows; r++) {
    let at = (row + r) * width, a = 0, b = 0, c = 0, d = 0, k = from; // four sums, which a processor does side by side
    for (const end = from + width - 3; k < end; k += 4, at += 4) {
      a += W[at] * v[k];
      b += W[at + 1] * v[k + 1];
      c += W[at + 2] * v[k + 2];
      d += W[at + 3] * v[k + 3];
    }
    for (const end = from + width; k < end; k++) a += W[at++] * v[k];
    out[to + r] = a + b + c + d;
  }
}

function multiplyTransposed(W, row, rows, width, d, from, out, to) {
  // out[to ...] += the transpose of W[row ...] times d[from ...]
  let r = 0, at = row * width;
  for (; r + 3 < rows; r += 4, at += 4 * width) {
    const a = d[from + r], b = d[from + r + 1], c = d[from + r + 2], e = d[from + r + 3]; // four rows in each pass over `out`
    if (a !== 0 || b !== 0 || c !== 0 || e !== 0)
      for (let k = 0, i = at, j = i + width, l = j + width, m = l + width; k < width; k++) out[to + k] += W[i++] * a + W[j++] * b + W[l++] * c + W[m++] * e;
  }
  for (; r < rows; r++) {
    const share = d[from + r];
    if (share !== 0) for (let k = 0; k < width; k++) out[to + k] += W[at + k] * share;
    at += width;
  }
}

function norm(values, from, count) {
  let sum = 0;
  for (let k = from; k < from + count; k++) sum += values[k] * values[k];
  return Math.sqrt(sum);
}

class Layer {
  // weights: ih (G*H, input), hh (K*H, width of the output), b_ih, b_hh, ch (V, H), hr (projection, H); null where absent
  constructor(cell, weights, input, hidden) {
    Object.assign(this, { cell, weights, input, hidden });
    const projection = weights.hr ? weights.hr.length / hidden : 0, widths = [];
    for (const [op, args, name] of cell.nodes)
      widths.push(
        op === "P" || (op === "s" && cell.projected.includes(name)) ? projection
          : op in OPERATIONS || op in OVER_ROW ? Math.max(...args.map((a) => widths[a]))
          : op === "number" ? 1
          : hidden,
      );
    this.widths = widths;
    this.at = widths.map((_, n) => widths.slice(0, n).reduce((a, b) => a + b, 0)); // where a node's values are in a step's
    this.size = widths.reduce((a, b) => a + b, 0); // of a step
    this.output = widths[Object.values(cell.outputs)[0]];
    this.now = new Float64Array(this.size); // the step that is computed
  }

  // Computes all nodes of one step in float64, and puts them into values[base ...]. x: the layer's input at x[from ...].
  // before: where the values of the step before begin; null for the first step, which begins with `initial`, or zero.
  step(x, from, values, base, before, initial) {
    const { cell, weights, widths, at, hidden, now } = this;
    cell.nodes.forEach(([op, args, name, value], n) => {
      const to = at[n];
      if (op === "x") {
        const gate = cell.inputGates.indexOf(name) * hidden;
        multiply(weights.ih, gate, hidden, this.input, x, from, now, to);
        if (weights.b_ih) for (let k = 0; k < hidden; k++) now[to + k] += weights.b_ih[gate + k];
      } else if (op === "R") {
        const gate = cell.recurrentGates.indexOf(name) * hidden;
        multiply(weights.hh, gate, hidden, widths[args[0]], now, at[args[0]], now, to);
        if (weights.b_hh) for (let k = 0; k < hidden; k++) now[to + k] += weights.b_hh[gate + k];
      } else if (op === "P") {
        multiply(weights.hr, 0, widths[n], hidden, now, at[args[0]], now, to);
      } else if (op === "s") {
        const old = before + at[cell.outputs[name]];
        for (let k = 0; k < widths[n]; k++) now[to + k] = before !== null ? values[old + k] : initial ? initial[name][k] : 0;
      } else if (op === "p") {
        const row = cell.vectors.indexOf(name) * hidden;
        for (let k = 0; k < hidden; k++) now[to + k] = weights.ch[row + k];
      } else if (op === "number") {
        now[to] = value;
      } else if (op in OVER_ROW) {
        now.fill(OVER_ROW[op](now.subarray(at[args[0]], at[args[0]] + widths[n])), to, to + widths[n]);
      } else {
        const compute = OPERATIONS[op].value, [a, b, c, d] = this.places(args), [i, j, l, m] = this.strides(args);
        for (let k = 0; k < widths[n]; k++) now[to + k] = compute(now[a + i * k], now[b + j * k], now[c + l * k], now[d + m * k]);
      }
    });
    values.set(now, base);
  }

  // Where the values of four arguments begin, and whether they go on with the units: a number is the same for all units.
  // Of an operation with fewer arguments, the others lie anywhere: it does not look at them.
  places(args) {
    return [0, 1, 2, 3].map((q) => (q < args.length ? this.at[args[q]] : 0));
  }

  strides(args) {
    return [0, 1, 2, 3].map((q) => (q < args.length && this.cell.nodes[args[q]][0] !== "number" ? 1 : 0));
  }

  // The adjoints of all nodes of one step, from those of its new state; `adjoint` has them by name, and gets those of the
  // state before. Returns them, and that of the layer's input.
  back(values, base, adjoint) {
    const { cell, weights, widths, at, hidden } = this, d = new Float64Array(this.size), d_x = new Float64Array(this.input);
    for (const [name, output] of Object.entries(cell.outputs)) {
      const to = at[output];
      adjoint[name].forEach((v, k) => (d[to + k] += v));
      adjoint[name] = new Float64Array(adjoint[name].length);
    }
    for (let n = cell.nodes.length - 1; n >= 0; n--) {
      const [op, args, name] = cell.nodes[n], from = at[n];
      if (op === "x") {
        multiplyTransposed(weights.ih, cell.inputGates.indexOf(name) * hidden, hidden, this.input, d, from, d_x, 0);
      } else if (op === "R") {
        const gate = cell.recurrentGates.indexOf(name) * hidden;
        multiplyTransposed(weights.hh, gate, hidden, widths[args[0]], d, from, d, at[args[0]]);
      } else if (op === "P") {
        multiplyTransposed(weights.hr, 0, widths[n], hidden, d, from, d, at[args[0]]);
      } else if (op === "s") {
        adjoint[name] = d.slice(from, from + widths[n]);
      } else if (op in OVER_ROW) {
        const each = OVER_ROW[op](d.subarray(from, from + widths[n]));
        for (let k = 0; k < widths[n]; k++) d[at[args[0]] + k] += each;
      } else if (op in OPERATIONS) {
        const [a, b, c, e] = this.places(args).map((place) => base + place), strides = this.strides(args), [i, j, l, m] = strides;
        OPERATIONS[op].shares.forEach((share, q) => {
          if (!share || !strides[q]) return;
          for (let k = 0, to = at[args[q]]; k < widths[n]; k++, to++) {
            const own = d[from + k];
            if (own === 0) continue; // nothing passes, not even through an infinite slope
            d[to] += share(own, values[base + from + k], values[a + i * k], values[b + j * k], values[c + l * k], values[e + m * k]);
          }
        });
      }
    }
    return [d, d_x];
  }
}

class Network {
  // data: a network as elman/explain/language.py describes it
  constructor(data) {
    const W = Object.fromEntries(Object.entries(data.weights).map(([name, text]) => [name, unpack(text, data.precision)]));
    Object.assign(this, { cell: data.cell, H: data.hidden, E: data.embedding, V: data.size, L: data.layers, W });
    this.layers = [];
    for (let l = 0; l < this.L; l++) {
      const get = (name) => W[`${name}_l${l}`] ?? null;
      const weights = { ih: get("weight_ih"), hh: get("weight_hh"), b_ih: get("bias_ih"), b_hh: get("bias_hh"), ch: get("weight_ch"), hr: get("weight_hr") };
      this.layers.push(new Layer(this.cell, weights, l ? this.layers[l - 1].output : this.E, this.H));
    }
    this.Y = this.layers.at(-1).output;
    this.states = Object.keys(this.cell.outputs);
    // The state before the text that the page was made for, where the network has read more than it shows.
    this.initial = data.state && data.state.map((layer) => Object.fromEntries(Object.entries(layer).map(([name, text]) => [name, unpack(text, "f4")])));
    this.work = 0; // steps of layers that were computed, forward or backward
  }

  // Begins to read, from a state or zero. The beginning that `old` has in common is taken from there. `advance` goes on.
  begin(ids, old = null, initial = null) {
    const T = ids.length;
    const trace = { ids, initial, done: 0, values: this.layers.map((layer) => new Float32Array(T * layer.size)), nats: new Float32Array(T), rows: new Map() };
    if (old?.initial !== initial) old = null;
    while (old && trace.done < Math.min(T, old.done) && ids[trace.done] === old.ids[trace.done]) trace.done++;
    if (trace.done) {
      this.layers.forEach((layer, l) => trace.values[l].set(old.values[l].subarray(0, trace.done * layer.size)));
      trace.nats.set(old.nats.subarray(0, trace.done)); // nats[t] is that of token t
      this.judge(trace, trace.done - 1);
    }
    return trace;
  }

  // Reads so many more tokens.
  advance(trace, count = Infinity) {
    for (const end = Math.min(trace.ids.length, trace.done + count); trace.done < end; trace.done++) {
      const t = trace.done;
      let x = this.W.embedding, from = trace.ids[t] * this.E;
      this.layers.forEach((layer, l) => {
        const values = trace.values[l], base = t * layer.size;
        layer.step(x, from, values, base, t ? base - layer.size : null, trace.initial?.[l]);
        x = values;
        from = base + layer.at[this.cell.outputs[this.states[0]]];
        this.work++;
      });
      this.judge(trace, t);
    }
    return trace;
  }

  // Notes how unlikely the token after step t was.
  judge(trace, t) {
    if (t + 1 < trace.ids.length) trace.nats[t + 1] = -this.predictions(trace, t)[trace.ids[t + 1]];
  }

  // The values of a node at step t, (H,).
  node(trace, l, t, n) {
    const layer = this.layers[l], from = t * layer.size + layer.at[n];
    return trace.values[l].subarray(from, from + layer.widths[n]);
  }

  state(trace, l, t, name) {
    return this.node(trace, l, t, this.cell.outputs[name]);
  }

  // The logarithms of the probabilities of all tokens after step t, (V,).
  predictions(trace, t) {
    if (trace.rows.has(t)) return trace.rows.get(t);
    const { W, V } = this, h = this.state(trace, this.L - 1, t, this.states[0]), row = new Float64Array(V);
    if (W.bias) {
      const y = new Float64Array(this.E); // tied: the embedding's own weights, times P h
      multiply(W.output, 0, this.E, this.Y, h, 0, y, 0);
      for (let k = 0; k < this.E; k++) y[k] += W.output_bias[k];
      multiply(W.embedding, 0, V, this.E, y, 0, row, 0);
    } else multiply(W.output, 0, V, this.Y, h, 0, row, 0);
    const bias = W.bias ?? W.output_bias;
    let top = -Infinity, sum = 0;
    for (let v = 0; v < V; v++) top = Math.max(top, (row[v] += bias[v]));
    for (let v = 0; v < V; v++) sum += Math.exp(row[v] - top);
    const whole = top + Math.log(sum);
    for (let v = 0; v < V; v++) row[v] -= whole;
    if (trace.rows.size >= 64) trace.rows.delete(trace.rows.keys().next().value); // a text's worth of them would be large
    trace.rows.set(t, row);
    return row;
  }

  // Differentiates the loss of predicting token `truth` after step t, back to the beginning, or to where nothing is left of
  // the gradient: less than 1e-12 of its largest. Returns norms: input[u] by the embedding that step u read, and
  // states[l][name][u] by a state after step u, by all of its ways.
  back(trace, t, truth) {
    const steps = this.backward(trace, t, truth);
    for (;;) {
      const { done, value } = steps.next();
      if (done) return value;
    }
  }

  // The same, with a pause after each step.
  *backward(trace, t, truth) {
    const { W, V, E, Y, L } = this, top = new Float64Array(Y), d = Float64Array.from(this.predictions(trace, t), Math.exp);
    d[truth] -= 1;
    if (W.bias) {
      const d_y = new Float64Array(E);
      multiplyTransposed(W.embedding, 0, V, E, d, 0, d_y, 0);
      multiplyTransposed(W.output, 0, E, Y, d_y, 0, top, 0);
    } else multiplyTransposed(W.output, 0, V, Y, d, 0, top, 0);
    const each = (make) => this.layers.map((layer) => Object.fromEntries(this.states.map((name) => [name, make(layer, name)])));
    const adjoints = each((layer, name) => new Float64Array(layer.widths[this.cell.outputs[name]]));
    const found = { input: new Float64Array(t + 1), states: each(() => new Float64Array(t + 1)) };
    for (let u = t, largest = 0, now = Infinity; u >= 0 && now > 1e-12 * largest; u--) {
      let above = u === t ? top : null; // the adjoint of a layer's output from the layer above it
      for (let l = L - 1; l >= 0; l--) {
        const layer = this.layers[l], adjoint = adjoints[l];
        if (above) above.forEach((v, k) => (adjoint[this.states[0]][k] += v));
        const [d, d_x] = layer.back(trace.values[l], u * layer.size, adjoint);
        if (l === L - 1) now = 0;
        for (const name of this.states) {
          const n = this.cell.outputs[name];
          now = Math.max(now, (found.states[l][name][u] = norm(d, layer.at[n], layer.widths[n])));
        }
        above = d_x;
        this.work++;
      }
      found.input[u] = norm(above, 0, above.length);
      largest = Math.max(largest, now);
      yield;
    }
    return found;
  }
}
