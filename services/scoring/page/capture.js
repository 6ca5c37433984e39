// Frames of a video, reduced and encoded; how far they are reduced follows what the way to the service bears.

const SIDES = [640, 512, 416, 320];
const QUALITIES = [0.8, 0.75, 0.7, 0.65];
const SLOW_MS = 180;
const FAST_MS = 60;
const SETTLE_MS = 1500;
const RECOVER_MS = 5000;

/** A stock of canvases: a picture keeps its own until its reading has been drawn on it. */
export class Capture {
  #stock = [];

  /** Return the frame that the video shows now, its longer side `side` at most. */
  take(video, side) {
    const scale = Math.min(1, side / Math.max(video.videoWidth, video.videoHeight));
    const canvas = this.#stock.pop() ?? document.createElement("canvas");
    const width = Math.max(1, Math.round(video.videoWidth * scale));
    const height = Math.max(1, Math.round(video.videoHeight * scale));
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    canvas.getContext("2d", { alpha: false }).drawImage(video, 0, 0, width, height);
    return canvas;
  }

  giveBack(canvas) {
    if (this.#stock.length < 6) this.#stock.push(canvas);
  }
}

export function encode(canvas, quality) {
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", quality));
}

/** Chooses size and quality: smaller where the network is slow, larger again once it has been fast for a while. */
export class Pace {
  #step = 0;
  #network = 0;
  #changedAt = 0;

  get side() {
    return SIDES[this.#step];
  }

  get quality() {
    return QUALITIES[this.#step];
  }

  answered(roundTripMs, serverMs) {
    const network = Math.max(0, roundTripMs - serverMs);
    this.#network += 0.2 * (network - this.#network);
    const since = performance.now() - this.#changedAt;
    if (this.#network > SLOW_MS && since > SETTLE_MS) this.smaller();
    else if (this.#network < FAST_MS && since > RECOVER_MS && this.#step > 0) this.#change(this.#step - 1);
  }

  smaller() {
    if (this.#step < SIDES.length - 1) this.#change(this.#step + 1);
  }

  #change(step) {
    this.#step = step;
    this.#changedAt = performance.now();
  }
}
