// The page: a source of pictures, a connection to the service, what it answers, and the controls around them.

import { Capture, encode, Pace } from "./capture.js";
import { Connection } from "./connection.js";
import { Meters } from "./meters.js";
import { Readings } from "./readings.js";
import { Source, SourceProblem } from "./source.js";
import { Statistics } from "./statistics.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);
const NARROW = 460;
const FRESH_MS = 1000;
const SETTLE_MS = 1500;

const STATES = {
  off: "Not connected",
  connecting: "Connecting",
  ready: "Connected",
  waiting: "Connection lost",
  asleep: "Resting",
  token: "Token needed",
  refused: "Refused",
};

const video = $("video");
const view = new View($("view"));
const capture = new Capture();
const pace = new Pace();
const meters = new Meters({
  rate: $("rate"),
  roundTrip: $("round-trip"),
  serverTime: $("server-time"),
  pictureSize: $("picture-size"),
});
const readings = new Readings({
  list: $("faces"),
  nobody: $("nobody"),
  count: $("face-count"),
  announce: (text) => {
    $("announcer").textContent = text;
    $("view").setAttribute("aria-label", text || "No picture yet");
  },
});
const source = new Source(video, ended);
const earlier = kept("maskfer.session");
const session = earlier ?? keep("maskfer.session", randomId());
const statistics = new Statistics(session, () => kept("maskfer.token"), {
  chart: $("chart"),
  totals: $("totals"),
  nobody: $("no-statistics"),
  note: $("statistics-note"),
  details: $("table-details"),
  table: $("table"),
  days: $("days-kept"),
});
const address = new URL("live", document.baseURI);
address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
const hello = () => ({
  session,
  consent: $("consent").checked,
  heatmap: $("heatmap").checked,
  token: kept("maskfer.token"),
});
const connection = new Connection(address, hello, {
  state: connectionChanged,
  ready: (message) => {
    cropContext = message.crop_context;
    meters.reset();
    showModel(message.model);
    statistics.follow($("consent").checked);
  },
  reading: showReading,
  letGo: ({ canvas }) => capture.giveBack(canvas),
  problem: (message) => console.warn(`maskfer: ${message.error}: ${message.message}`),
});

let running = false;
let paused = false;
let over = false;
let held = false;
let encoding = false;
let run = 0;
let seenTime = -1;
let shown = null;
let shownAt = -Infinity;
let cropContext = 1;
let wasConnected = false;
let modelName = "";
let retryAt = 0;

// --- pictures ---------------------------------------------------------------------------------------------

function tick() {
  if (!running) return;
  requestAnimationFrame(tick);
  // A hidden page sends nothing; browsers stop this callback there as well, but not all of them at once.
  if (document.hidden || video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) return;
  const fresh = performance.now() - shownAt < FRESH_MS;
  if (!fresh && !paused && !over) drawLive();
  if (paused || over || held || encoding || video.currentTime === seenTime) return;
  if (connection.state === "asleep") connection.open();
  if (connection.free) shoot();
}

async function shoot() {
  const mine = run;
  seenTime = video.currentTime;
  encoding = true;
  const canvas = capture.take(video, pace.side);
  const blob = await encode(canvas, pace.quality);
  encoding = false;
  const large = blob !== null && blob.size > connection.maxBytes - 64;
  if (large) pace.smaller();
  if (blob === null || large || mine !== run || !connection.send(blob, { canvas, run })) capture.giveBack(canvas);
}

function showReading(message, picture, roundTripMs) {
  if (picture.run !== run || !running) return capture.giveBack(picture.canvas);
  pace.answered(roundTripMs, message.server_ms);
  meters.add(roundTripMs, message.server_ms, picture.canvas);
  if (message.model !== modelName) showModel({ version: message.model });
  if (shown) capture.giveBack(shown.canvas);
  shown = { canvas: picture.canvas, faces: message.faces };
  shownAt = performance.now();
  redraw();
  readings.show(message.faces);
}

function redraw() {
  if (shown === null) return;
  const { canvas, faces } = shown;
  const compact = $("view").clientWidth < NARROW;
  view.draw(canvas, canvas.width, canvas.height, faces, { context: cropContext, compact });
}

/** The picture as the source has it, while no reading of it comes: better than one that stands still. */
function drawLive() {
  if (shown) {
    capture.giveBack(shown.canvas);
    shown = null;
    readings.clear();
  }
  view.draw(video, video.videoWidth, video.videoHeight, []);
}

// --- source -----------------------------------------------------------------------------------------------

async function begin(start) {
  showProblem(null);
  run += 1;
  shown = null;
  seenTime = -1;
  let started = false;
  try {
    started = await start();
  } catch (error) {
    stop();
    const said = error instanceof SourceProblem;
    showProblem(said ? error : Object.assign(error, { remedy: "Reload the page and try again." }));
    return;
  }
  if (!started) return;
  paused = over = false;
  readings.clear();
  meters.reset();
  if (connection.state !== "ready") connection.open();
  if (!running) {
    running = true;
    requestAnimationFrame(tick);
  }
  await listCameras();
  showControls();
}

function stop() {
  running = paused = over = false;
  run += 1;
  source.stop();
  connection.close();
  if (shown) capture.giveBack(shown.canvas);
  shown = null;
  shownAt = -Infinity;
  readings.clear();
  meters.reset();
  showControls();
}

async function togglePause() {
  if (!running) return;
  if (over) {
    over = false;
    video.currentTime = 0;
    await source.resume();
  } else if (paused) {
    paused = false;
    await source.resume();
  } else {
    paused = true;
    source.pause();
  }
  showControls();
}

function ended(problem) {
  if (problem) {
    stop();
    showProblem(problem);
  } else {
    over = true;
    showControls();
  }
}

async function listCameras() {
  const cameras = await source.cameras();
  $("camera").replaceChildren(
    ...cameras.map((camera, index) => new Option(camera.label || `Camera ${index + 1}`, camera.deviceId)),
  );
  $("camera").value = source.cameraId;
  $("camera-picker").hidden = source.kind !== "camera" || cameras.length < 2;
}

// --- what is shown around the picture ---------------------------------------------------------------------

function showControls() {
  $("empty").hidden = running;
  $("view").hidden = !running;
  $("stage").dataset.running = running;
  $("pause").disabled = $("stop").disabled = !running;
  $("pause").textContent = over ? "Play again" : paused ? "Go on" : "Pause";
  $("open-another").hidden = !running;
  $("paused-badge").hidden = !(paused || over);
  $("paused-badge").textContent = over ? "The film is over" : "Paused";
  if (!running) $("camera-picker").hidden = true;
}

function showProblem(problem) {
  $("problem").hidden = problem === null;
  $("problem-title").textContent = problem?.message ?? "";
  $("problem-remedy").textContent = problem?.remedy ?? "";
}

function connectionChanged(state, { waitMs = 0, message = "" }) {
  $("status").dataset.state = state;
  $("status-text").textContent = STATES[state];
  if (state === "ready") wasConnected = true;
  if (state === "waiting") {
    retryAt = performance.now() + waitMs;
    $("banner-text").textContent = wasConnected
      ? "The connection is lost. The page comes back by itself."
      : "The service does not answer. The page tries again by itself.";
    countDown();
  }
  // It stays while it tries, and goes when the service answers.
  if (state !== "connecting") $("banner").hidden = state !== "waiting";
  if ($("banner").hidden) $("banner-text").textContent = "";
  if (state === "token") askForToken(message);
  if (state === "refused") {
    stop();
    showProblem({ message: "The service refused this page", remedy: `${message || "It gave no reason."} Reload the page.` });
  }
}

function countDown() {
  const seconds = Math.max(0, Math.ceil((retryAt - performance.now()) / 1000));
  $("banner-count").textContent = connection.state === "waiting" ? `Next try in ${seconds} s.` : "";
  if (connection.state === "waiting") setTimeout(countDown, 250);
}

function showModel({ name = "maskfer", version }) {
  modelName = version;
  $("model").textContent = `Model ${name}, version ${version}`;
}

function askForToken(message) {
  const tried = kept("maskfer.token") !== null;
  $("token-text").textContent = tried
    ? `That token was not accepted. ${message}`
    : "Its operator gave you one. It is kept in this tab until you close it.";
  $("token").value = "";
  $("token-dialog").showModal();
}

// --- controls ---------------------------------------------------------------------------------------------

$("start").addEventListener("click", () => begin(() => source.startCamera()));
$("camera").addEventListener("change", () => begin(() => source.startCamera($("camera").value)));
for (const id of ["open", "open-another"]) $(id).addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  // Emptied, so that the same film can be opened again.
  if (file) begin(() => source.openFilm(file)).finally(() => ($("file").value = ""));
});
$("stage").addEventListener("dragover", (event) => event.preventDefault());
$("stage").addEventListener("drop", (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file) begin(() => source.openFilm(file));
});
$("pause").addEventListener("click", togglePause);
$("stop").addEventListener("click", stop);
$("retry").addEventListener("click", () => connection.open());
$("problem-close").addEventListener("click", () => showProblem(null));
$("heatmap").addEventListener("change", () => connection.setOptions({ heatmap: $("heatmap").checked }));
$("consent").addEventListener("change", () => {
  connection.setOptions({ consent: $("consent").checked });
  statistics.follow($("consent").checked);
});
$("download").addEventListener("click", () => statistics.download());
$("delete").addEventListener("click", () => $("delete-dialog").showModal());
$("delete-no").addEventListener("click", () => $("delete-dialog").close());
$("delete-yes").addEventListener("click", deleteStatistics);
$("token-cancel").addEventListener("click", () => $("token-dialog").close());
$("token-dialog").addEventListener("close", () => connection.state === "token" && running && stop());
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keep("maskfer.token", $("token").value.trim());
  connection.open();
  $("token-dialog").close();
});

async function deleteStatistics() {
  $("delete-dialog").close();
  $("consent").checked = false;
  connection.setOptions({ consent: false });
  // Pictures on their way were sent with consent: their minute must not come back after it is deleted.
  held = true;
  const since = performance.now();
  while (connection.unanswered > 0 && performance.now() - since < SETTLE_MS) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await statistics.follow(false);
  await statistics.delete();
  held = false;
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape" && running) stop();
  const own = event.target.closest?.("button, input, select, summary, a, [tabindex='0']");
  if (event.key === " " && !own && running) {
    event.preventDefault();
    togglePause();
  }
});
addEventListener("online", () => connection.state === "waiting" && connection.open());
video.addEventListener("resize", () => {
  if (video.videoWidth > 0) $("stage").style.aspectRatio = `${video.videoWidth} / ${video.videoHeight}`;
});
new ResizeObserver(redraw).observe($("view"));

// --- this tab ---------------------------------------------------------------------------------------------

function kept(key) {
  try {
    return sessionStorage.getItem(key);
  } catch {
    return null;
  }
}

function keep(key, value) {
  try {
    sessionStorage.setItem(key, value);
  } catch {
    // A browser that keeps nothing: it lasts until the page is left.
  }
  return value;
}

/** A random UUID; crypto.randomUUID exists only where a camera does. */
function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const digits = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

showControls();
// Of a new session nothing can be kept; and a service that wants a token need not be asked for it yet.
if (earlier !== null) statistics.follow(false);
