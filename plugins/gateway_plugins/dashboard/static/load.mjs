// What the gateway had to do in the last hours: requests, calls in flight, and the queue.

import {chart, widthOf} from "./charts.mjs";
import {ago, element, fill} from "./dom.mjs";

const FIELDS = ["number", "successes", "errors", "aborts", "in_flight", "queued", "running"];
const LEAST = 30; // minutes of a chart
const opened = new Set(); // titles of the charts whose tables are open

function clock(minute) {
  return new Date(60_000 * minute).toLocaleTimeString("en-GB", {hour: "2-digit", minute: "2-digit"});
}

/** Return every minute up to the last one, LEAST at least; those in which nothing was seen are empty. */
export function filled(minutes) {
  const found = minutes.map(row => Object.fromEntries(FIELDS.map((name, at) => [name, row[at]])));
  const known = new Map(found.map(one => [one.number, one]));
  if (found.length === 0) return [];
  const last = found.at(-1).number, first = Math.min(found[0].number, last - LEAST + 1);
  const count = last - first + 1;
  return Array.from({length: count}, (_, step) => known.get(first + step) ?? {number: first + step});
}

function series(minutes, names) {
  return Object.entries(names).map(([field, [name, kind]]) =>
    ({name, kind, values: minutes.map(one => one[field] ?? null)}));
}

const CHARTS = [
  {title: "Requests per minute", form: "bars", fields: {
    successes: ["successes", "good"], errors: ["errors", "failed"], aborts: ["aborts", "other"],
  }},
  {title: "Most calls in flight", form: "lines", fields: {in_flight: ["calls", "c0"]}},
];
const QUEUE = {title: "Length of the queue", form: "lines", fields: {
  queued: ["waiting items", "c0"], running: ["running items", "c2"],
}};

/** A minute in which the queue was not looked at is like the one before. */
function carried(minutes) {
  let last = {queued: null, running: null};
  return minutes.map(one => {
    if (one.queued !== null && one.queued !== undefined) last = {queued: one.queued, running: one.running};
    return {...one, ...last};
  });
}

/** Say what is in flight now, and how long ago the latest calls were. */
function now(found) {
  const sources = Object.entries(found.in_flight).filter(([, count]) => count > 0);
  const total = sources.reduce((sum, [, count]) => sum + count, 0);
  const parts = sources.map(([name, count]) => `${count} ${name}`).join(", ");
  return element("p", {}, `${total} ${total === 1 ? "call" : "calls"} in flight`,
    total === 0 ? "" : ` (${parts})`, `. Latest request to a worker ${ago(found.requested_at)}, `,
    `success ${ago(found.succeeded_at)}, failure ${ago(found.failed_at)}; `,
    `latest realtime call ${ago(found.realtime_at)}.`);
}

export function load(view, parts) {
  const found = parts.get("load");
  if (found === undefined) return;
  if (found.minutes === undefined) {
    fill(view, element("p", {class: "bad"}, found.error));
    return;
  }
  const minutes = filled(found.minutes), labels = minutes.map(one => clock(one.number));
  const width = widthOf(view);
  const draw = ({title, form, fields}, rows) => chart({
    title, form, labels, width, what: "minute", series: series(rows, fields), open: opened.has(title),
    ontoggle: event => event.target.open ? opened.add(title) : opened.delete(title),
  });
  fill(view, now(found), ...CHARTS.map(one => draw(one, minutes)),
    found.has_queue ? draw(QUEUE, carried(minutes)) : null);
}
