// The calls of one day, in pages, each with a way to its trace.

import {ask} from "./asking.mjs";
import {element, fill, number, table} from "./dom.mjs";

const PAGE = 100;
const FILTERS = {key_id: "Key", model: "Model", source: "Source"};
const COLUMNS = [{name: "Time, UTC"}, {name: "Key"}, {name: "Model"}, {name: "Worker"}, {name: "Source"},
  {name: "Outcome"}, {name: "Prompt", number: true}, {name: "Cached", number: true},
  {name: "Completion", number: true}, {name: "Reasoning", number: true}];

/** Lead to the session of a call's trace; say so if there is none. */
async function follow(id, said) {
  try {
    const trace = await ask("GET", `api/traces/${id}`);
    if (trace.session_id) {
      location.hash = `#traces/${encodeURIComponent(trace.session_id)}`;
      return;
    }
    fill(said, "This call belongs to no session. ",
      element("a", {href: `dashboard/api/traces/${id}`, download: `${id}.json`}, "Its trace as JSON"));
  } catch (error) {
    fill(said, `Trace ${id}: ${error.message}`);
  }
}

function line(call, said) {
  const repeated = call.repeated ? ", ran again" : "", counted = call.counted ? " (counted here)" : "";
  return [
    new Date(1000 * call.time).toISOString().slice(11, 23), call.key, call.model || "–",
    call.worker || "–", call.source,
    element("span", {class: call.outcome === "success" ? null : "bad"}, call.outcome + repeated),
    number(call.prompt_tokens), number(call.cached_tokens), `${number(call.completion_tokens)}${counted}`,
    number(call.reasoning_tokens),
    ...(document.getElementById("traces") === null ? [] : [element("button", {
      type: "button", "aria-label": `Trace of the call at ${new Date(1000 * call.time).toISOString()}`,
      onclick: () => follow(call.trace_id, said),
    }, "Trace")]),
  ];
}

function told(found, day) {
  if (found.data.length > 0) return null;
  const gone = found.kept_from !== null && day < found.kept_from;
  return element("p", {class: "quiet"}, gone
    ? `Calls are kept from ${found.kept_from} on (usage.keep_calls_days).` : "No call is like this.");
}

/** Show the calls of a day, "20261121", and of the key, model and source that the form names. */
export async function calls(view, day) {
  const inputs = Object.fromEntries(Object.keys(FILTERS).map(name =>
    [name, element("input", {type: "text", size: 12})]));
  const shown = element("div", {}), said = element("p", {role: "status"});
  const columns = document.getElementById("traces") === null ? COLUMNS : [...COLUMNS, {name: "Trace"}];
  async function look(after) {
    const query = new URLSearchParams({day, limit: PAGE, ...(after === null ? {} : {after})});
    for (const [name, input] of Object.entries(inputs)) if (input.value) query.set(name, input.value);
    try {
      const found = await ask("GET", `api/monitor/calls?${query}`);
      const rows = found.data.map(one => line(one, said));
      fill(shown, told(found, day), rows.length === 0 ? null : table("Calls, the newest first", columns, rows),
        element("p", {class: "actions"},
          after === null ? null : element("button", {type: "button", onclick: () => look(null)}, "Newest"),
          found.next === null ? null
            : element("button", {type: "button", onclick: () => look(found.next)}, "Older calls")));
    } catch (error) {
      fill(shown, element("p", {class: "bad"}, error.message));
    }
  }
  const submit = event => {
    event.preventDefault();
    look(null);
  };
  fill(view, element("p", {}, element("a", {href: "#reports"}, "All days")),
    element("h3", {}, `Calls of ${day.slice(0, 4)}-${day.slice(4, 6)}-${day.slice(6)}`),
    element("form", {class: "actions", role: "search", onsubmit: submit},
      Object.entries(inputs).map(([name, input]) => element("label", {}, `${FILTERS[name]} `, input)),
      element("button", {}, "Search")), said, shown);
  await look(null);
}
