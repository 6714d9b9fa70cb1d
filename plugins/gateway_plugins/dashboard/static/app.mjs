// Keeps the page up to date: by server-sent events, and by polling if those do not come.

import {element, fill} from "./dom.mjs";
import {fleet} from "./fleet.mjs";
import {panels} from "./panels.mjs";

const refresh = Number(document.querySelector('meta[name="refresh-seconds"]').content);
const state = document.getElementById("state");
const parts = new Map();
let seen = 0;

const views = {fleet, panels};

function tell(text, kind) {
  if (state.textContent !== text) state.textContent = text;
  state.className = kind;
}

/** Draw a view; one that fails says so, and leaves the others. */
function draw(name) {
  const view = document.querySelector(`[data-view="${name}"]`);
  if (view === null || !(name in views)) return;
  try {
    views[name](view, parts);
  } catch (error) {
    fill(view, element("p", {class: "bad"}, `This panel cannot be shown: ${error.message}`));
  }
}

function take(name, part) {
  if (part === null) parts.delete(name);
  else parts.set(name, part);
  draw(name === "fleet" ? "fleet" : "panels");
}

function noteSeen() {
  seen = Date.now();
  tell("Up to date", "good");
}

function listen() {
  const source = new EventSource("dashboard/events");
  source.addEventListener("part", event => {
    const {name, part} = JSON.parse(event.data);
    take(name, part);
  });
  source.addEventListener("seen", noteSeen);
  source.addEventListener("login", () => location.reload());
}

async function poll() {
  const answer = await fetch("dashboard/parts", {credentials: "same-origin"});
  if (answer.status === 401) location.reload();
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const found = await answer.json();
  for (const name of parts.keys()) if (!(name in found)) take(name, null);
  for (const [name, part] of Object.entries(found)) take(name, part);
  noteSeen();
}

/** Events may be held back on their way: then the page asks, and goes on listening. */
async function watch() {
  if (Date.now() - seen < 2500 * refresh) return;
  try {
    await poll();
  } catch {
    tell("The gateway does not answer; what is shown is old", "bad");
  }
}

listen();
setInterval(watch, Math.max(1000 * refresh, 1000));
setTimeout(watch, 1500);
