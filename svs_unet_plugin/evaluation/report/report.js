"use strict";

// Errors only: Vega warns of empty axes where no system has the chosen score, and the chart's title says so.
const drawing = { mode: "vega", renderer: "svg", actions: false, defaultStyle: false, logLevel: 1 };
for (const [id, chart] of Object.entries(JSON.parse(document.getElementById("charts").textContent))) {
  vegaEmbed(`#${id}`, chart, drawing);
}

const source = document.getElementById("source");
source.oninput = () => {
  for (const part of document.querySelectorAll("[data-of]")) part.hidden = part.dataset.of !== source.value;
};
source.oninput();

// One sound for all players, so that the next estimate resumes where the last one was.
const sound = new Audio();
let current = null;

function mark() {
  current.classList.toggle("playing", !sound.paused);
  if (sound.duration) current.querySelector("b").style.left = `${(100 * sound.currentTime) / sound.duration}%`;
  if (!sound.paused) requestAnimationFrame(mark);
}

function press(player) {
  if (player === current && !sound.paused) return sound.pause();
  if (player !== current) {
    const moment = player.parentElement === current?.parentElement && !sound.ended ? sound.currentTime : 0;
    current?.classList.remove("current", "playing");
    current = player;
    current.classList.add("current");
    sound.src = player.dataset.sound;
    sound.addEventListener("loadedmetadata", () => (sound.currentTime = moment), { once: true });
  }
  sound.play().catch(() => {}); // another press came before it began
}

for (const event of ["play", "pause", "ended", "seeked"]) sound.addEventListener(event, mark);
for (const player of document.querySelectorAll(".player")) player.onclick = () => press(player);
