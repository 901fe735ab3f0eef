"use strict";
// The script of the page /ui; service/web/pages.py writes it into playground.html.
// Texts, labels and messages come from strangers: they become text nodes, never HTML.

const MOST_LABELS = 20;  // rows of a table
const MOST_VARIANTS = 64;  // texts of one request of "which words mattered", where the server allows more
const STAGES = {
  import: () => "imported a fine-tuned model",
  pretrain: () => "pretrained",
  finetune: ({training, max_tokens}) => "fine-tuned" +
    (training?.epochs ? ` for ${count(training.epochs, "epoch")}` : "") +
    (max_tokens ? `, texts cut at ${max_tokens} tokens` : ""),
  trim: () => "removed tokens that the texts do not use",
  prune: ({kind, value: v}) => "pruned" +
    ({speedup: ` for a speed-up of ${v}x`, latency_ms: ` to ${v} ms`, size_mb: ` to ${v} MB`}[kind] ?? ""),
  heal: () => "trained again to answer as before (distillation)",
  bundle: ({recipe}) => "converted to ONNX" + (!recipe || recipe === "fp32" ? "" : ` and quantized (${recipe})`),
};
const ANSWERED = {  // of a bundle with a gate
  gate: "Answered by the gate; the scores are the gate's.",
  student: "Answered by the student.",
};

// what needs no page: words, requests, sentences

const count = (n, name) => `${n} ${name}${n === 1 ? "" : "s"}`;
const number = (value, digits) => value.toFixed(digits).replace("-", "−");

function rowsOf(first, second, isPair, isLines) {
  const split = box => isLines ? box.split(/\r?\n/).filter(line => line.trim()) : [box].filter(text => text.trim());
  const texts = split(first);
  if (!isPair) return texts.map(text => [text]);
  const others = split(second), most = Math.max(texts.length, others.length);
  if (![1, most].includes(texts.length) || ![1, most].includes(others.length))
    throw new Error(`${count(texts.length, "first text")} and ${count(others.length, "second text")}: ` +
      "write as many second texts as first ones, or one of either");
  const pick = (list, i) => list[list.length === 1 ? 0 : i];
  return Array.from({length: most}, (_, i) => [pick(texts, i), pick(others, i)]);
}

const bodyOf = (rows, isPair) => isPair ? {pairs: rows} : {texts: rows.map(([text]) => text)};

function wordsOf(text) {  // Intl.Segmenter also knows languages that write no spaces between words
  if (!Intl.Segmenter)
    return Array.from(text.matchAll(/\S+/g), word => ({start: word.index, end: word.index + word[0].length}));
  const parts = new Intl.Segmenter(undefined, {granularity: "word"}).segment(text);
  return Array.from(parts).filter(part => part.isWordLike)
    .map(part => ({start: part.index, end: part.index + part.segment.length}));
}

function without(row, {side, start, end}) {
  const before = row[side].slice(0, start), after = row[side].slice(end);
  const rest = /(^|\s)$/.test(before) ? before + after.replace(/^\s/, "") : before + after;
  return row.map((text, i) => i === side ? rest : text);
}

function spansOf(row, most) {  // at most `most` spans: in a long text, neighbouring words are removed together
  const words = row.map(wordsOf), longest = Math.max(...words.map(list => list.length));
  const total = words.reduce((sum, list) => sum + list.length, 0);
  for (let size = Math.max(1, Math.ceil(total / most)); size <= longest; size++) {
    const spans = words.flatMap((list, side) => list.filter((_, i) => i % size === 0).map((word, i) =>
      ({side, start: word.start, end: list[Math.min((i + 1) * size, list.length) - 1].end})));
    if (spans.length <= most)
      return {size, spans: spans.filter(span => wordsOf(without(row, span)[span.side]).length)};  // no empty text
  }
  return {size: 1, spans: []};
}

const shellWord = text => `'${text.replaceAll("'", "'\\''")}'`;

function curlOf(url, body, hasKey) {
  const key = hasKey ? " -H \"X-API-Key: $PRUNELLA_API_KEY\"" : "";
  return `curl ${shellWord(url)}${key} -H 'Content-Type: application/json' -d ${shellWord(JSON.stringify(body))}`;
}

function pythonOf(url, body, hasKey) {  // JSON's strings and lists are Python's too
  const key = hasKey ? ", headers={\"X-API-Key\": \"YOUR_API_KEY\"}" : "";
  const call = `requests.post(${JSON.stringify(url)}, json=${JSON.stringify(body)}${key}, timeout=60)`;
  return `import requests\n\nanswer = ${call}\nanswer.raise_for_status()\nprint(answer.json())`;
}

function lossOf({loss_points: points, loss_is: metric, loss_interval: interval, rows}) {
  if (points == null) return "not measured";
  const [of, on] = [metric && ` of ${metric.replaceAll("_", " ")}`, rows && `, on ${count(rows, "row")}`];
  const between = interval && ` (95 % interval: ${interval.map(value => number(value, 2)).join(" to ")})`;
  return `${number(points, 2)} points${of || ""}${between || ""}${on || ""}`;
}

function gateOf({on, share}) {
  return on ? `answers easy texts, ${number(share * 100, 0)} % of those it was tested on` : "turned off";
}

function cardOf(info) {
  const {task, labels, measured} = info, names = labels.slice(0, 30).join(", ");
  const total = count(labels.length, "label");
  const kinds = {single: `one of ${total}`, multi: `any of ${total}`, regression: "a number"};
  const speeds = Object.entries(measured.speedup || {}).map(([name, times]) =>
    `${number(times, 1)}x over ${name === "ort_fp32" ? "fp32 ONNX Runtime" : name}`);
  return [
    ["Answers", `${kinds[task.kind]}, for each ${task.pair ? "pair of texts" : "text"}`],
    ["Labels", labels.length > 30 ? `${names} and ${labels.length - 30} more` : names],
    ["Measured loss", lossOf(measured)],
    ["Measured speed-up", speeds.join(", ") || "not measured"],
    ["Size", info.bytes ? `${number(info.bytes / 1e6, info.bytes < 1e6 ? 2 : 1)} MB` : "unknown"],
    ["Shape", info.architecture],
    ...(info.cascade ? [["Gate", gateOf(info.cascade)]] : []),
    ["Runs", `${info.variant} on ${info.device.got}`],
    ["Reads", `${count(task.max_tokens, "token")} of a text, ${count(info.limits.max_batch, "text")} in a request`],
    ["How it was made", info.lineage.map(({stage, config}) => STAGES[stage]?.(config) ?? stage)],
    ["Id", info.id],
  ];
}

function problemOf({error, index}, rows) {  // the sentence about an error, with the text that it names
  const text = rows[index]?.[0];
  if (text === undefined) return error;
  return `Text ${index + 1}, “${text.slice(0, 60)}${text.length > 60 ? "…" : ""}”: ${error}`;
}

// the page

const at = id => document.getElementById(id);
let info = null, needsKey = false, queue = Promise.resolve();

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

const line = (className, textContent, name = "p") => make(name, {className, textContent});

async function ask(path, body) {  // GET without a body
  const headers = at("key").value ? {"X-API-Key": at("key").value} : {};
  if (body) headers["Content-Type"] = "application/json";
  const options = body ? {method: "POST", headers, body: JSON.stringify(body)} : {headers};
  const start = performance.now(), reply = await fetch(path, options), text = await reply.text();
  const trip = performance.now() - start;
  let answer;
  try { answer = JSON.parse(text); } catch { answer = {error: `HTTP ${reply.status}: ${text.slice(0, 200)}`}; }
  if (reply.status === 401) { needsKey = true; at("secret").hidden = false; }
  return {isGood: reply.ok && !(answer.error), status: reply.status, answer, trip};
}

const isPair = () => Boolean(info?.task.pair);
const rowsNow = () => rowsOf(at("text").value, at("pair").value, isPair(), at("lines").checked);

async function about() {
  const {isGood, status, answer} = await ask("info");
  if (status === 401 && !at("key").value) {
    at("card").replaceChildren(line("", "The server shows it with a key.", "dd"));
    return;
  }
  if (!isGood) throw new Error(answer.error);
  info = answer;
  at("error").textContent = "";
  at("model").textContent = info.model_id;
  at("second").hidden = !isPair();
  write();
  const shown = value => Array.isArray(value) ? make("ol", {}, ...value.map(step => line("", step, "li"))) : value;
  const parts = cardOf(info).flatMap(([name, value]) => [line("", name, "dt"), make("dd", {}, shown(value))]);
  at("card").replaceChildren(...parts);
}

function write() {  // labels of the boxes, and the lines to copy, for what the form holds now
  const isLines = at("lines").checked, what = isPair() ? "First text" : "Text";
  at("text-label").textContent = isLines ? `${what}s, one on each line` : what;
  at("pair-label").textContent = isLines ? "Second texts, one on each line" : "Second text";
  const most = info && `At most ${count(info.limits.max_batch, isPair() ? "pair" : "text")}. `;
  const single = isPair() && isLines ? "A single first or second text goes with every other one. " : "";
  at("hint").textContent = info ? `${most}${single}Ctrl+Enter sends them.` : "";
  let rows;
  try { rows = rowsNow(); } catch { rows = []; }
  if (!rows.length) rows = [isPair() ? ["a text", "another text"] : ["a text"]];
  const url = new URL("v1/classify", location.href.split(/[?#]/)[0]).href, body = bodyOf(rows, isPair());
  at("curl").textContent = curlOf(url, body, needsKey);
  at("python").textContent = pythonOf(url, body, needsKey);
}

function table(predictions, assigned) {
  const shown = predictions.filter(({label}, i) => i < MOST_LABELS || assigned?.includes(label));
  const rows = shown.map(({label, score}, i) => {
    const isBest = assigned ? assigned.includes(label) : i === 0;
    const name = line("", label + (assigned && isBest ? " (assigned)" : ""), "th");
    name.scope = "row";
    const row = make("tr", {className: isBest ? "best" : ""}, name, line("score", number(score, 4), "td"));
    if (info.task.kind === "regression") return row;  // its number is no share of anything
    const bar = line("bar", "", "div");
    bar.style.width = `${Math.max(0, Math.min(1, score)) * 100}%`;
    row.append(make("td", {}, make("div", {className: "track"}, bar)));
    return row;
  });
  return make("table", {}, make("tbody", {}, ...rows));
}

function resultOf(row, i, {predictions: all, labels, stage, errors = []}) {
  const predictions = all[i], box = make("article", {className: "box"}, ...row.map(text => line("text", text)));
  box.setAttribute("aria-label", `${isPair() ? "pair" : "text"} ${i + 1}`);
  if (!predictions) {
    box.append(line("problem", errors.find(one => one.index === i)?.error ?? "The server gave no answer."));
    return box;
  }
  box.append(table(predictions, labels?.[i]));
  if (stage?.[i]) box.append(line("soft", ANSWERED[stage[i]]));
  if (predictions.length > MOST_LABELS)
    box.append(line("soft", `The ${MOST_LABELS} best of ${predictions.length} labels.`));
  const output = line("words", "", "div"), button = line("", "Which words mattered?", "button");
  output.setAttribute("aria-live", "polite");
  button.onclick = () => next(() => explain(row, predictions[0].label, output));
  box.append(make("p", {}, button), output);
  return box;
}

async function classify() {
  if (!info) await about();
  const rows = rowsNow();
  if (!rows.length) throw new Error("There is no text: write one.");
  at("times").textContent = "…";
  at("results").replaceChildren();
  const reply = ask("v1/classify", bodyOf(rows, isPair()));
  const {isGood, answer, trip} = await reply.finally(() => { at("times").textContent = ""; });
  write();
  if (!isGood) throw new Error(problemOf(answer, rows));
  if (answer.model !== info.id) await about();  // another model is served since the page was opened
  at("results").replaceChildren(...rows.map((row, i) => resultOf(row, i, answer)));
  const steps = Object.entries(answer.times_ms).map(([step, ms]) => `${step} ${number(ms, 2)} ms`).join(", ");
  const texts = count(rows.length, isPair() ? "pair" : "text");
  at("times").textContent = `${texts}. Server: ${steps}. Round trip: ${number(trip, 1)} ms.`;
}

async function explain(row, label, output) {  // occlusion: the score of a label without each word
  const most = Math.min(info.limits.max_batch, MOST_VARIANTS) - 1, {size, spans} = spansOf(row, most);
  if (!spans.length) {
    output.textContent = most < 1 ? "This server takes one text in a request: nothing can be compared." :
      "Without its words no text is left.";
    return;
  }
  output.textContent = "…";
  const variants = [row, ...spans.map(span => without(row, span))];
  // of a cascade, one stage must give all the scores, and only the student answers every text
  const body = {...bodyOf(variants, isPair()), ...(info.cascade && {cascade: false})};
  const reply = ask("v1/classify", body);
  const {isGood, answer, trip} = await reply.finally(() => { output.textContent = ""; });
  if (!isGood || !answer.predictions[0]) throw new Error(answer.error ?? answer.errors[0].error);
  const [whole, ...rest] = answer.predictions.map(scores => scores?.find(one => one.label === label).score);
  const effects = spans
    .map((span, i) => ({...span, word: row[span.side].slice(span.start, span.end), effect: whole - rest[i]}))
    .filter(span => !Number.isNaN(span.effect));  // a text without an answer has no score
  const ranked = [...effects].sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect)).slice(0, 5);
  const largest = Math.abs(ranked[0]?.effect) || 1, signed = effect => (effect > 0 ? "+" : "") + number(effect, 4);
  const removed = size === 1 ? "each word" : `each group of up to ${size} words`;
  output.append(
    line("soft", `How much the score of “${label}” (${number(whole, 4)}) falls without ${removed}; words with ` +
      `a dashed line lower it. ${info.cascade ? "All scores here are the student's. " : ""}${count(variants.length, "text")} in one request: ` +
      `${number(answer.times_ms.total, 1)} ms in the server, ${number(trip, 1)} ms round trip.`),
    ...row.map((text, side) => marked(text, effects.filter(span => span.side === side), largest)),
    make("ol", {}, ...ranked.map(({word, effect}) => line("", `${word}: ${signed(effect)}`, "li"))));
}

function marked(text, spans, largest) {
  const paragraph = make("p", {className: "text"});
  let end = 0;
  for (const span of spans) {
    const mark = line(span.effect < 0 ? "against" : "", span.word, "mark");
    mark.title = number(span.effect, 4);
    mark.style.setProperty("--share", Math.abs(span.effect) / largest);
    paragraph.append(text.slice(end, span.start), mark);
    end = span.end;
  }
  paragraph.append(text.slice(end));
  return paragraph;
}

function next(work) {  // one after the other: Enter in the field of the key asks for /info first; what fails is shown
  queue = queue.then(async () => {
    at("error").textContent = ""; at("form").ariaBusy = "true";
    try { await work(); } catch (problem) { at("error").textContent = problem.message; }
    at("form").ariaBusy = "false";
  });
}

async function copy(event) {
  const block = at(event.target.dataset.copy);
  try { await navigator.clipboard.writeText(block.textContent); at("copied").textContent = "copied"; }
  catch {  // without TLS a browser lets no page write to the clipboard
    getSelection().selectAllChildren(block);
    at("copied").textContent = "selected: press Ctrl+C";
  }
}

at("form").onsubmit = event => { event.preventDefault(); next(classify); };
at("form").oninput = write;
at("form").onkeydown = event => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  at("form").requestSubmit();
};
at("key").onchange = () => next(about);
for (const button of document.querySelectorAll("[data-copy]")) button.onclick = copy;
const linked = new URLSearchParams(location.hash.slice(1)).get("text");  // a link may hold texts: /ui#text=good+film
if (linked) at("text").value = linked;
write();
next(() => about().then(() => { write(); return linked && info ? classify() : null; }));
