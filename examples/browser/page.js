const $ = (name) => document.getElementById(name);
let model;
let running = 0; // the number of the text that is being written; another one ends it

async function load() {
  const { Model } = await import("./model.js").catch(() => {
    throw new Error("onnxruntime-web is not beside this page, or the page was opened as a file; run make browser, and serve the folder");
  });
  const answer = await fetch("model.onnx");
  if (!answer.ok) throw new Error("there is no model.onnx beside this page; write it with: elman export RUN model.onnx --streaming");
  model = await Model.load(new Uint8Array(await answer.arrayBuffer()));
  $("write").disabled = false;
  $("state").textContent = "Ready";
}

async function write(event) {
  event.preventDefault();
  const number = ++running;
  const [prompt, length, temperature] = [model.vocabulary.prompt($("prompt").value), Number($("length").value), Number($("temperature").value)];
  let text = prompt;
  let count = 0;
  let shown = performance.now();
  const begin = shown;
  $("state").textContent = "Writing";
  for await (const piece of model.write(prompt, length, temperature)) {
    text += piece;
    count++;
    if (performance.now() - shown > 30) {
      $("text").textContent = text; // a few times a second; for each token it would take longer than the model
      await new Promise((next) => setTimeout(next));
      shown = performance.now();
    }
    if (number !== running) return; // another text was begun
  }
  const speed = count / ((performance.now() - begin) / 1000);
  $("text").textContent = text;
  $("state").textContent = `${count} tokens, ${Math.round(speed).toLocaleString("en")} a second`;
}

const failed = (error) => ($("state").textContent = error.message);
$("form").addEventListener("submit", (event) => write(event).catch(failed));
load().catch(failed);
