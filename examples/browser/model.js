// A language model of one step, as `elman export RUN model.onnx --streaming` writes it, in onnxruntime-web.

import * as ort from "./onnxruntime-web/ort.wasm.min.mjs";

ort.env.logLevel = "error";
ort.env.wasm.numThreads = 1; // more need headers that a plain server does not send
ort.env.wasm.wasmPaths = new URL("./onnxruntime-web/", import.meta.url).href;

// How elman cuts a text into words. White space is that of Python, which \s is not.
const SPACE = "\\t-\\r\\x1c-\\x1f\\x85\\p{Z}";
const WORD = new RegExp(` ?[\\p{L}\\p{N}_]+| ?[^\\p{L}\\p{N}_${SPACE}]+|[${SPACE}]+`, "gu");
const TEXT = new TextDecoder();

// The fields of a message of protobuf: pairs of a number and its bytes. Fields that are numbers are left out.
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    for (let value = 0, scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (!(byte & 128)) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    if (key % 8 === 0) varint();
    else if (key % 8 === 2) {
      const length = varint();
      yield [Math.floor(key / 8), bytes.subarray(at, (at += length))];
    } else at += key % 8 === 1 ? 8 : 4;
  }
}

// The metadata of an ONNX file, field 14 of its model. The runtime has no call for them.
export function metadata(bytes) {
  const found = {};
  for (const [number, entry] of fields(bytes)) {
    if (number !== 14) continue;
    const pair = Object.fromEntries(fields(entry));
    found[TEXT.decode(pair[1])] = TEXT.decode(pair[2] ?? new Uint8Array());
  }
  return found;
}

export class Vocabulary {
  constructor(content) {
    this.unit = content.unit;
    this.tokens = content.words ?? [...(content.symbols ?? "")];
    this.numbers = new Map(this.tokens.map((token, number) => [token, number]));
    this.size = this.unit === "bytes" ? 256 : this.tokens.length; // of tokens that may be written
  }

  // A prompt without the spaces at its end, where they are no word, since the next word brings its own.
  prompt(text) {
    const last = this.unit === "words" ? text.match(WORD)?.at(-1) : undefined;
    return last && /^ +$/.test(last) && !this.numbers.has(last) ? text.replace(/ +$/, "") : text;
  }

  // The numbers of a text. Throws an Error with a sentence if a piece has none.
  encode(text) {
    if (this.unit === "bytes") return [...new TextEncoder().encode(text)];
    const pieces = this.unit === "words" ? (text.match(WORD) ?? []) : [...text];
    const strange = pieces.find((piece) => !this.numbers.has(piece));
    if (strange !== undefined && text !== "\n") // which stands in place of a prompt
      throw new Error(`the text to continue has ${JSON.stringify(strange)}, which is not in the model's vocabulary; leave it out`);
    return pieces.map((piece) => this.numbers.get(piece) ?? this.tokens.length); // the last number stands for all others
  }

  // A function that takes the next token, and returns the text that it completes.
  decoder() {
    if (this.unit !== "bytes") return (token) => this.tokens[token];
    const bytes = new TextDecoder("utf-8", { ignoreBOM: true });
    return (token) => bytes.decode(new Uint8Array([token]), { stream: true });
  }
}

export class Model {
  // bytes: the content of a file. Throws an Error with a sentence for a file that is something else.
  static async load(bytes) {
    const notes = metadata(bytes);
    if (notes["elman.task"] !== '"lm"' || notes["elman.streaming"] !== "true")
      throw new Error("model.onnx is no language model of one step; write it with: elman export RUN model.onnx --streaming");
    if (!notes["elman.vocabulary"])
      throw new Error("model.onnx has byte pairs, but this page reads characters, bytes and words; train with another --unit");
    const model = new Model();
    model.session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
    model.vocabulary = new Vocabulary(JSON.parse(notes["elman.vocabulary"]));
    model.pairs = JSON.parse(notes["elman.states"]);
    const shapes = Object.fromEntries(model.session.inputMetadata.map((each) => [each.name, each.shape]));
    model.zeros = model.pairs.map(([before]) => [shapes[before][0], 1, shapes[before][2]]);
    return model;
  }

  begin() {
    this.feed = {};
    this.pairs.forEach(([before], k) => {
      const shape = this.zeros[k];
      this.feed[before] = new ort.Tensor("float32", new Float32Array(shape[0] * shape[2]), shape);
    });
  }

  // Reads a token, and returns the logits of the next one. The states are carried on.
  async step(token) {
    this.feed.tokens = new ort.Tensor("int64", BigInt64Array.of(BigInt(token)), [1]);
    const found = await this.session.run(this.feed);
    for (const [before, after] of this.pairs) this.feed[before] = found[after];
    return found.logits.data;
  }

  choose(logits, temperature) {
    const size = this.vocabulary.size; // never the number that stands for all others
    let best = 0;
    for (let k = 1; k < size; k++) if (logits[k] > logits[best]) best = k;
    if (!Number.isFinite(logits[best])) throw new Error(`the model predicts ${logits[best]}; train it again with a lower learning rate`);
    if (temperature === 0) return best;
    const chances = Array.from({ length: size }, (_, k) => Math.exp((logits[k] - logits[best]) / temperature));
    let left = Math.random() * chances.reduce((a, b) => a + b, 0);
    for (let k = 0; k < size; k++) if ((left -= chances[k]) < 0) return k;
    return best;
  }

  // Yields the text of `length` tokens after a prompt.
  async *write(prompt, length, temperature) {
    const [tokens, decode] = [this.vocabulary.encode(prompt || "\n"), this.vocabulary.decoder()];
    this.begin();
    let logits;
    for (const token of tokens) logits = await this.step(token);
    for (let k = 0; k < length; k++) {
      const token = this.choose(logits, temperature);
      yield decode(token);
      logits = await this.step(token);
    }
  }
}
