// Where pictures come from: a camera or a film. What goes wrong is said with its remedy.

const CAMERA_PROBLEMS = {
  NotAllowedError: {
    title: "The camera is not allowed",
    remedy: "Allow the camera for this page (the icon in the address bar), then press Start camera again. Or open a film.",
  },
  NotFoundError: {
    title: "No camera was found",
    remedy: "Connect one and press Start camera again, or open a film.",
  },
  NotReadableError: {
    title: "The camera is busy",
    remedy: "Another program holds it. Close that program and press Start camera again.",
  },
  OverconstrainedError: {
    title: "That camera is gone",
    remedy: "Choose another one, or press Start camera again.",
  },
};
const INSECURE = {
  title: "This address may not use the camera",
  remedy: "Browsers give the camera only to https pages and to localhost. Open the page over https, or open a film.",
};
const UNPLUGGED = {
  title: "The camera stopped",
  remedy: "It was unplugged, or its permission was taken back. Connect it and press Start camera.",
};

/** Something a person can act upon. */
export class SourceProblem extends Error {
  constructor({ title, remedy }) {
    super(title);
    this.remedy = remedy;
  }
}

export class Source {
  #video;
  #stream = null;
  #address = null;
  #asked = 0;
  kind = null;

  /** `onEnded(problem)`: the film is over (null), or the camera went away or the film broke off. */
  constructor(video, onEnded) {
    this.#video = video;
    video.addEventListener("ended", () => this.kind === "film" && onEnded(null));
    video.addEventListener("error", () => this.kind === "film" && onEnded(unreadable(video)));
    this.onEnded = onEnded;
  }

  get cameraId() {
    return this.#stream?.getVideoTracks()[0]?.getSettings().deviceId ?? "";
  }

  /** Show a camera; raises SourceProblem. Resolves to false where something else was started meanwhile. */
  async startCamera(deviceId = "") {
    if (!navigator.mediaDevices?.getUserMedia) throw new SourceProblem(INSECURE);
    const asked = ++this.#asked;
    const which = deviceId ? { deviceId: { exact: deviceId } } : { facingMode: "user" };
    const wanted = { audio: false, video: { ...which, width: { ideal: 1280 }, height: { ideal: 720 } } };
    this.#release();
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia(wanted);
    } catch (error) {
      if (asked !== this.#asked) return false;
      const told = { title: "The camera did not start", remedy: `${error.message || error.name}. Try another one.` };
      throw new SourceProblem(CAMERA_PROBLEMS[error.name] ?? told);
    }
    if (asked !== this.#asked) {
      for (const track of stream.getTracks()) track.stop();
      return false;
    }
    this.#stream = stream;
    this.kind = "camera";
    for (const track of stream.getVideoTracks()) {
      track.addEventListener("ended", () => stream === this.#stream && this.onEnded(new SourceProblem(UNPLUGGED)));
    }
    this.#video.srcObject = stream;
    return this.#play(asked);
  }

  /** Show a film from this machine; as startCamera. */
  async openFilm(file) {
    const asked = ++this.#asked;
    this.#release();
    this.#address = URL.createObjectURL(file);
    const decodes = new Promise((resolve, reject) => {
      this.#video.addEventListener("loadeddata", resolve, { once: true });
      this.#video.addEventListener("error", () => reject(unreadable(this.#video, file.name)), { once: true });
    });
    this.#video.src = this.#address;
    await decodes;
    if (asked !== this.#asked) return false;
    // A sound file loads as well.
    if (this.#video.videoWidth === 0) throw unreadable(this.#video, file.name);
    this.kind = "film";
    return this.#play(asked);
  }

  async cameras() {
    const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
    return devices.filter((device) => device.kind === "videoinput");
  }

  pause() {
    this.#video.pause();
  }

  async resume() {
    await this.#play(this.#asked);
  }

  stop() {
    this.#asked += 1;
    this.#release();
  }

  async #play(asked) {
    try {
      await this.#video.play();
    } catch (error) {
      // A stop or another source interrupts the start of this one: no problem of anybody's.
      if (error.name !== "AbortError") throw error;
    }
    return asked === this.#asked;
  }

  #release() {
    this.kind = null;
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.#video.pause();
    this.#video.srcObject = null;
    if (this.#address !== null) {
      this.#video.removeAttribute("src");
      this.#video.load();
      URL.revokeObjectURL(this.#address);
      this.#address = null;
    }
  }
}

function unreadable(video, name = "The film") {
  const broken = video.error?.code === MediaError.MEDIA_ERR_DECODE;
  return new SourceProblem({
    title: broken ? `${name} is damaged` : `${name} cannot be played here`,
    remedy: "Convert it to MP4 (H.264) or WebM and open it again.",
  });
}
