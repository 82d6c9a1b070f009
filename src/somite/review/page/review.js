"use strict";
// Walk through the sessions. What is shown of a name or a note is always text, never markup.

const $ = (id) => document.getElementById(id);
const MARKS = { pass: "\u2713", fail: "\u2717", unsure: "?" };
const state = { list: [], at: -1, details: new Map(), undo: [], busy: false, notes: Promise.resolve() };
const viewer = new Viewer($("canvas"), $("viewer-says"));
viewer.onCursor = (words) => { $("cursor").textContent = words; };
window.review = { state, viewer };

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

async function ask(address, body) {
  const how = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(address, how);
  } catch {
    throw new Error("The review server does not answer. What was saved is saved: start it again, then go on.");
  }
  const text = await answer.text();
  if (answer.ok) return JSON.parse(text);
  let words = text;
  try { words = JSON.parse(text).problem; } catch { /* plain words */ }
  throw new Error(words);
}

function complain(error) {
  $("problem").hidden = !error;
  $("problem").textContent = error ? error.message : "";
}

const current = () => state.list[state.at];
const judged = (one) => Boolean(one.mine && one.mine.verdict);

// --- the list ---

function drawList() {
  $("sessions").replaceChildren(...state.list.map((one, place) => {
    const button = make("button", { type: "button", title: one.label },
      make("span", { class: "mark" }), make("span", { class: "name" }, one.label));
    const worst = one.ended === "failed" ? "failed" : one.quality;
    if (worst === "failed" || worst === "fail" || worst === "warn") {
      button.append(make("span", { class: `badge ${worst}` }, worst === "failed" ? "no result" : `QC ${worst}`));
    }
    button.addEventListener("click", () => open(place));
    return make("li", {}, button);
  }));
  state.list.forEach(drawMark);
}

function drawMark(one) {
  const mark = $("sessions").children[state.list.indexOf(one)].querySelector(".mark");
  const verdict = one.mine ? one.mine.verdict : "";
  mark.className = `mark ${verdict}`;
  mark.textContent = MARKS[verdict] || "\u00b7";
  mark.setAttribute("aria-label", verdict || "not seen");
  mark.setAttribute("role", "img");
}

function drawProgress() {
  const seen = state.list.filter(judged).length;
  $("seen").textContent = `${seen} of ${state.list.length} seen`;
  $("progress").max = Math.max(state.list.length, 1);
  $("progress").value = seen;
}

function find(text) {
  const wanted = text.toLowerCase();
  state.list.forEach((one, place) => {
    $("sessions").children[place].hidden = !one.label.toLowerCase().includes(wanted);
  });
}

// --- a session ---

async function open(place) {
  if (place < 0 || place >= state.list.length || place === state.at) return;
  state.notes = state.notes.then(keepNote);
  await state.notes;
  state.at = place;
  const one = current();
  for (const item of $("sessions").querySelectorAll("[aria-current]")) item.removeAttribute("aria-current");
  const item = $("sessions").children[place].firstChild;
  item.setAttribute("aria-current", "true");
  item.scrollIntoView({ block: "nearest" });
  history.replaceState(null, "", `#${encodeURIComponent(one.label)}`);
  $("label").textContent = one.label;
  $("label").title = one.label;
  document.title = `${one.label} - Somite review`;
  drawState();
  delete $("pictures").dataset.of;
  $("pictures").replaceChildren(make("p", { class: "missing" }, "Loading"));
  $("legend").hidden = true;
  $("layers").replaceChildren();
  $("cursor").textContent = "";
  try {
    const detail = await detailOf(one);
    if (current() !== one) return;
    drawPictures(one, detail);
    $("pictures").dataset.of = one.label;
    $("pictures").scrollTop = 0;
    viewer.show(one.label, detail.layers).then(() => { if (current() === one) drawLayers(); });
    const ahead = state.list[nextPlace()];
    if (ahead) detailOf(ahead).catch(() => {}); // it will be asked for again, and complain then
  } catch (error) {
    complain(error);
  }
}

// What is asked for once, and the session after it ahead of time; failures are forgotten.
function detailOf(one) {
  if (!state.details.has(one.label)) {
    const asked = ask(`api/session/${encodeURIComponent(one.label)}`);
    asked.catch(() => state.details.delete(one.label));
    state.details.set(one.label, asked);
    if (state.details.size > 20) state.details.delete(state.details.keys().next().value);
  }
  return state.details.get(one.label);
}

function drawState() {
  const one = current();
  const verdict = one.mine ? one.mine.verdict : "";
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.setAttribute("aria-pressed", String(button.dataset.verdict === verdict));
  }
  $("note").value = one.mine ? one.mine.note : "";
  const quality = one.ended === "failed" ? "the run failed" : `quality: ${one.quality || "no table"}`;
  $("state").textContent = one.reason ? `${quality}: ${one.reason}` : quality;
  $("state").title = one.reason;
}

function drawPictures(one, detail) {
  const parts = [drawQuality(detail), ...detail.problems.map(drawProblem)];
  if (detail.warnings.length) {
    const codes = [...new Set(detail.warnings.map((problem) => problem.code))].join(", ");
    parts.push(make("details", { class: "warnings" }, make("summary", {}, `Warnings: ${codes}`),
      ...detail.warnings.map(drawProblem)));
  }
  // The picture before is shown by the flicker of the one after.
  const before = new Set(detail.pictures.map((picture) => picture.pair));
  for (const picture of detail.pictures) {
    const other = detail.pictures.find((found) => found.name === picture.pair);
    if (!before.has(picture.name)) parts.push(drawPicture(one, picture, other));
  }
  if (!detail.pictures.length) {
    parts.push(make("p", { class: "missing" }, one.ended === "failed"
      ? "The run of this session failed, so it has no pictures."
      : "This session has no pictures: run the participant level again to make them."));
  }
  if (detail.report) {
    const link = make("a", { href: `files/${encodeURIComponent(detail.report)}`, target: "_blank",
      rel: "noopener" }, "The whole page of this session");
    parts.push(make("p", {}, link));
  }
  $("pictures").replaceChildren(...parts);
}

function drawQuality(detail) {
  const list = make("ul", { class: "quality", "aria-label": "Quality numbers" });
  const rank = { fail: 0, warn: 1, pass: 2 };
  const rows = detail.quality.filter((row) => row.verdict in rank && row.metric !== "overall");
  rows.sort((a, b) => rank[a.verdict] - rank[b.verdict]);
  for (const row of rows) {
    const value = Number(row.value);
    const unit = row.unit === "1" || row.unit === "n/a" ? "" : ` ${row.unit}`;
    const shell = row.b_s_per_mm2 === "n/a" ? "" : ` b=${row.b_s_per_mm2}`;
    const words = Number.isFinite(value) ? `${Number(value.toPrecision(3))}${unit}` : row.value;
    list.append(make("li", {}, `${row.metric}${shell} ${words} `,
      make("span", { class: `badge ${row.verdict}` }, row.verdict)));
  }
  const passed = rows.filter((row) => row.verdict === "pass").length;
  const box = make("details", { class: "numbers" },
    make("summary", {}, `Quality numbers: ${passed} of ${rows.length} pass their limits`), list);
  box.open = passed < rows.length;
  return rows.length ? box : "";
}

function drawProblem(problem) {
  const box = make("div", { class: `problem ${problem.severity}` },
    make("p", {}, make("strong", {}, problem.code), ` ${problem.what}`));
  if (problem.found) box.append(make("p", { class: "soft" }, `found: ${problem.found}`));
  return box;
}

function drawPicture(one, picture, other) {
  const title = make("span", {}, picture.title);
  const head = make("h2", {}, title);
  const sheet = make("div", { class: "sheet" });
  const figure = make("figure", {}, head, sheet, make("figcaption", {}, picture.caption || ""));
  const address = (shown) => `picture/${encodeURIComponent(one.label)}/${encodeURIComponent(shown)}`;
  if (!picture.shown) {
    sheet.append(make("p", { class: "missing" }, `This picture is missing: ${picture.alt || picture.name}`));
    return figure;
  }
  const image = make("img", { src: address(picture.shown), alt: picture.alt || picture.title, loading: "lazy" });
  image.addEventListener("error", () => image.replaceWith(
    make("p", { class: "missing" }, `This picture cannot be shown: ${image.alt}`)));
  sheet.append(image);
  if (other && other.shown) {
    const button = make("button", { type: "button", class: "flicker", "aria-pressed": "false" },
      "Flicker ", make("kbd", {}, "v"));
    new Image().src = address(other.shown);
    button.addEventListener("click", () => {
      const turned = button.getAttribute("aria-pressed") === "false";
      const shown = turned ? other : picture;
      button.setAttribute("aria-pressed", String(turned));
      image.src = address(shown.shown);
      image.alt = shown.alt || shown.title;
      title.textContent = shown.title;
    });
    head.append(button);
  }
  return figure;
}

function flicker() {
  const top = $("pictures").getBoundingClientRect().top;
  const inSight = [...$("pictures").querySelectorAll(".flicker")].find(
    (button) => button.closest("figure").getBoundingClientRect().bottom > top + 60);
  if (inSight) inSight.click();
}

// --- the viewer's controls ---

function drawLayers() {
  $("layers").replaceChildren(...viewer.layers.map((layer, place) => {
    const box = make("input", { type: "checkbox", "data-layer": layer.name });
    box.checked = layer.on;
    box.addEventListener("change", () => viewer.switchLayer(layer.name, box.checked));
    const slider = make("input", { type: "range", min: 0, max: 1, step: 0.05, "data-opacity": layer.name,
      "aria-label": `Opacity of ${layer.title}` });
    slider.value = layer.opacity;
    slider.addEventListener("input", () => viewer.setOpacity(layer.name, Number(slider.value)));
    return make("div", {}, make("label", {}, box, layer.title, make("kbd", {}, String(place + 1))), slider);
  }));
  const segments = viewer.layers.flatMap((layer) => layer.segments);
  $("legend").hidden = !segments.length;
  $("legend").firstElementChild.textContent = `Segments (${segments.length})`;
  $("segments").replaceChildren(...segments.map((segment) => {
    const swatch = make("span", { class: "swatch" });
    swatch.style.background = `rgb(${segment.colour.join(" ")})`;
    const button = make("button", { type: "button", title: segment.name }, swatch, make("span", {}, segment.name));
    button.addEventListener("click", () => viewer.goTo(segment.mm));
    return make("li", {}, button);
  }));
}

function toggleLayer(name) {
  const box = $("layers").querySelector(`[data-layer="${name}"]`);
  if (box) box.click();
}

function fade(by) {
  const slider = $("layers").querySelector('[data-opacity="segments"]');
  if (!slider) return;
  slider.value = Number(slider.value) + by;
  slider.dispatchEvent(new Event("input"));
}

function nextView() {
  $("view").selectedIndex = ($("view").selectedIndex + 1) % $("view").options.length;
  viewer.setView($("view").value);
}

// --- verdicts ---

async function save(one, verdict, note) {
  const answer = await ask("api/verdict", { label: one.label, verdict, note });
  one.mine = answer.mine;
  complain(null);
  drawMark(one);
  drawProgress();
  if (current() === one) drawState();
  const time = new Date(answer.mine.time).toLocaleTimeString();
  $("saved").textContent = `Saved: ${one.label}, ${verdict || "no verdict"}, ${time}`;
}

// Sets a verdict, a note, or what was there before; remembers what to go back to.
async function change(verdict, { undoing = false, note = $("note").value } = {}) {
  const one = current();
  const before = { one, verdict: one.mine ? one.mine.verdict : "", note: one.mine ? one.mine.note : "" };
  await save(one, verdict, note);
  if (!undoing) state.undo.push(before);
  $("undo").disabled = !state.undo.length;
}

async function judge(verdict) {
  // A key that was pressed twice must not judge the next session, nor any key what is not yet to be seen.
  if (state.busy || !current() || $("pictures").dataset.of !== current().label) return;
  state.busy = true;
  try {
    await state.notes;
    await change(verdict);
    if ($("go-on").checked) await nextUnseen();
  } catch (error) {
    complain(error);
  } finally {
    state.busy = false;
  }
}

async function keepNote() {
  const one = current();
  const known = one && one.mine ? one.mine.note : "";
  if (!one || $("note").value.split(/\s+/).filter(Boolean).join(" ") === known) return;
  try {
    await change(one.mine ? one.mine.verdict : "");
  } catch (error) {
    complain(error);
  }
}

async function undo() {
  const last = state.undo.at(-1);
  if (state.busy || !last) return;
  state.busy = true;
  try {
    await open(state.list.indexOf(last.one));
    await change(last.verdict, { undoing: true, note: last.note });
    state.undo.pop();
    $("undo").disabled = !state.undo.length;
  } catch (error) {
    complain(error);
  } finally {
    state.busy = false;
  }
}

// The place of the next session that has no verdict, or -1.
function nextPlace() {
  const n = state.list.length;
  for (let ahead = 1; ahead <= n; ahead += 1) {
    const place = (state.at + ahead) % n;
    if (!judged(state.list[place])) return place;
  }
  return -1;
}

async function nextUnseen() {
  const place = nextPlace();
  if (place < 0) $("saved").textContent += "  All sessions are seen.";
  else await open(place);
}

async function showAgreement() {
  try {
    const { categories, pairs } = await ask("api/agreement");
    const body = pairs.map((pair) => drawPair(categories, pair));
    if (!body.length) body.push(make("p", {}, "No two raters have seen the same session yet."));
    $("agreement-body").replaceChildren(...body);
    $("agreement").showModal();
  } catch (error) {
    complain(error);
  }
}

function drawPair(categories, pair) {
  const [first, second] = pair.raters;
  const { value, low, high, reason } = pair.kappa;
  const interval = low === null ? `no interval: ${reason}`
    : `95 % interval ${low.toFixed(2)} to ${high.toFixed(2)}`;
  const kappa = value === null ? `Cohen's kappa is not defined: ${reason}.`
    : `Cohen's kappa ${value.toFixed(2)} (${interval}).`;
  const head = make("tr", {}, make("th", {}, `${first} \u2193  ${second} \u2192`),
    ...categories.map((name) => make("th", { scope: "col" }, name)));
  const rows = pair.counts.map((counts, i) => make("tr", {}, make("th", { scope: "row" }, categories[i]),
    ...counts.map((count) => make("td", {}, String(count)))));
  const part = make("section", {}, make("h3", {}, `${first} and ${second}`),
    make("p", {}, `${pair.sessions} sessions seen by both, the same verdict on ${pair.same}. ${kappa}`),
    make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
  if (pair.differ.length) {
    const links = pair.differ.map((label) => {
      const button = make("button", { type: "button" }, label);
      button.addEventListener("click", () => {
        $("agreement").close();
        open(state.list.findIndex((one) => one.label === label));
      });
      return make("li", {}, button);
    });
    part.append(make("p", {}, "They differ on:"), make("ul", {}, ...links));
  }
  return part;
}

// --- keys ---

const KEYS = {
  p: () => judge("pass"),
  f: () => judge("fail"),
  u: () => judge("unsure"),
  n: () => { $("note").focus(); $("note").select(); },
  z: undo,
  ArrowRight: () => open(state.at + 1),
  ArrowLeft: () => open(state.at - 1),
  j: nextUnseen,
  v: flicker,
  s: () => toggleLayer("segments"),
  "[": () => fade(-0.1),
  "]": () => fade(0.1),
  ",": () => viewer.step(0, -1),
  ".": () => viewer.step(0, 1),
  "<": () => viewer.step(1, 0),
  ">": () => viewer.step(-1, 0),
  t: nextView,
  o: () => $("outline").click(),
  "/": () => $("find").focus(),
  a: showAgreement,
  "?": () => $("help").showModal(),
};

// Before the canvas: NiiVue has keys of its own.
window.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const field = event.target.closest("input, select, textarea");
  const typed = field && !["checkbox", "range"].includes(field.type);
  if (event.target === $("note") && event.key === "Escape") {
    $("note").value = current() && current().mine ? current().mine.note : "";
    $("note").blur();
  } else if (event.target === $("note") && event.key === "Enter") {
    $("note").blur();
  } else if (event.target === $("find") && (event.key === "Enter" || event.key === "Escape")) {
    const place = state.list.findIndex((one, i) => !$("sessions").children[i].hidden);
    $("find").value = "";
    find("");
    $("find").blur();
    if (event.key === "Enter") open(place);
  } else if (!typed) {
    const slides = field && field.type === "range" && event.key.startsWith("Arrow");
    const digit = /^[1-9]$/.test(event.key) ? viewer.layers[Number(event.key) - 1] : undefined;
    const action = digit ? () => toggleLayer(digit.name) : KEYS[event.key];
    if (!action || slides) return;
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat || [",", ".", "<", ">", "[", "]"].includes(event.key)) action();
  }
}, true);

for (const button of document.querySelectorAll("[data-verdict]")) {
  button.addEventListener("click", () => judge(button.dataset.verdict));
}
$("note").addEventListener("change", () => { state.notes = state.notes.then(keepNote); });
$("undo").addEventListener("click", undo);
$("previous").addEventListener("click", () => open(state.at - 1));
$("next").addEventListener("click", () => open(state.at + 1));
$("next-open").addEventListener("click", nextUnseen);
$("view").addEventListener("change", () => viewer.setView($("view").value));
$("outline").addEventListener("change", () => viewer.outline($("outline").checked));
$("find").addEventListener("input", () => find($("find").value));
$("show-help").addEventListener("click", () => $("help").showModal());
$("show-agreement").addEventListener("click", showAgreement);

async function begin() {
  let wanted = "";
  try { wanted = decodeURIComponent(location.hash.slice(1)); } catch { /* no name of a session */ }
  history.replaceState(null, "", location.pathname + location.hash); // the token leaves the address
  try {
    const { rater, table, sessions } = await ask("api/sessions");
    state.list = sessions;
    $("rater").textContent = rater;
    $("rater").title = rater;
    $("table").textContent = table;
    drawList();
    drawProgress();
    const named = sessions.findIndex((one) => one.label === wanted);
    await open(named >= 0 ? named : 0);
  } catch (error) {
    complain(error);
  }
}

begin();
