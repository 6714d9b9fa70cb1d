// One call: why it is as it is, its times, and its request beside its answer.

import {element, seconds, table} from "./dom.mjs";
import {why} from "./words.mjs";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 600;
const MAX_TEXT = 200_000; // characters of a request or an answer that are shown

function bar(parts, total) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} 20`);
  svg.setAttribute("class", "waterfall");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (const {name, start, end} of parts) {
    const one = document.createElementNS(SVG, "rect");
    one.setAttribute("x", WIDTH * start / total);
    one.setAttribute("width", Math.max(WIDTH * (end - start) / total, 1));
    one.setAttribute("y", 2);
    one.setAttribute("height", 16);
    one.setAttribute("class", name.replace(" ", "-"));
    svg.append(one);
  }
  return svg;
}

/** The parts of a call's time, in milliseconds from its start. */
function times(trace) {
  const {queue_ms: queue, ttft_ms: ttft, total_ms: total} = trace.timings;
  const last = trace.attempts.at(-1), connected = last?.connected_ms ?? queue;
  const first = ttft ?? total;
  return [
    {name: "queue", start: 0, end: queue}, {name: "connect", start: queue, end: connected},
    {name: "first token", start: connected, end: first}, {name: "stream", start: first, end: total},
  ].filter(one => one.end > one.start);
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function curl(trace) {
  return `curl ${quoted(location.origin + trace.path)} -H "authorization: Bearer $KEY" `
    + `-H 'content-type: application/json' -d ${quoted(JSON.stringify(trace.raw_request))}`;
}

function download(name, text) {
  const link = element("a", {
    href: URL.createObjectURL(new Blob([text], {type: "application/json"})), download: name,
  });
  link.click();
  URL.revokeObjectURL(link.href);
}

function shown(title, value) {
  const text = JSON.stringify(value, null, 2) ?? "nothing";
  const cut = text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}\n… ${text.length} characters` : text;
  return element("div", {}, element("h5", {}, title),
    element("pre", {class: "log scroll", tabindex: 0, "aria-label": title}, cut));
}

/** Return which program made the call, what for, and which session began the call's. */
function maker({name, agent_id: agent, call_kind: kind, parent_session_id: parent}) {
  const said = [name, agent === null ? null : `agent ${agent}`, kind === null ? null : `kind ${kind}`];
  return element("p", {}, `Harness: ${said.filter(one => one !== null).join(", ")}`,
    parent === null ? null : element("span", {}, ", from session ",
      element("a", {href: `#traces/${encodeURIComponent(parent)}`}, parent)));
}

/** Return the view of a trace. */
export function turn(trace) {
  const parts = times(trace), total = Math.max(trace.timings.total_ms, 0.001);
  const attempts = trace.attempts.map(one => [one.worker, one.status ?? "–", one.error ?? "–",
    seconds(one.started_ms / 1000), one.ended_ms === null ? "–" : seconds(one.ended_ms / 1000)]);
  const columns = ["Worker", "Status", "Error", "Began after", "Ended after"].map(name => ({name}));
  return element("div", {class: "turn"},
    element("p", {}, element("span", {
      class: `badge ${trace.verdict === "COMPLETE" ? "good" : "bad"}`,
    }, trace.verdict), " ", why(trace.reasons)),
    trace.error === null ? null : element("p", {class: "bad"}, trace.error),
    trace.harness === null ? null : maker(trace.harness),
    bar(parts, total),
    element("p", {class: "legend"}, parts.map(one => element("span", {class: one.name.replace(" ", "-")},
      `${one.name} ${seconds((one.end - one.start) / 1000)}`))),
    attempts.length > 1 ? table("Attempts", columns, attempts) : null,
    element("p", {class: "actions"},
      element("button", {
        type: "button", onclick: event => navigator.clipboard.writeText(curl(trace)).then(
          () => { event.target.textContent = "Copied"; }),
      }, "Copy as curl"),
      element("button", {
        type: "button",
        onclick: () => download(`${trace.trace_id}.jsonl`, `${JSON.stringify(trace)}\n`),
      }, "Download as a JSON line"),
      element("a", {
        href: `dashboard/api/traces/${trace.trace_id}?format=parquet`, download: `${trace.trace_id}.parquet`,
      }, "Download as a Parquet row")),
    element("div", {class: "beside"}, shown("Request", trace.raw_request),
      shown("Answer", trace.choices.map(one => one.message ?? one.text))));
}
