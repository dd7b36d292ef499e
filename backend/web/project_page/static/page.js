/* The project's page: draws its map and learning curve, and asks the server every 4 seconds for changes.
   The server writes all text; this script swaps in the parts that changed. */
"use strict";

const EVERY_MS = 4000;
const CROWD = 100; // a group with more points is drawn smaller, on a map of many scans
const here = location.pathname.replace(/\/(rollback|resume|confirm|export)$/, "");
const byId = (id) => document.getElementById(id);

// Okabe and Ito's colours, but for black and yellow, which a dark or a light page would swallow.
const [ORANGE, SKY, GREEN, BLUE, VERMILION, PINK] =
  ["#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7"];
const STATES = {
  next: { name: "Next to label", colour: VERMILION, symbol: "star", size: 14 },
  queued: { name: "Queued", colour: null, symbol: "circle-open", size: 9 },
  labelled: { name: "Labelled, trains", colour: GREEN, symbol: "circle", size: 9 },
  validation: { name: "Labelled, held out", colour: BLUE, symbol: "diamond", size: 10 },
  skipped: { name: "Skipped", colour: PINK, symbol: "x", size: 9 },
  unused: { name: "Annotated, not used", colour: ORANGE, symbol: "triangle-up", size: 10 },
  unreadable: { name: "Cannot be read", colour: ORANGE, symbol: "square-open", size: 9 },
};
const COLOURS = [SKY, VERMILION, GREEN, PINK, ORANGE, BLUE];
const SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross"]; // 5 by 6: 30 pairs

const LINES = [[BLUE, "diamond"], [VERMILION, "square"], [GREEN, "triangle-up"], [PINK, "cross"], [ORANGE, "circle"]];

const MAP_NOTE = byId("map-note").textContent;
const NO_MAP = "The map appears when the first round has read the scans.";

let points = null;
let shown = byId("title").dataset.digest; // digest of the state that this page's text shows
let drawn = ""; // digest of the state that the map shows
let listening = false;

// -- drawing --------------------------------------------------------------------------------------

function theme() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(
    ["ink", "quiet", "line", "grid", "card", "mark", "accent"].map((name) =>
      [name, style.getPropertyValue(`--${name}`).trim()]));
}

function layout(more) {
  const look = theme();
  return {
    paper_bgcolor: look.card, plot_bgcolor: look.card, showlegend: true, hovermode: "closest",
    font: { family: "system-ui, sans-serif", size: 13, color: look.ink },
    margin: { l: 8, r: 8, t: 8, b: 8 }, uirevision: "stays",
    ...more,
  };
}

const CONFIG = { displaylogo: false, responsive: true, scrollZoom: true,
  modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d"]] };

function hasWebGL() {
  try { return Boolean(document.createElement("canvas").getContext("webgl")); } catch { return false; }
}

function groupsOf(colour) {
  const found = new Map();
  const keys = colour === "state" ? points.state : points.cluster;
  keys.forEach((key, row) => found.has(key) ? found.get(key).push(row) : found.set(key, [row]));
  return [...found].sort(([a], [b]) => colour === "state" ? b - a : a - b);
}

function lookOf(colour, key, look) {
  if (colour === "state") {
    const one = STATES[points.states[key]];
    return { ...one, colour: one.colour || look.mark };
  }
  if (key < 0) return { name: "No cluster", colour: look.mark, symbol: "circle-open", size: 8 };
  return { name: `Cluster ${key}`, size: 9, symbol: SYMBOLS[key % SYMBOLS.length],
    colour: COLOURS[key % COLOURS.length] };
}

function traces(colour) {
  const look = theme(), many = byId("map").dataset.many !== undefined;
  const type = many && hasWebGL() ? "scattergl" : "scatter";
  return groupsOf(colour).map(([key, rows]) => {
    const { name, colour: hue, symbol, size } = lookOf(colour, key, look);
    const crowd = many && rows.length > CROWD;
    return {
      type, mode: "markers", name: `${name} (${rows.length})`, hoverinfo: "none", customdata: rows,
      x: rows.map((row) => points.x[row]), y: rows.map((row) => points.y[row]),
      marker: { color: hue, symbol, size: crowd ? size / 2 : size, opacity: crowd ? 0.6 : 0.95,
        line: { width: symbol.endsWith("open") ? 1.6 : 0, color: hue } },
    };
  });
}

async function drawMap() {
  const colour = document.querySelector("input[name=colour]:checked").value;
  const bare = { visible: false, fixedrange: false };
  const lost = points.task.length - points.placed;
  const notes = lost ? [{ x: 0.5, y: -0.14, xanchor: "center", yanchor: "top", showarrow: false,
    text: "no place on the map", font: { size: 12, color: theme().quiet } }] : [];
  const clusters = new Set(points.cluster).size;
  const legend = { orientation: "h", x: 0, y: 0, yanchor: "top", itemwidth: 30,
    traceorder: colour === "state" ? "reversed" : "normal" };
  await Plotly.react("map", traces(colour), layout({
    legend,
    xaxis: { ...bare, range: [-0.05, 1.05] }, annotations: notes, dragmode: "pan",
    yaxis: { ...bare, scaleanchor: "x", range: [lost ? -0.2 : -0.05, 1.05] },
    showlegend: colour === "state" || clusters <= 30,
  }), CONFIG);
  byId("map").dataset.drawn = String(points.task.length);
}

async function drawCurve() {
  const look = theme(), { models, drafts } = points.curve;
  const measured = JSON.parse(byId("curve").dataset.metrics)
    .map((metric) => ({ ...metric, rows: models.filter((one) => one[metric.key] != null) }))
    .filter((metric) => metric.rows.length);
  const far = measured.find((metric) => metric.unit); // a share lies on the left axis, all else on the right
  const shown = measured.length + drafts.length > 0;
  byId("curve").hidden = !shown;
  if (!shown) return;
  const line = (name, rows, key, colour, symbol, axis) => ({
    type: "scatter", mode: "lines+markers", name, yaxis: axis,
    x: rows.map((one) => one.labels), y: rows.map((one) => one[key]),
    text: rows.map((one) => one.accepted === false ? "refused, not used" : one.version),
    hovertemplate: "%{y:.3f} from %{x} labels<br>%{text}<extra></extra>",
    line: { color: colour, width: 2 },
    cliponaxis: false, // a point at 0 or 1 is drawn whole
    marker: { color: colour, size: 9,
      symbol: rows.map((one) => one.accepted === false ? "x" : symbol) } });
  const dots = (name, rows, symbol) => ({
    type: "scatter", mode: "markers", name, cliponaxis: false,
    x: rows.map((one) => one.labels), y: rows.map((one) => one.dice), text: rows.map((one) => `task ${one.task}`),
    hovertemplate: "%{y:.3f}, %{text}<extra></extra>",
    marker: { color: look.mark, symbol, size: 8, line: { width: 1.6 } } });
  const kept = drafts.filter((one) => one.unchanged), changed = drafts.filter((one) => !one.unchanged);
  const all = [dots("Drafts that people changed", changed, "circle-open")];
  if (kept.length) all.push(dots("Drafts submitted unchanged", kept, "circle-dot"));
  measured.forEach(({ title, rows, key, unit }, place) => {
    const [colour, symbol] = LINES[place % LINES.length];
    all.push(line(`${title} on held-out scans${unit ? ` (${unit})` : ""}`, rows, key, colour, symbol, unit ? "y2" : "y"));
  });
  const axis = { gridcolor: look.grid, linecolor: look.line, zeroline: false, tickfont: { color: look.quiet } };
  await Plotly.react("curve", all, layout({
    margin: { l: 44, r: far ? 52 : 12, t: 8, b: 44 }, legend: { orientation: "h", x: 0, y: 1.06, yanchor: "bottom" },
    xaxis: { ...axis, title: { text: "labelled scans", font: { color: look.quiet, size: 13 } },
      rangemode: "tozero", tickformat: "d", fixedrange: true },
    yaxis: { ...axis, range: [0, 1], title: { text: "Dice", font: { color: look.quiet, size: 13 } }, fixedrange: true },
    yaxis2: { ...axis, overlaying: "y", side: "right", rangemode: "tozero", tickmode: "auto", nticks: 6, showgrid: false, fixedrange: true,
      title: { text: far && `${far.title} (${far.unit})`, font: { color: look.quiet, size: 13 } } },
  }), { displayModeBar: false, responsive: true });
}

// -- pointing at a scan ---------------------------------------------------------------------------

const card = () => byId("card");
const canHover = matchMedia("(hover: hover)");

function describe(row) {
  const [picture, words] = card().children, [name, place, why, link] = words.children;
  const task = points.task[row], rank = points.rank[row], cluster = points.cluster[row];
  picture.src = `${here}/scans/${task}.png`;
  name.textContent = `Task ${task}`;
  place.textContent = [STATES[points.states[points.state[row]]].name,
    rank ? `position ${rank}` : "", cluster >= 0 ? `cluster ${cluster}` : ""].filter(Boolean).join(", ");
  why.textContent = points.why[row];
  link.href = points.task_url + task;
}

function place(event) {
  const box = card(), gap = 16;
  box.hidden = false;
  const { width, height } = box.getBoundingClientRect();
  const left = event.clientX + gap + width < innerWidth ? event.clientX + gap : event.clientX - gap - width;
  box.style.left = `${Math.max(8, left)}px`;
  box.style.top = `${Math.max(8, Math.min(event.clientY - height / 3, innerHeight - height - 8))}px`;
}

function hide() {
  card().hidden = true;
  byId("map").classList.remove("pointing");
  ring(null);
}

// A ring around a point. It is our own element, because a trace would make plotly draw all points again.
function ring(row) {
  const mark = byId("ring"), { xaxis, yaxis } = byId("map")._fullLayout || {};
  mark.hidden = row === null || row < 0 || !xaxis;
  if (mark.hidden) return;
  const x = xaxis.l2p(points.x[row]), y = yaxis.l2p(points.y[row]);
  mark.hidden = x < 0 || y < 0 || x > xaxis._length || y > yaxis._length;
  mark.style.left = `${xaxis._offset + x}px`;
  mark.style.top = `${yaxis._offset + y}px`;
}

function listen() {
  const map = byId("map");
  map.on("plotly_hover", ({ points: [one], event }) => {
    if (one.customdata === undefined) return;
    describe(one.customdata);
    card().classList.toggle("stays", !canHover.matches);
    place(event);
    map.classList.add("pointing");
    ring(one.customdata);
  });
  map.on("plotly_relayout", () => ring(null));
  map.on("plotly_unhover", () => { if (canHover.matches) hide(); });
  map.on("plotly_click", ({ points: [one] }) => {
    // A finger cannot hover: a tap opens the card, whose link opens the scan.
    if (canHover.matches && one.customdata !== undefined)
      open(points.task_url + points.task[one.customdata], "_blank", "noopener");
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  for (const name of ["focusin", "mouseover"]) byId("queue").addEventListener(name, (event) => {
    const link = event.target.closest("a[data-task]");
    if (link && points) ring(points.task.indexOf(Number(link.dataset.task)));
  });
  for (const name of ["focusout", "mouseleave"]) byId("queue").addEventListener(name, () => ring(null));
  document.querySelectorAll("input[name=colour]").forEach((one) => one.addEventListener("change", drawMap));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawMap(); drawCurve(); });
}

// -- what changed ---------------------------------------------------------------------------------

async function get(address, kind = "application/json") {
  const answer = await fetch(address, { headers: { Accept: kind } });
  if (!answer.ok) throw new Error(`${answer.status}`);
  return answer;
}

async function load() {
  points = await (await get(`${here}/map.json`)).json();
  await Promise.all([drawMap(), drawCurve()]);
  if (!listening) listen();
  listening = true;
}

// If the map fails, only the map's note says so, and the map is tried again; the rest of the page stays.
async function draw(digest) {
  try {
    await load();
    drawn = digest;
    byId("map-note").textContent = points.placed ? MAP_NOTE : NO_MAP;
  } catch (error) {
    console.warn(error);
    byId("map-note").textContent = "The map could not be loaded; it is tried again.";
  }
}

async function swap() {
  const answer = await get(`${here}${location.search}`, "text/html");
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const focused = document.activeElement?.id;
  for (const { id } of document.querySelectorAll("details[open]"))
    fresh.getElementById(id)?.setAttribute("open", "");
  for (const old of document.querySelectorAll("[data-live]")) {
    const now = fresh.getElementById(old.id);
    if (!now || now.innerHTML === old.innerHTML) continue;
    const rolled = old.querySelector(".queue")?.scrollTop;
    old.replaceChildren(...now.childNodes);
    if (rolled) old.querySelector(".queue")?.scrollTo({ top: rolled });
  }
  if (focused) byId(focused)?.focus({ preventScroll: true });
  shown = fresh.getElementById("title").dataset.digest;
}

function tell(state) {
  if (byId("now").textContent !== state.now) byId("now").textContent = state.now;
  if (byId("then").textContent !== state.then) byId("then").textContent = state.then;
  byId("dot").classList.toggle("busy", Boolean(state.step));
  byId("share").hidden = state.share === null;
  if (state.share !== null) byId("share").value = state.share;
  // Not part of the digest: this sentence changes with every answer, and would swap the page each time.
  if (state.freshness) byId("freshness").textContent = state.freshness;
}

async function look() {
  if (document.hidden) return;
  const state = await (await get(`${here}?format=json`)).json();
  tell(state);
  if (state.digest !== shown) await swap();
  if (state.digest !== drawn) await draw(state.digest);
}

async function keepLooking() {
  try {
    await look();
  } catch {
    tell({ now: "The backend does not answer; this page shows what it said last.", then: "", step: null, share: null });
  }
  setTimeout(keepLooking, EVERY_MS);
}

// A scan that is no longer on disk has no thumbnail; its place stays empty.
document.addEventListener("error", ({ target }) => target.classList?.add("missing"), true);
document.addEventListener("load", ({ target }) => target.classList?.remove("missing"), true);
for (const one of document.images)
  if (one.complete && !one.naturalWidth && one.getAttribute("src")) one.classList.add("missing");

draw(shown).finally(keepLooking);
