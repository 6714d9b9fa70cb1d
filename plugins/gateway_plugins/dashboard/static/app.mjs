// Keeps the page up to date: by server-sent events, and by polling if those do not come.

import {element, fill} from "./dom.mjs";
import {evaluations} from "./evaluations.mjs";
import {fleet} from "./fleet.mjs";
import {load} from "./load.mjs";
import {panels} from "./panels.mjs";
import {reports} from "./reports.mjs";
import {traces} from "./traces.mjs";
import {training} from "./training.mjs";

const refresh = Number(document.querySelector('meta[name="refresh-seconds"]').content);
const state = document.getElementById("state");
const parts = new Map();
let seen = 0;

const views = {fleet, load, panels, evaluations};
const asked = {reports, traces, training};

function tell(text, kind) {
  if (state.textContent !== text) state.textContent = text;
  state.className = kind;
}

const sections = [...document.querySelectorAll("main > section")];
const begun = new Set();

/** Draw a live view if it is in sight; one that fails says so, and leaves the others. */
function draw(name) {
  const view = document.querySelector(`section:not([hidden]) > [data-view="${name}"]`);
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
}

let pressed = false;
addEventListener("pointerdown", () => pressed = true);
for (const name of ["pointerup", "pointercancel"]) addEventListener(name, () => pressed = false);

/** Whether somebody presses a button or marks a text, which a new drawing would take away. */
function isInHand() {
  return pressed || getSelection()?.isCollapsed === false;
}

/** All that has changed is there. Drawn even if nothing has: what is shown says how long ago it was. */
function noteSeen() {
  seen = Date.now();
  tell("Up to date", "good");
  if (!isInHand()) draw(sections.find(section => !section.hidden)?.id);
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

/** Fill a view that is filled once, and then when somebody asks for more. */
function begin(name) {
  const view = document.querySelector(`[data-view="${name}"]`);
  if (begun.has(name) || !(name in asked)) return;
  begun.add(name);
  asked[name](view).catch(error =>
    fill(view, element("p", {class: "bad"}, `This panel cannot be shown: ${error.message}`)));
}

/** Show the section that the address names, the first one if it names none. */
function choose() {
  const named = location.hash.slice(1).split("/")[0];
  const chosen = sections.find(one => one.id === named) ?? sections[0];
  for (const section of sections) section.hidden = section !== chosen;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${chosen?.id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (chosen === undefined) return;
  begin(chosen.id);
  draw(chosen.id);
}

addEventListener("hashchange", choose);
choose();
listen();
setInterval(watch, Math.max(1000 * refresh, 1000));
setTimeout(watch, 1500);
