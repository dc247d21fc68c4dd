// What every page shares: what is chosen, words, colours, elements, and drawing again.

const data = JSON.parse(document.getElementById("data").textContent);

// What is chosen on the page. t: the token just read. What a task's page adds is in its own file.
const chosen = { lang: (navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en", theme: "", t: 0 };

let tokens = []; // of the text that is shown, as they are written; "" where a character is not complete
const NARROW = "(max-width: 600px)";
const MEDIUM = "(max-width: 900px)";
const narrow = () => matchMedia(NARROW).matches;
const across = () => (narrow() ? 350 : matchMedia(MEDIUM).matches ? 700 : 1120); // what a drawing over the whole width is wide
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

// Words

function say(key, fill = {}) {
  const sentence = key.split(".").reduce((at, part) => at?.[part], STRINGS[chosen.lang]);
  const word = (name) => fill[name] ?? (name === "channels" ? say(data.audio ? "bandRows" : "channelLines") : "");
  return sentence === undefined ? null : sentence.replace(/\{(\w+)\}/g, (_, name) => word(name));
}

function rich(key, fill) {
  // A sentence in which elements stand for some names
  return say(key, Object.fromEntries(Object.keys(fill).map((name) => [name, `\0${name}\0`]))).split("\0").map((part, k) => (k % 2 ? fill[part] : part));
}

const SIGNS = { " ": "␣", "\n": "⏎", "\t": "⇥" };

function visible(token) {
  // Signs for what cannot be seen, and a dot for what is not yet a character
  if (!token) return "·";
  return [...token].map((c) => SIGNS[c] ?? (/[\p{C}\p{Z}]/u.test(c) ? "·" : /\p{M}/u.test(c) ? "◌" + c : c)).join("");
}

// Which of some tokens are crossed out, as a paragraph; nothing if none is.
function strangeOnes(list) {
  const different = [...new Set(list)], few = different.slice(0, 20), more = different.length - few.length;
  return few.length ? el("p", { class: "say" }, say("strange", { list: few.join(" ") + (more ? say("andMore", { n: more }) : "") })) : null;
}

// As much of a word as there is room for
const cut = (text, room) => ([...text].length > room ? [...text].slice(0, Math.max(1, room - 1)).join("") + (room > 1 ? "…" : "") : text);

// A token in so few characters: its space says the least
const brief = (token, room) => [...visible(token.trim() || token)].slice(0, room).join("");

function percent(p) {
  if (p === 0 || p === 1) return 100 * p + " %";
  if (p >= 0.995) return "> 99 %";
  if (p < 0.001) return "< 0.1 %";
  return (100 * p).toFixed(p < 0.1 ? 1 : 0) + " %";
}

function digits(value) {
  // Three of them, with a real minus sign
  const size = Math.abs(value);
  if (!Number.isFinite(size)) return String(value);
  const text = size === 0 ? "0" : size < 0.001 || size >= 1e5 ? size.toExponential(1) : size < 0.1 ? size.toFixed(3) : size < 100 ? size.toFixed(2) : size.toFixed(0);
  return (value < 0 ? "−" : "") + text.replace("e-", "e−").replace("e+", "e");
}

// Elements

function el(tag, attributes = {}, ...inside) {
  const node = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...inside.flat(Infinity).filter((each) => each !== null && each !== undefined));
  return node;
}
const SVG = new Set(["svg", "g", "path", "rect", "line", "text", "tspan", "polyline", "circle", "image"]);

// A row of buttons of which one is pressed. options: pairs of a value and a label.
function choice(id, label, key, options) {
  const button = ([value, text]) =>
    el("button", { id: `${id}-${value}`, "aria-pressed": String(chosen[key] === value), onclick: () => choose({ [key]: value }) }, text);
  return el("span", { class: "group", role: "group", "aria-label": label }, options.map(button));
}

function head(title, ...controls) {
  return el("div", { class: "bar" }, el("h2", {}, title), el("span", { class: "gap" }), controls);
}

// The language and the theme, at the top of every page.
function looks() {
  const other = chosen.lang === "en" ? "zh" : "en";
  return el("span", { class: "bar" },
    el("button", { id: "language", lang: other, onclick: () => choose({ lang: other }) }, STRINGS[other].language),
    el("button", { id: "theme", "aria-label": say("theme"), title: say("theme"), onclick: () => choose({ theme: dark() ? "light" : "dark" }) }, "◐"));
}

// Colours, which differ in lightness, whatever an eye makes of hues

const dark = () => (chosen.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const SIGNED = [[0, 32, 92], [74, 84, 110], [128, 128, 128], [196, 176, 92], [255, 233, 69]]; // −1 ... 1, on any ground
const MORE = { // 0 ... 1, from the ground on
  light: [[255, 255, 255], [254, 217, 168], [243, 150, 96], [200, 65, 11], [100, 20, 6]],
  dark: [[27, 31, 36], [88, 46, 34], [170, 74, 38], [240, 140, 80], [255, 230, 190]],
};

function between(stops, x) {
  const place = clamp(x, 0, 1) * (stops.length - 1), k = Math.min(stops.length - 2, Math.floor(place));
  return stops[k].map((v, j) => Math.round(v + (stops[k + 1][j] - v) * (place - k)));
}
const signed = (x) => between(SIGNED, (x + 1) / 2);
const more = (x) => between(MORE[dark() ? "dark" : "light"], x);
const css = (colour) => `rgb(${colour.join(" ")})`;

// A scale of colours from `from` to 1, which stands between the words for its ends.
function ramp(colour, from) {
  const stops = Array.from({ length: 9 }, (_, k) => css(colour(from + (k * (1 - from)) / 8)));
  return el("span", { class: "ramp", style: `background: linear-gradient(90deg, ${stops})` });
}

function readable(colour) {
  // Black or white: one of them always has a contrast of 4.5
  const [r, g, b] = colour.map((v) => (v <= 10 ? v / 3294 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}

// Drawing

// Each view is {id, wide, key, draw, slow}. draw() gives what fills its section, and is called when key() has changed. A slow
// one is drawn a little later, so that one can walk through a text by holding a key. A still one does not change with the text.
const VIEWS = [];
let version = 0; // of what is shown, when it is another text
let settle = () => {}; // keeps what is chosen within what there is
let prepare = async () => {}; // computes what the slow views need; ends early when newest() is false
let speak = () => ""; // what a screen reader says of the chosen token

function choose(changes) {
  Object.assign(chosen, changes);
  settle();
  const focused = document.activeElement?.id;
  document.documentElement.lang = chosen.lang;
  document.documentElement.dataset.theme = dark() ? "dark" : "light";
  draw(VIEWS.filter((view) => !view.slow), focused);
  clearTimeout(waiting);
  const own = ++choices, newest = () => own === choices;
  waiting = setTimeout(async () => {
    await prepare(newest);
    if (!newest()) return;
    draw(VIEWS, document.activeElement?.id);
    link();
    reached = own;
  }, 60);
}

// Whether all views show what is chosen, and nothing is being read.
const settled = () => reached === choices && !document.getElementById("progress")?.textContent;

// Puts what is chosen into the address. Not at each step of a held key: browsers refuse more than a few changes a second.
function link() {
  const chosenNow = new URLSearchParams(Object.entries(chosen).filter(([, value]) => value !== ""));
  try {
    history.replaceState(null, "", "#" + chosenNow);
  } catch {
    // a frame in a notebook has no address
  }
}

let waiting, choices = 0, reached = 0; // the slow views, how often something was chosen, and which choice they show

function draw(views, focused) {
  for (const view of views) {
    const section = document.getElementById(view.id), key = JSON.stringify([view.still || version, chosen.lang, dark(), across(), view.key()]);
    if (section.dataset.key === key) continue;
    section.dataset.key = key;
    section.replaceChildren(...[view.draw()].flat(Infinity).filter((each) => each !== null && each !== undefined));
  }
  mark();
  if (focused && document.activeElement?.id !== focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

// Takes what a link says to show, and makes a section for every view. begin() reads, and draws by choosing.
function start(begin) {
  for (const [key, value] of new URLSearchParams(location.hash.slice(1)))
    if (key in chosen) chosen[key] = typeof chosen[key] === "number" ? Number.parseInt(value) || 0 : value;
  if (!(chosen.lang in STRINGS)) chosen.lang = "en";
  const section = ({ id, wide }) => el(id === "header" ? "header" : "section", { id, class: id === "header" ? null : `card w${wide}` });
  document.getElementById("page").append(...VIEWS.map(section));
  for (const question of ["(prefers-color-scheme: dark)", NARROW, MEDIUM]) matchMedia(question).addEventListener("change", () => choose({}));
  begin();
}

// A piece of text, a span for each token. colour(t): an array, or null for none. Choosing a token shows its moment.
function ribbon(colour, { first = 0, last = tokens.length - 1, attributes = {}, under = null, strange = null } = {}) {
  const spans = [];
  for (let t = first; t <= last; t++) {
    const fill = colour(t), span = el("i", { "data-t": t });
    const newline = tokens[t].includes("\n");
    span.textContent = newline || !tokens[t] || /[\p{Cc}\p{Cf}]/u.test(tokens[t]) ? visible(tokens[t]) : tokens[t];
    if (fill) Object.assign(span.style, { backgroundColor: css(fill), color: readable(fill) });
    if (under?.(t)) span.classList.add("holds");
    if (strange?.(t)) span.classList.add("strange");
    spans.push(span);
  }
  return el("div", { class: "ribbon", onclick: pick, ...attributes }, spans);
}

function pick(event) {
  const t = event.target.closest("[data-t]")?.dataset.t;
  if (t !== undefined) choose({ t: Number(t) });
}

// Marks the chosen token in every ribbon, and brings it into view in those that scroll.
function mark() {
  const main = document.getElementById("ribbon");
  main?.setAttribute("aria-valuenow", chosen.t + 1);
  main?.setAttribute("aria-valuetext", speak());
  for (const each of document.querySelectorAll(".ribbon .now")) each.classList.remove("now");
  for (const span of document.querySelectorAll(`.ribbon [data-t="${chosen.t}"]`)) {
    span.classList.add("now");
    const box = span.parentElement, top = span.offsetTop - box.offsetTop;
    if (top < box.scrollTop || top + span.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = top - box.clientHeight / 2;
  }
}

function keys(event) {
  const far = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, PageDown: 50, PageUp: -50, Home: -1e9, End: 1e9 }[event.key];
  if (!far) return;
  event.preventDefault();
  choose({ t: chosen.t + far });
}
