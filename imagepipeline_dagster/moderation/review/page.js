// The review page: a grid of pictures, a large one, and a key for each decision.
// Texts of the tables only ever become the text of an element, never its markup.
"use strict";

const DECISIONS = { k: "keep", r: "reject", q: "quarantine", u: "undo" };
const find = (selector) => document.querySelector(selector);
const grid = find("#grid");
const filters = find("#filters");
const dialog = find("dialog");

let samples = []; // as the server lists them, each with its tile
let shown = []; // those that the filters leave
let current = 0; // the place in them
let sending = Promise.resolve(); // decisions are sent one after another, as they were made

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function say(text, isProblem = false) {
  find("#status").textContent = text;
  find("#status").classList.toggle("problem", isProblem);
}

function verdictOf(sample) {
  const { decision, verdict, reviewer } = sample.decided;
  if (decision === "clear") return `${verdict}: decision taken back`;
  return decision ? `${verdict} by ${reviewer}` : `${verdict}: ${sample.reason}`;
}

function nameOf(sample) {
  return sample.score === null ? sample.prompt_id : `${sample.prompt_id} · ${sample.score.toFixed(2)}`;
}

function makeTile(sample) {
  const tile = element("button", "tile");
  const picture = element("img", "");
  tile.type = "button";
  picture.loading = "lazy";
  picture.alt = "";
  picture.src = `thumbnails/${sample.decided.image_sha256}`;
  tile.append(picture, element("span", "verdict"), element("span", "name", nameOf(sample)));
  tile.addEventListener("click", () => {
    dialog.showModal();
    dialog.focus(); // an Enter that stays down presses no button
    select(shown.indexOf(sample));
  });
  return tile;
}

function paintTile(sample) {
  sample.tile.className = `tile ${sample.decided.verdict}`;
  sample.tile.classList.toggle("current", sample === shown[current]);
  sample.tile.querySelector(".verdict").textContent = verdictOf(sample);
  sample.tile.title = sample.prompt;
}

function paintCounts() {
  const inReach = samples.filter((sample) => passes(sample, ""));
  for (const radio of filters.elements.verdict) {
    const counted = inReach.filter((sample) => [sample.decided.verdict, ""].includes(radio.value));
    radio.parentElement.querySelector("b").textContent = `${counted.length}`;
  }
}

function passes(sample, verdict) {
  const { set, score } = filters.elements;
  return (
    (!verdict || sample.decided.verdict === verdict) &&
    (!set.value || sample.decided.prompt_set === set.value) &&
    (!score.value || (sample.score !== null && sample.score >= Number(score.value)))
  );
}

function filter() {
  const verdict = filters.elements.verdict.value;
  shown = samples.filter((sample) => passes(sample, verdict));
  const left = new Set(shown);
  for (const sample of samples) sample.tile.hidden = !left.has(sample);
  samples.forEach(paintTile);
  paintCounts();
  select(0);
}

function select(place) {
  if (!shown.length) return;
  shown[current]?.tile.classList.remove("current");
  current = Math.max(0, Math.min(place, shown.length - 1));
  const { tile } = shown[current];
  tile.classList.add("current");
  tile.scrollIntoView({ block: "nearest" });
  if (dialog.open) paintLarge();
  else if (!filters.contains(document.activeElement)) tile.focus({ preventScroll: true });
}

function paintLarge() {
  const sample = shown[current];
  const { decided } = sample;
  const address = `pictures/${decided.image_sha256}`;
  const large = find("#large");
  if (large.getAttribute("src") !== address) large.src = address;
  dialog.className = decided.verdict;
  find("#verdict").textContent = verdictOf(sample);
  find("#prompt").textContent = sample.prompt;
  const facts = [
    ["evidence", [sample.reason, ...sample.facts].join(" · ")],
    ["reviewer", decided.reviewer],
    ["why", decided.why],
    ["negative", sample.negative_prompt],
    ["model", sample.model],
    ["seed", sample.seed],
    ["size", sample.size],
    ["set", decided.prompt_set],
    ["prompt", `${sample.prompt_id}, ${sample.place}`],
    ["picture", decided.image_sha256],
    ["shown", `${current + 1} of ${shown.length}`],
  ].filter(([, text]) => text !== null && text !== "");
  find("#facts").replaceChildren(
    ...facts.flatMap(([name, text]) => [element("dt", "", name), element("dd", "", `${text}`)]),
  );
}

function decide(decision) {
  const sample = shown[current];
  const asked = { decision, reason: filters.elements.reason.value };
  if (decision !== "undo") {
    if (!sample) return;
    asked.prompt_set = sample.decided.prompt_set;
    asked.image_sha256 = sample.decided.image_sha256;
    sample.tile.classList.add("sending");
    select(current + 1);
  }
  sending = sending.then(async () => {
    try {
      const request = { method: "POST", body: JSON.stringify(asked) };
      apply(await ask("decisions", request), decision === "undo");
    } catch (problem) {
      sample?.tile.classList.remove("sending");
      say(problem.message, true);
    }
  });
}

async function ask(address, request) {
  const answer = await fetch(address, request).catch(() => {
    throw new Error("No answer: the command that serves this page has ended.");
  });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

function apply(decided, wasUndo) {
  const same = ({ decided: { prompt_set, image_sha256 } }) =>
    prompt_set === decided.prompt_set && image_sha256 === decided.image_sha256;
  for (const sample of samples.filter(same)) {
    sample.decided = decided;
    paintTile(sample);
  }
  const place = shown.findIndex(same);
  if (wasUndo && place >= 0) select(place);
  else if (dialog.open) paintLarge();
  paintCounts();
  say(`${decided.recorded} recorded`);
}

function leaveFilters() {
  document.activeElement.blur();
  select(current);
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("#filters")) {
    if (event.key === "Escape") leaveFilters();
    return;
  }
  const row = dialog.open ? 1 : getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row };
  if (event.key in steps) {
    select(current + steps[event.key]);
  } else if (event.key in DECISIONS) {
    if (!event.repeat) decide(DECISIONS[event.key]); // a key that stays down decides once
  } else if (event.key === "b") {
    filters.elements.blur.click();
  } else {
    return;
  }
  event.preventDefault();
}

async function start() {
  samples = await ask("samples");
  for (const sample of samples) sample.tile = makeTile(sample);
  const sets = [...new Set(samples.map((sample) => sample.decided.prompt_set))];
  filters.elements.set.append(...sets.map((set) => new Option(set, set)));
  grid.append(...samples.map((sample) => sample.tile));
  document.addEventListener("keydown", press);
  dialog.addEventListener("close", () => select(current));
  for (const button of dialog.querySelectorAll("button"))
    button.addEventListener("click", () => decide(button.dataset.decision));
  filters.addEventListener("submit", (event) => {
    event.preventDefault();
    leaveFilters();
  });
  filters.addEventListener("input", ({ target }) => {
    if (target.name === "blur") grid.classList.toggle("blurring", target.checked);
    else if (target.name !== "reason") filter();
    if (["radio", "checkbox"].includes(target.type)) leaveFilters();
  });
  filters.reset();
  filter();
  say(`${samples.length} pictures`);
}

start().catch((problem) => say(problem.message, true));
