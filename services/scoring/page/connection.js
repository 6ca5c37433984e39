// The live protocol, version 1 (docs/live.md): one WebSocket, few unanswered pictures, back after every break.

const PROTOCOL = 1;
const PICTURE = 1;
const HEADER_BYTES = 8;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;
const ANSWER_MS = 10_000;
const IDLE_MS = 20_000;
const GOING_AWAY = 1001;
const REFUSED = 1008;
const TOKEN_NEEDED = 4401;

/**
 * Keeps one connection to the service and says what becomes of every picture.
 *
 * `hello()` returns {session, consent, heatmap, token}. `on` has
 *   state(state, {waitMs, message}): off, connecting, ready, waiting, asleep, token, refused
 *   ready(message), reading(message, picture, roundTripMs), letGo(picture), problem(message)
 */
export class Connection {
  #url;
  #hello;
  #said = {};
  #on;
  #socket = null;
  #timer = 0;
  #attempts = 0;
  #pending = new Map();
  #frame = 0;
  #window = 0;
  #holdUntil = 0;
  #lastSentAt = 0;
  #refusal = "";
  state = "off";
  maxBytes = Infinity;

  constructor(url, hello, on) {
    this.#url = url;
    this.#hello = hello;
    this.#on = on;
    setInterval(() => this.#giveUpOnSilence(), 1000);
  }

  /** Connect, or connect now where it waits to try again. */
  open() {
    if (this.#socket !== null) return;
    clearTimeout(this.#timer);
    this.#enter("connecting");
    const socket = new WebSocket(this.#url);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#refusal = "";
    socket.onopen = () => {
      this.#said = this.#hello();
      socket.send(JSON.stringify({ type: "hello", protocol: PROTOCOL, ...this.#said }));
    };
    socket.onmessage = (event) => this.#receive(socket, event.data);
    socket.onclose = (event) => this.#lost(socket, event.code);
  }

  /** Disconnect and stay so. */
  close() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    this.#attempts = 0;
    this.#forget();
    this.#enter("off");
    socket?.close(1000);
  }

  /** Whether a picture sent now would be shown soon: otherwise it is better dropped than queued. */
  get free() {
    return (
      this.state === "ready" &&
      this.#pending.size < this.#window &&
      this.#socket.bufferedAmount === 0 &&
      performance.now() >= this.#holdUntil
    );
  }

  get unanswered() {
    return this.#pending.size;
  }

  /** Send an encoded picture; `picture` comes back with its answer. Returns false where it was too late. */
  send(blob, picture) {
    if (this.state !== "ready") return false;
    const frame = this.#frame++ >>> 0;
    const header = new DataView(new ArrayBuffer(HEADER_BYTES));
    header.setUint8(0, PICTURE);
    header.setUint32(4, frame, true);
    const now = performance.now();
    this.#pending.set(frame, { picture, sentAt: now });
    this.#lastSentAt = now;
    this.#socket.send(new Blob([header, blob]));
    return true;
  }

  /** Change consent or heatmap of the running connection. */
  setOptions(options) {
    if (this.state === "ready") this.#socket.send(JSON.stringify({ type: "options", ...options }));
  }

  /** Consent that was withdrawn after hello counts from the first picture on. */
  #sayWhatChanged() {
    const { consent, heatmap } = this.#hello();
    if (consent !== this.#said.consent || heatmap !== this.#said.heatmap) this.setOptions({ consent, heatmap });
  }

  #receive(socket, text) {
    if (socket !== this.#socket || typeof text !== "string") return;
    const message = JSON.parse(text);
    switch (message.type) {
      case "ready":
        this.#attempts = 0;
        this.#window = Math.max(1, message.window);
        this.maxBytes = message.max_message_bytes ?? Infinity;
        this.#holdUntil = 0;
        this.#lastSentAt = performance.now();
        this.#enter("ready");
        this.#sayWhatChanged();
        this.#on.ready(message);
        break;
      case "reading": {
        const sent = this.#take(message.frame);
        if (sent) this.#on.reading(message, sent.picture, performance.now() - sent.sentAt);
        break;
      }
      case "dropped": {
        const sent = this.#take(message.frame);
        if (sent) this.#on.letGo(sent.picture);
        if (message.retry_after_s) this.#holdUntil = performance.now() + 1000 * message.retry_after_s;
        break;
      }
      case "error": {
        this.#refusal = message.message;
        const sent = message.frame === undefined ? undefined : this.#take(message.frame);
        if (sent) this.#on.letGo(sent.picture);
        if (this.state === "ready") this.#on.problem(message);
        break;
      }
    }
  }

  #take(frame) {
    const sent = this.#pending.get(frame);
    this.#pending.delete(frame);
    return sent;
  }

  #lost(socket, code) {
    if (socket !== this.#socket) return;
    this.#socket = null;
    this.#forget();
    if (code === TOKEN_NEEDED) return this.#enter("token", { message: this.#refusal });
    if (code === REFUSED) return this.#enter("refused", { message: this.#refusal });
    const idle = performance.now() - this.#lastSentAt > IDLE_MS;
    if (code === GOING_AWAY && this.state === "ready" && idle) return this.#enter("asleep");
    const ceiling = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#attempts);
    this.#attempts += 1;
    // Spread, so that a restarted service is not met by all its pages at once.
    const waitMs = ceiling * (0.75 + 0.25 * Math.random());
    this.#enter("waiting", { waitMs });
    this.#timer = setTimeout(() => this.open(), waitMs);
  }

  #forget() {
    for (const { picture } of this.#pending.values()) this.#on.letGo(picture);
    this.#pending.clear();
  }

  /** A network that vanished closes nothing: no answer for long is as good as a closed connection. */
  #giveUpOnSilence() {
    const [oldest] = this.#pending.values();
    if (oldest === undefined || performance.now() - oldest.sentAt < ANSWER_MS) return;
    const socket = this.#socket;
    socket.close();
    this.#lost(socket, 1006);
  }

  #enter(state, details = {}) {
    this.state = state;
    this.#on.state(state, details);
  }
}
