"use strict";

// Two elements of the page: <svs-song> takes a song, <svs-mixer> plays, shows and hands out its stems. Both read
// what they need to know from data-given.
(() => {
  const PIECE = 4; // seconds of a stem that are fetched and scheduled at a time
  const AHEAD = 8; // seconds that are scheduled before they are heard
  const KARAOKE = -20; // dB of the vocals
  const KEY_STEP = 5; // seconds by which an arrow key moves
  const RECORDING_RATE = 48000; // Hz; browsers record at it

  const icons = {
    play: "M8 5v14l11-7z",
    pause: "M6 5h4v14H6zM14 5h4v14h-4z",
    record: "M12 6a6 6 0 1 0 .01 0z",
    stop: "M7 7h10v10H7z",
  };

  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in element) element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  function icon(name) {
    const holder = make("span", { className: "svs-icon" });
    holder.innerHTML = `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${icons[name]}"/></svg>`;
    return holder;
  }

  function clock(seconds) {
    const whole = Math.floor(seconds + 1e-6);
    return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
  }

  const SILENT = "The program that shows this page does not answer.";

  function sentence(error) {
    return error instanceof TypeError ? SILENT : error.message; // fetch throws one if nobody answers
  }

  function inDecibels(number) {
    return `${number > 0 ? "+" : number < 0 ? "−" : ""}${Math.abs(number)} dB`;
  }

  // ---- A song, from a file or a microphone, is sent as soon as it is there.

  class SongInput extends HTMLElement {
    connectedCallback() {
      if (this.given) return;
      this.given = JSON.parse(this.dataset.given);
      const { sources, megabytes, minutes } = this.given;
      this.file = make("input", { type: "file", accept: "audio/*,video/*", id: "svs-file" });
      this.file.onchange = () => this.file.files[0] && this.send(this.file.files[0], this.file.files[0].name);
      this.recorder = make("button", { type: "button", className: "svs-button svs-record" });
      this.recorder.onclick = () => (this.recording ? this.recording.stop() : this.record());
      this.state = make("p", { className: "svs-state", role: "status" });
      this.bar = make("progress", { max: 1, value: 0, hidden: true });
      this.abort = make("button", { type: "button", className: "svs-button", textContent: "Cancel", hidden: true });
      this.heard = make("audio", { controls: true, hidden: true });
      this.showRecorder();
      this.drop = make("div", { className: "svs-drop" });
      const ways = make("div", { className: "svs-ways" });
      if (sources.includes("upload")) {
        const label = make("label", { htmlFor: "svs-file", className: "svs-button svs-choose", textContent: "Choose a song" });
        this.drop.append(make("p", { className: "svs-big", textContent: "Drop a song here" }));
        ways.append(this.file, label);
      }
      if (sources.includes("microphone")) ways.append(this.recorder);
      this.drop.append(ways);
      const limits = `Music or video in any common format, up to ${minutes} minutes and ${megabytes} MB`;
      this.drop.append(make("p", { className: "svs-note", textContent: limits }));
      // Nobody sees a song again that a page had which was left.
      window.addEventListener("pagehide", () => window.svsAtWork && navigator.sendBeacon(`${this.given.address}/${window.svsAtWork}/stop`));
      this.append(this.drop, make("div", { className: "svs-given" }, this.state, this.bar, this.abort, this.heard));
      if (!sources.includes("upload")) return;
      this.ondragover = (event) => {
        event.preventDefault();
        this.drop.classList.add("over");
      };
      this.ondragleave = () => this.drop.classList.remove("over");
      this.ondrop = (event) => {
        event.preventDefault();
        this.drop.classList.remove("over");
        const [file] = event.dataTransfer.files;
        const folder = event.dataTransfer.items[0]?.webkitGetAsEntry()?.isDirectory;
        if (folder) this.say(`${file.name} is a folder: drop a song.`, "bad");
        else if (file) this.send(file, file.name);
      };
    }

    say(text, kind = "") {
      this.state.textContent = text;
      this.state.className = `svs-state ${kind}`;
    }

    hush() {
      this.heard.pause();
      this.heard.hidden = true;
    }

    send(file, name) {
      this.request?.abort();
      window.svsSong = null;
      this.file.value = "";
      if (this.heard.src) URL.revokeObjectURL(this.heard.src);
      this.hush();
      if (file.size > this.given.megabytes * 1e6) {
        return this.say(`${name} is larger than ${this.given.megabytes} MB, the most that is taken here.`, "bad");
      }
      const request = (this.request = new XMLHttpRequest());
      const over = (text, kind) => {
        if (request !== this.request) return; // another song came meanwhile
        this.bar.hidden = this.abort.hidden = true;
        this.say(text, kind);
      };
      request.open("POST", `${this.given.address}?name=${encodeURIComponent(name)}`);
      request.responseType = "json";
      request.upload.onprogress = (event) => (this.bar.value = event.loaded / event.total);
      request.upload.onload = () => {
        this.bar.removeAttribute("value");
        this.say(`Reading ${name}`);
      };
      request.onload = () => {
        const answer = request.response;
        if (!answer?.song) return over(answer?.error ?? "The song was not taken.", "bad");
        if (request !== this.request) return;
        window.svsSong = { id: answer.song };
        over(`${answer.name}, ${clock(answer.seconds)}`, "good");
        this.heard.src = URL.createObjectURL(file);
        this.heard.hidden = false;
      };
      request.onerror = () => over(SILENT, "bad");
      request.onabort = () => over("Cancelled.");
      this.heard.onerror = () => (this.heard.hidden = true); // a format that only the server reads
      this.bar.value = 0;
      this.bar.hidden = this.abort.hidden = false;
      this.abort.onclick = () => request.abort();
      this.say(`Sending ${name}`);
      request.send(file);
    }

    showRecorder() {
      const name = this.recording ? "Stop recording" : "Record";
      this.recorder.replaceChildren(icon(this.recording ? "stop" : "record"), name);
      this.recorder.classList.toggle("on", Boolean(this.recording));
    }

    async record() {
      if (!navigator.mediaDevices || !window.MediaRecorder) {
        return this.say("This browser records only on the computer itself, or on a page with https.", "bad");
      }
      let stream;
      this.recorder.disabled = true; // a second click would start another recording
      try {
        // What telephones do to voices is not for music.
        const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
        stream = await navigator.mediaDevices.getUserMedia({ audio });
      } catch {
        return this.say("There is no microphone that this page may use.", "bad");
      } finally {
        this.recorder.disabled = false;
      }
      this.hush();
      window.svsSong = null;
      const parts = [];
      const recording = (this.recording = new MediaRecorder(stream));
      const { minutes, megabytes } = this.given;
      const most = Math.min(minutes * 60, (megabytes * 1e6) / (4 * RECORDING_RATE)) - 1; // 16-bit stereo
      const began = performance.now();
      const tick = setInterval(() => {
        const seconds = (performance.now() - began) / 1000;
        this.say(`Recording: ${clock(seconds)}`);
        if (seconds >= most) recording.stop();
      }, 250);
      recording.ondataavailable = (event) => parts.push(event.data);
      recording.onstop = async () => {
        clearInterval(tick);
        for (const track of stream.getTracks()) track.stop();
        this.recording = null;
        this.showRecorder();
        try {
          this.send(await asWav(new Blob(parts)), "Recording.wav");
        } catch {
          this.say("The recording is empty.", "bad");
        }
      };
      recording.start();
      this.showRecorder();
    }
  }

  /** A recording as a WAV file of 16 bits, which every server reads without a decoder. */
  async function asWav(blob) {
    const context = new OfflineAudioContext(1, 1, RECORDING_RATE);
    const sound = await context.decodeAudioData(await blob.arrayBuffer());
    const channels = sound.numberOfChannels;
    const bytes = 2 * channels * sound.length;
    const view = new DataView(new ArrayBuffer(44 + bytes));
    const text = (place, letters) => [...letters].forEach((c, i) => view.setUint8(place + i, c.charCodeAt(0)));
    text(0, "RIFF");
    view.setUint32(4, 36 + bytes, true);
    text(8, "WAVEfmt ");
    view.setUint32(16, 16, true);
    view.setUint16(20, 1, true); // PCM
    view.setUint16(22, channels, true);
    view.setUint32(24, sound.sampleRate, true);
    view.setUint32(28, 2 * channels * sound.sampleRate, true);
    view.setUint16(32, 2 * channels, true);
    view.setUint16(34, 16, true);
    text(36, "data");
    view.setUint32(40, bytes, true);
    for (let channel = 0; channel < channels; channel++) {
      const samples = sound.getChannelData(channel);
      for (let i = 0; i < samples.length; i++) {
        const value = Math.max(-1, Math.min(1, samples[i]));
        view.setInt16(44 + 2 * (i * channels + channel), Math.round(32767 * value), true);
      }
    }
    return new Blob([view.buffer], { type: "audio/wav" });
  }

  // ---- Stems that are heard together: pieces of all of them are fetched together, and start at the same sample.

  class Player {
    constructor(given, changed) {
      this.given = given;
      this.changed = changed; // called when it starts, stops, or has something to say
      this.seconds = given.samples / given.rate;
      this.at = 0; // where it rests, in seconds
      this.run = null; // what is played now; a new object each time, so that an old one knows that it is over
      this.gains = Object.fromEntries(Object.keys(given.stems).map((stem) => [stem, 1]));
    }

    get playing() {
      return this.run !== null;
    }

    get position() {
      const origin = this.run?.origin;
      if (origin == null) return this.at;
      return Math.min(Math.max(this.context.currentTime - origin, this.at), this.seconds);
    }

    open() {
      if (this.context) return;
      try {
        this.context = new AudioContext({ sampleRate: this.given.rate });
      } catch {
        this.context = new AudioContext(); // a rate that this browser can't play; it resamples each piece
      }
      this.nodes = {};
      for (const [stem, gain] of Object.entries(this.gains)) {
        this.nodes[stem] = new GainNode(this.context, { gain });
        this.nodes[stem].connect(this.context.destination);
      }
    }

    setGain(stem, gain) {
      this.gains[stem] = gain;
      this.nodes?.[stem].gain.setTargetAtTime(gain, this.context.currentTime, 0.015); // without a click
    }

    async piece(stem, start, count, signal) {
      const { address, channels, rate, run } = this.given;
      const query = `start=${start}&count=${count}&run=${run}`;
      const answer = await fetch(`${address}/pieces/${stem}?${query}`, { signal });
      if (!answer.ok) throw new Error(await answer.text());
      const samples = new Float32Array(await answer.arrayBuffer());
      const buffer = new AudioBuffer({ length: count, numberOfChannels: channels, sampleRate: rate });
      for (let channel = 0; channel < channels; channel++) {
        const data = buffer.getChannelData(channel);
        for (let i = 0; i < count; i++) data[i] = samples[i * channels + channel];
      }
      return buffer;
    }

    async play() {
      this.open();
      const run = (this.run = { origin: null, sources: new Set(), fetching: new AbortController() });
      this.changed();
      try {
        await this.context.resume();
        await this.schedule(run);
      } catch (error) {
        if (run !== this.run) return;
        this.pause();
        this.changed(sentence(error));
      }
    }

    async schedule(run) {
      const { rate, samples, stems } = this.given;
      const wait = () => new Promise((done) => setTimeout(done, 100));
      let next = Math.min(Math.round(this.at * rate), samples - 1);
      while (next < samples) {
        if (run.origin !== null && next / rate - this.position > AHEAD) {
          await wait();
        } else {
          const count = Math.min(PIECE * rate, samples - next);
          const { signal } = run.fetching;
          const buffers = await Promise.all(Object.keys(stems).map((stem) => this.piece(stem, next, count, signal)));
          if (run !== this.run) return;
          const earliest = Math.ceil((this.context.currentTime + 0.05) * rate) / rate;
          // If a piece comes late, all stems wait for it together.
          if (run.origin === null || run.origin + next / rate < earliest) run.origin = earliest - next / rate;
          Object.keys(stems).forEach((stem, i) => {
            const source = new AudioBufferSourceNode(this.context, { buffer: buffers[i] });
            source.connect(this.nodes[stem]);
            source.onended = () => run.sources.delete(source);
            source.start(run.origin + next / rate);
            run.sources.add(source);
          });
          next += count;
        }
        if (run !== this.run) return;
      }
      while (run === this.run && this.position < this.seconds) await wait();
      if (run !== this.run) return;
      this.pause();
      this.at = 0;
      this.changed();
    }

    pause() {
      this.at = this.position;
      for (const source of this.run?.sources ?? []) source.stop();
      this.run?.fetching.abort();
      this.run = null;
      this.changed();
    }

    seek(seconds) {
      const playing = this.playing;
      if (playing) this.pause();
      this.at = Math.min(Math.max(seconds, 0), this.seconds);
      if (playing) this.play();
      else this.changed();
    }

    close() {
      if (this.playing) this.pause();
      this.context?.close();
    }
  }

  // ---- The player's face: a clock, a volume and a spectrogram for each stem, the mask, and the files.

  class Mixer extends HTMLElement {
    connectedCallback() {
      if (this.given) return;
      const given = (this.given = JSON.parse(this.dataset.given));
      this.player = new Player(given, (said) => this.show(said));
      this.faders = {};
      this.heads = [];
      this.append(...this.transport(), ...Object.keys(given.stems).map((stem) => this.track(stem)));
      if (given.mask) this.append(this.mask());
      this.append(this.downloads());
      this.mix("all"); // they add up to the mixture, which is there to be compared
      this.show();
    }

    disconnectedCallback() {
      this.player.close();
    }

    static observedAttributes = ["data-given"];

    /** Gradio keeps the element for the next song: it only takes its children away and gives it new data. */
    attributeChangedCallback(name, before) {
      if (before === null || !this.given) return;
      this.player.close();
      this.given = null;
      queueMicrotask(() => {
        this.replaceChildren();
        this.connectedCallback();
      });
    }

    get off() {
      return this.given.decibels[0];
    }

    transport() {
      this.button = make("button", { type: "button", className: "svs-play" });
      this.button.onclick = () => (this.player.playing ? this.player.pause() : this.player.play());
      this.time = make("output", { className: "svs-time" });
      const { seconds } = this.player;
      this.place = make("input", { type: "range", min: 0, max: seconds, step: 0.01, value: 0, className: "svs-place" });
      this.place.setAttribute("aria-label", "Position");
      this.dragged = null; // where its handle is, in seconds, until it is let go
      this.place.oninput = () => {
        this.dragged = Number(this.place.value);
        this.show();
      };
      // Firefox tells of no change if it is let go where it was taken.
      this.place.onchange = this.place.onpointerup = () => {
        if (this.dragged === null) return;
        const seconds = this.dragged;
        this.dragged = null;
        this.player.seek(seconds);
      };
      this.place.onkeydown = (event) => {
        const step = { ArrowLeft: -KEY_STEP, ArrowDown: -KEY_STEP, ArrowRight: KEY_STEP, ArrowUp: KEY_STEP }[event.key];
        if (!step) return;
        event.preventDefault(); // of a hundredth of a second
        this.player.seek(this.player.position + step);
      };
      this.said = make("p", { className: "svs-state bad", role: "status", hidden: true });
      const mixes = make("div", { className: "svs-mixes", role: "group" });
      mixes.setAttribute("aria-label", "Mixes");
      const { stems, mixture } = this.given;
      const names = { all: "Everything" };
      if ("vocals" in stems && "accompaniment" in stems) names.karaoke = "Karaoke";
      for (const [stem, title] of Object.entries(stems)) {
        if (stem !== mixture) names[stem] = `${title} only`;
      }
      names[mixture] = "Original";
      this.presets = {};
      for (const [name, label] of Object.entries(names)) {
        const button = make("button", { type: "button", className: "svs-button", textContent: label });
        button.onclick = () => this.mix(name);
        this.presets[name] = button;
        mixes.append(button);
      }
      const title = make("h2", { textContent: this.given.name });
      const row = make("div", { className: "svs-row svs-transport" }, this.button, this.place, this.time);
      return [title, row, mixes, this.said];
    }

    /** The volumes of a mix that has a name. */
    volumes(name) {
      const { stems, mixture } = this.given;
      const of = (stem) => {
        if (name === "all") return stem === mixture ? this.off : 0;
        if (name === "karaoke") return { vocals: KARAOKE, accompaniment: 0 }[stem] ?? this.off;
        return stem === name ? 0 : this.off;
      };
      return Object.fromEntries(Object.keys(stems).map((stem) => [stem, of(stem)]));
    }

    mix(name) {
      this.set(this.volumes(name));
    }

    set(volumes) {
      for (const [stem, decibels] of Object.entries(volumes)) {
        const { slider, value } = this.faders[stem];
        slider.value = decibels;
        const text = decibels <= this.off ? "off" : inDecibels(decibels);
        value.textContent = text;
        slider.setAttribute("aria-valuetext", text);
        this.faders[stem].card.classList.toggle("off", decibels <= this.off);
        this.player.setGain(stem, decibels <= this.off ? 0 : 10 ** (decibels / 20));
      }
      const now = this.now();
      for (const [name, button] of Object.entries(this.presets)) {
        const same = Object.entries(this.volumes(name)).every(([stem, decibels]) => now[stem] === decibels);
        button.setAttribute("aria-pressed", same);
      }
    }

    /** The volumes as they are set. */
    now() {
      return Object.fromEntries(Object.entries(this.faders).map(([stem, { slider }]) => [stem, Number(slider.value)]));
    }

    track(stem) {
      const title = this.given.stems[stem];
      const [min, max] = this.given.decibels;
      const slider = make("input", { type: "range", min, max, step: 1, value: 0 });
      slider.setAttribute("aria-label", `${title} volume`);
      slider.oninput = () => this.set({ [stem]: Number(slider.value) });
      const value = make("output", { className: "svs-value" });
      const head = make("div", { className: "svs-row" }, make("h3", { textContent: title }), slider, value);
      const card = make("section", { className: "svs-track" }, head, this.picture(stem, `Spectrogram of the ${title.toLowerCase()}`));
      this.faders[stem] = { slider, value, card };
      return card;
    }

    mask() {
      const note = make("p", { className: "svs-note" });
      note.append("What is taken for vocals: ", make("b", { className: "svs-scale" }), " nothing to all, at each time and frequency");
      const head = make("div", { className: "svs-row" }, make("h3", { textContent: "Mask" }), note);
      return make("section", { className: "svs-track svs-mask" }, head, this.picture(this.given.mask, "Mask of the vocals"));
    }

    picture(name, description) {
      const image = make("img", { src: `${this.given.address}/pictures/${name}.webp?run=${this.given.run}`, alt: description });
      const playhead = make("i", { className: "svs-head" });
      this.heads.push(playhead);
      const picture = make("div", { className: "svs-picture" }, image, playhead);
      const [low, high] = this.given.hz.map(Math.log);
      for (const hz of [100, 1000, 10000]) {
        const height = (Math.log(hz) - low) / (high - low);
        if (height < 0.06 || height > 0.94) continue;
        const label = make("span", { className: "svs-hz", textContent: hz < 1000 ? `${hz} Hz` : `${hz / 1000} kHz` });
        label.style.bottom = `${100 * height}%`;
        picture.append(label);
      }
      picture.onclick = (event) => {
        const box = picture.getBoundingClientRect();
        this.player.seek(((event.clientX - box.left) / box.width) * this.player.seconds);
      };
      return picture;
    }

    downloads() {
      const { formats, stems, mixture, mix } = this.given;
      this.format = make("select", {}, ...Object.entries(formats).map(([value, text]) => make("option", { value, textContent: text })));
      this.format.setAttribute("aria-label", "Format");
      this.failed = make("p", { className: "svs-state bad", role: "status" });
      const names = { ...stems, [mix]: "This mix" };
      delete names[mixture];
      const row = make("div", { className: "svs-files" }, this.format);
      for (const [stem, title] of Object.entries(names)) {
        const button = make("button", { type: "button", className: "svs-button svs-file", textContent: title });
        button.setAttribute("aria-label", `Download: ${title}`);
        button.onclick = () => this.download(stem, button);
        row.append(button);
      }
      return make("section", { className: "svs-track svs-downloads" }, make("h3", { textContent: "Download" }), row, this.failed);
    }

    /** Save a file once it is whole: writing it takes the server a moment, and may fail. */
    async download(stem, button) {
      const { address, name, run, mix } = this.given;
      const extension = this.format.value;
      const query = new URLSearchParams({ ...(stem === mix ? this.now() : {}), run });
      this.failed.textContent = "";
      button.disabled = true;
      try {
        const answer = await fetch(`${address}/files/${stem}.${extension}?${query}`);
        if (!answer.ok) throw new Error(await answer.text());
        const url = URL.createObjectURL(await answer.blob());
        make("a", { href: url, download: `${name} - ${stem}.${extension}` }).click();
        setTimeout(() => URL.revokeObjectURL(url), 60000);
      } catch (error) {
        this.failed.textContent = sentence(error);
      } finally {
        button.disabled = false;
      }
    }

    show(said = "") {
      const { playing, seconds } = this.player;
      const position = this.dragged ?? this.player.position;
      if (this.button.dataset.playing !== String(playing)) {
        this.button.dataset.playing = playing;
        this.button.replaceChildren(icon(playing ? "pause" : "play"));
        this.button.setAttribute("aria-label", playing ? "Pause" : "Play");
      }
      if (said || playing) {
        this.said.textContent = said;
        this.said.hidden = !said;
      }
      this.time.textContent = `${clock(position)} / ${clock(seconds)}`;
      this.place.value = position;
      this.place.setAttribute("aria-valuetext", `${clock(position)} of ${clock(seconds)}`);
      for (const head of this.heads) head.style.left = `${(100 * position) / seconds}%`;
      if (playing && !this.drawing) {
        this.drawing = requestAnimationFrame(() => {
          this.drawing = null;
          this.show();
        });
      }
    }
  }

  customElements.define("svs-song", SongInput);
  customElements.define("svs-mixer", Mixer);
})();
