// What people may do in a panel: buttons that ask for a confirmation, then for a route.

import {ask, confirmed, may} from "./asking.mjs";
import {element} from "./dom.mjs";

const problems = new Map(); // by the name of the panel: why the last action failed

/** Return the problem of the last action in a panel, as an element; null if there is none. */
export function problem(name) {
  const text = problems.get(name);
  return text === undefined ? null : element("p", {class: "bad", role: "alert"}, text);
}

function pathOf(action, columns, row) {
  return action.path.replace(/\{(\w+)\}/g, (_, column) =>
    encodeURIComponent(row[columns.indexOf(column)]));
}

async function act(name, action, path, title, redraw) {
  if (!await confirmed(title, action.effect, action.label)) return;
  try {
    await ask(action.method, `api${path}`);
    problems.delete(name);
  } catch (error) {
    problems.set(name, `${title} ${error.message}`);
  }
  redraw();
}

function button(name, action, path, about, redraw) {
  const words = about === null ? action.label : `${action.label} ${about}`;
  return element("button", {
    type: "button", "data-id": `${name}:${words}`, "aria-label": about === null ? null : words,
    onclick: () => act(name, action, path, `${words}?`, redraw),
  }, action.label);
}

/** Return the buttons above the table of a panel. */
export function ofPanel(name, part, redraw) {
  const found = part.actions.filter(one => one.column === "" && may(one.scope));
  return found.length === 0 ? null : element("div", {class: "actions"},
    found.map(one => button(name, one, one.path, null, redraw)));
}

/** Return a function that returns the buttons of a row; null if no row can have one. */
export function ofRows(name, part, redraw) {
  const found = part.actions.filter(one => one.column !== "" && may(one.scope));
  if (found.length === 0) return null;
  return row => {
    const fit = found.filter(one =>
      one.values.includes(String(row[part.columns.indexOf(one.column)])));
    return element("div", {class: "actions"}, fit.map(one =>
      button(name, one, pathOf(one, part.columns, row), String(row[0]), redraw)));
  };
}
