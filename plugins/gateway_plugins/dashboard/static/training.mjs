// Health of training data: which share can be trained on, what costs most, and what to do about it.

import {ask} from "./asking.mjs";
import {chart, widthOf} from "./charts.mjs";
import {element, fill, number, share, table} from "./dom.mjs";

const DAY = 86_400;
const SPANS = {"the last day": 1, "the last week": 7, "the last month": 31};
const BY_DAY = 2; // spans of more days are drawn by the day

/** Add up hours to steps of so many seconds, each with its beginning. */
export function steps(hours, length) {
  const found = new Map();
  for (const {at, ...counts} of hours) {
    const begin = Math.floor(at / length) * length;
    const sum = found.get(begin) ?? {};
    for (const [name, count] of Object.entries(counts)) sum[name] = (sum[name] ?? 0) + count;
    found.set(begin, sum);
  }
  return [...found].map(([at, sum]) => ({at, ...sum}));
}

/** Return a part in percent, null if there is no whole. */
function percent(count, whole) {
  return whole === 0 ? null : 100 * count / whole;
}

function drawing(view, hours, days) {
  const length = days > BY_DAY ? DAY : 3600;
  const found = steps(hours, length);
  const form = length === DAY ? {month: "short", day: "numeric"} : {hour: "2-digit", minute: "2-digit"};
  const labels = found.map(one => new Date(1000 * one.at).toLocaleString("en-GB", form));
  const series = [
    {name: "COMPLETE calls", kind: "good", values: found.map(one => percent(one.complete_calls, one.calls))},
    {name: "trainable tokens", kind: "c0", values: found.map(one => percent(one.trainable_tokens, one.sampled_tokens))},
  ];
  return chart({
    title: "Percent that can be trained on", labels, series, form: "lines",
    what: length === DAY ? "day" : "hour", width: widthOf(view),
  });
}

const COLUMNS = [
  {name: "calls", number: true}, {name: "COMPLETE"},
  {name: "sessions", number: true}, {name: "without a gap"},
  {name: "sampled tokens", number: true}, {name: "trainable"},
];

function cells(one) {
  const bar = (count, whole) => whole === 0 ? "–" : share(count / whole, false);
  return [
    number(one.calls), bar(one.complete_calls, one.calls),
    number(one.sessions), bar(one.complete_sessions, one.sessions),
    number(one.sampled_tokens), bar(one.trainable_tokens, one.sampled_tokens),
  ];
}

function groups(title, head, found) {
  const rows = found.map(one => [one.name || "none", ...cells(one)]);
  return found.length === 0 ? null : table(title, [{name: head}, ...COLUMNS], rows);
}

function reasons(found) {
  if (found.length === 0) return element("p", {class: "good"}, "No call was INCOMPLETE.");
  const columns = [
    {name: "reason"}, {name: "calls", number: true}, {name: "lost tokens", number: true}, {name: "what to do"},
  ];
  return table("Why calls were INCOMPLETE", columns, found.map(one =>
    [element("code", {}, one.reason), number(one.calls), number(one.tokens), one.what_to_do]));
}

function shown(view, found, days) {
  if (found.total.calls === 0) return [element("p", {class: "quiet"}, "No call was recorded in this time.")];
  return [
    drawing(view, found.hours, days),
    reasons(found.reasons),
    groups("All calls", "of", [{name: "all", ...found.total}]),
    groups("By harness", "harness", found.harnesses),
    groups("By worker", "worker", found.workers),
    groups("By model", "model", found.models),
  ];
}

/** Show the shares of the span that is chosen. */
export async function training(view) {
  const select = element("select", {id: "span"},
    Object.entries(SPANS).map(([name, days]) => element("option", {value: days}, name)));
  const place = element("div", {"aria-live": "polite"});
  async function show() {
    const days = Number(select.value), since = Math.floor(Date.now() / 1000) - days * DAY;
    try {
      fill(place, ...shown(view, await ask("GET", `api/health/training?since=${since}`), days));
    } catch (error) {
      fill(place, element("p", {class: "bad"}, error.message));
    }
  }
  select.addEventListener("change", show);
  const again = element("button", {type: "button", onclick: show}, "Look again");
  fill(view, element("p", {class: "actions"}, element("label", {for: "span"}, "Calls of"), select, again), place);
  await show();
}
