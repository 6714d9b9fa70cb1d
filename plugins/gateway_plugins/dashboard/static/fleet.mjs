// The workers: what they do, why they get no calls, and what an operator may do about it.

import {ask, confirmed} from "./asking.mjs";
import {ago, element, fill, number, seconds, table} from "./dom.mjs";

const COLUMNS = [
  {name: "Worker"}, {name: "State"}, {name: "Models"},
  {name: "In flight", number: true}, {name: "Limit", number: true},
  {name: "Calls, 1 h", number: true},
  {name: "TTFT p50", number: true}, {name: "TTFT p95", number: true},
  {name: "ITL p50", number: true}, {name: "ITL p95", number: true},
  {name: "Weights"}, {name: "Last error"}, {name: "Actions"},
];

let problem = null;

async function act(worker, label, text, method, end, redraw) {
  const title = `${label} ${worker.worker_id}?`;
  if (!await confirmed(title, text, label)) return;
  try {
    await ask(method, `api/admin/workers/${encodeURIComponent(worker.worker_id)}${end}`);
    problem = null;
  } catch (error) {
    problem = `${title}: ${error.message}`;
  }
  redraw();
}

function conditions(worker) {
  const found = Object.entries(worker.conditions);
  const word = element("span", {class: `badge ${worker.healthy ? "good" : "bad"}`}, worker.state);
  if (found.length === 0) return word;
  return element("div", {}, word, found.map(([owner, one]) => element("div",
    {class: one.blocks ? "bad" : "warn"},
    `${owner}: ${one.state}, ${one.reason} (${ago(one.since)})`)));
}

function actions(worker, redraw) {
  const id = worker.worker_id, drained = "drain" in worker.conditions;
  const button = (label, name, text, method, end, kind) => element("button", {
    type: "button", class: kind, "data-id": `${label}:${id}`, "aria-label": `${label} ${id}`,
    onclick: () => act(worker, label, text, method, end, redraw),
  }, label);
  return element("div", {class: "actions"},
    drained
      ? button("Undrain", id, "The worker gets calls again.", "POST", "/undrain")
      : button("Drain", id, "The worker gets no new calls; those in flight end.", "POST", "/drain"),
    button("Eject", id, "The worker is removed from the fleet; calls in flight end.", "DELETE", "",
      "danger"));
}

export function fleet(view, parts) {
  const found = parts.get("fleet");
  if (found === undefined) return;
  const redraw = () => fleet(view, parts);
  const admin = view.dataset.admin !== undefined;
  const columns = admin ? COLUMNS : COLUMNS.slice(0, -1);
  const rows = found.workers.map(one => [
    element("span", {title: one.url}, one.worker_id), conditions(one),
    one.models === null ? "–" : one.models.join(", "),
    number(one.in_flight), one.limit === null ? "–" : number(one.limit),
    number(one.hour.calls), seconds(one.hour.ttft_p50), seconds(one.hour.ttft_p95),
    seconds(one.hour.itl_p50), seconds(one.hour.itl_p95),
    one.weight_version === null ? "–" : one.weight_version,
    one.last_error === null ? "–" : `${one.last_error} (${ago(one.last_error_at)})`,
    ...(admin ? [actions(one, redraw)] : []),
  ]);
  fill(view,
    element("p", {}, `${found.healthy} of ${found.workers.length} workers take calls, `
      + `${found.in_flight} ${found.in_flight === 1 ? "call" : "calls"} in flight, ${found.processes} `
      + `${found.processes === 1 ? "process" : "processes"}`),
    problem === null ? null : element("p", {class: "bad", role: "alert"}, problem),
    table("Workers", columns, rows));
}
