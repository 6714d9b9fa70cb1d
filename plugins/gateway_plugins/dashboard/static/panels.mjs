// The tables that plugins offer, each as its columns say what it holds.

import {ofPanel, ofRows, problem} from "./actions.mjs";
import {ago, bytes, element, fill, number, seconds, share, table} from "./dom.mjs";

const paused = new Set();
const logs = new Map();

function shown(column, cell) {
  if (cell === null) return "–";
  if (column === "day") return element("a", {href: `#reports/${cell.replaceAll("-", "")}`}, cell);
  if (typeof cell === "boolean") return cell ? "yes" : "no";
  if (typeof cell !== "number") return cell;
  if (column.endsWith("_at")) return ago(cell);
  if (column.endsWith("_s")) return seconds(cell);
  if (column.endsWith("_bytes")) return bytes(cell);
  if (column.endsWith("_share")) return share(cell, column.startsWith("used"));
  return number(cell);
}

function head(column) {
  return column.replace(/_(at|s|bytes|share)$/, "").replaceAll("_", " ");
}

/** A log is text, which can be held still to be read. */
function log(name, part, redraw) {
  if (!paused.has(name)) logs.set(name, part.rows.map(row => row[part.columns.indexOf("line")]));
  const toggle = () => {
    if (!paused.delete(name)) paused.add(name);
    redraw();
  };
  return [
    element("button", {
      type: "button", "data-id": `pause:${name}`, onclick: toggle,
    }, paused.has(name) ? "Go on" : "Pause"),
    element("pre", {class: "log scroll", tabindex: 0, "aria-label": part.title},
      logs.get(name).join("\n")),
  ];
}

/** Return a link to the rows of a panel as a file. */
export function csv(name, words) {
  return element("a", {href: `dashboard/panels/${encodeURIComponent(name)}?format=csv`, download: ""}, words);
}

/** Return a panel: its table or its log, and what people may do with its rows. */
export function body(name, part, redraw) {
  if (part.error !== null) return element("p", {class: "bad"}, part.error);
  if (part.rows.length === 0) {
    return [problem(name), element("p", {class: "quiet"}, "Nothing now.")];
  }
  if (part.columns.includes("line")) return log(name, part, redraw);
  const columns = part.columns.map((one, place) => ({
    name: head(one), number: !one.endsWith("_share") && part.rows.some(row => typeof row[place] === "number"),
  }));
  const buttons = ofRows(name, part, redraw);
  const rows = part.rows.map(row => [
    ...row.map((cell, place) => shown(part.columns[place], cell)),
    ...(buttons === null ? [] : [buttons(row)]),
  ]);
  if (buttons !== null) columns.push({name: "actions"});
  const rest = part.total === null || part.total <= rows.length ? ""
    : ` (the first ${rows.length} of ${number(part.total)})`;
  return [problem(name), ofPanel(name, part, redraw), table(part.title + rest, columns, rows)];
}

export function panels(view, parts) {
  const redraw = () => panels(view, parts);
  // A panel of a plugin has its name before a dot.
  const found = [...parts].filter(([name]) => name.includes(".") && !name.endsWith(".evaluations"));
  fill(view, ...found.flatMap(([name, part]) =>
    [element("h3", {}, part.title), body(name, part, redraw)].flat().filter(one => one !== null)));
}
