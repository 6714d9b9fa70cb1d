// Sessions, the turns of one with their forks, and its trajectories.

import {ask, askPage} from "./asking.mjs";
import {ago, element, fill, number, share, table} from "./dom.mjs";
import {Sampled, tokens} from "./tokens.mjs";
import {turn} from "./turn.mjs";
import {CAUSES, FORK_KINDS, why} from "./words.mjs";

const SPANS = {"last hour": 3600, "last day": 86400, "last week": 604800, "all time": null};
const MAX_ROWS = 100;

function since(span) {
  return SPANS[span] === null ? null : Date.now() / 1000 - SPANS[span];
}

/** Return the query for the sessions that the form asks for, the newest first. */
function queryOf(form) {
  const from = since(form.span.value);
  const given = {
    text: form.text.value, calls_since: from, verdict: form.verdict.value, model: form.model.value,
    worker: form.worker.value, weight_version: form.weights.value,
  };
  const named = Object.entries(given).filter(([, value]) => value !== "" && value !== null);
  return new URLSearchParams([...named, ["order", "newest"], ["limit", MAX_ROWS]]);
}

const COLUMNS = [{name: "Session"}, {name: "Calls", number: true}, {name: "Incomplete", number: true},
  {name: "Lost", number: true}, {name: "Trainable tokens"}, {name: "Began"}, {name: "Last call"}];

/** What to do if there is nothing: a call with a session in its path. */
function none() {
  const call = `curl ${location.origin}/sessions/my-agent/v1/chat/completions \\\n`
    + "  -H 'content-type: application/json' \\\n"
    + `  -d '{"model": "sim", "messages": [{"role": "user", "content": "Hello"}]}'`;
  return element("div", {class: "empty"},
    element("p", {}, "No session is like this. A call is kept here if its path names a session:"),
    element("pre", {class: "log"}, call));
}

function listed(found, more) {
  const rows = found.map(one => [
    element("a", {href: `#traces/${encodeURIComponent(one.session_id)}`}, one.session_id),
    number(one.trace_count),
    element("span", {class: one.incomplete ? "bad" : "good"}, number(one.incomplete)),
    number(one.lost),
    one.sampled_tokens === 0 ? "–" : share(one.trainable_tokens / one.sampled_tokens, false), ago(one.created_at), ago(one.last_at),
  ]);
  if (found.length === 0) return [none()];
  const rest = more === null ? "" : ` (the newest ${rows.length})`;
  return [table(`Sessions${rest}`, COLUMNS, rows), more];
}

function field(label, input) {
  return element("label", {}, `${label} `, input);
}

function search() {
  const shown = element("div", {"aria-live": "polite"});
  const inputs = {
    text: element("input", {type: "search"}), model: element("input", {type: "text", size: 12}),
    worker: element("input", {type: "text", size: 12}), weights: element("input", {type: "text", size: 6}),
    span: element("select", {}, Object.keys(SPANS).map(one => element("option", {}, one))),
    verdict: element("select", {}, element("option", {value: ""}, "any"),
      element("option", {}, "COMPLETE"), element("option", {}, "INCOMPLETE")),
  };
  const show = async (query, before) => {
    try {
      const {found, next} = await askPage("GET", `api/sessions?${query}`);
      const all = [...before, ...found];
      const more = () => show(new URLSearchParams([...query].filter(([name]) => name !== "cursor")
        .concat([["cursor", next]])), all);
      fill(shown, ...listed(all, next === null ? null
        : element("button", {type: "button", onclick: more}, "Show more")));
    } catch (error) {
      fill(shown, element("p", {class: "bad"}, error.message));
    }
  };
  const look = event => {
    event?.preventDefault();
    return show(queryOf(inputs), []);
  };
  const form = element("form", {class: "actions", onsubmit: look, role: "search"},
    field("Session", inputs.text), field("When", inputs.span), field("Verdict", inputs.verdict),
    field("Model", inputs.model), field("Worker", inputs.worker), field("Weights", inputs.weights),
    element("button", {}, "Search"));
  return {form, shown, look};
}

/** Return the turns in the order of the tree, each with its depth: a fork is one step deeper. */
export function ordered(traces) {
  const known = new Set(traces.map(one => one.trace_id)), below = new Map();
  for (const one of traces) {
    const parent = known.has(one.parent_id) ? one.parent_id : null;
    below.set(parent, [...(below.get(parent) ?? []), one]);
  }
  const found = [], left = (below.get(null) ?? []).map(trace => ({trace, depth: 0})).reverse();
  while (left.length > 0) {
    const next = left.pop();
    found.push(next);
    const after = below.get(next.trace.trace_id) ?? [];
    const straight = after.find(one => one.divergence === null) ?? null;
    const forks = after.filter(one => one !== straight);
    if (straight !== null) left.push({trace: straight, depth: next.depth});
    left.push(...forks.map(trace => ({trace, depth: next.depth + 1})).reverse());
  }
  return found;
}

function verdict(said) {
  return element("span", {class: `badge ${said === "COMPLETE" ? "good" : "bad"}`}, said);
}

function line({trace, depth}, open) {
  const fork = trace.divergence === null ? ""
    : `Fork at token ${trace.divergence.at}: ${CAUSES[trace.divergence.cause] ?? trace.divergence.cause}. `;
  const retry = trace.retry_of === null ? "" : "A retry. ";
  return [
    element("button", {
      type: "button", "data-id": trace.trace_id, onclick: () => open(trace),
      class: `depth${Math.min(depth, 6)}`,
    }, new Date(1000 * trace.timestamp).toLocaleTimeString("en-GB")),
    `${fork}${retry}` || "–", trace.model, trace.worker ?? "–",
    element("div", {}, verdict(trace.verdict), " ", why(trace.reasons)),
    trace.finish_reason ?? "–", number(trace.token_counts.prompt ?? null),
    number(trace.token_counts.completion ?? null), `${number(Math.round(trace.latency_ms))} ms`,
  ];
}

const TURNS = [{name: "Turn"}, {name: "Fork"}, {name: "Model"}, {name: "Worker"}, {name: "Verdict"},
  {name: "Finish"}, {name: "Prompt", number: true}, {name: "Sampled", number: true},
  {name: "Time", number: true}];

function branch(one) {
  const from = one.branched_from === null ? "" : `, from branch ${one.branched_from}`;
  const kind = one.fork_kind === null ? "" : `, ${FORK_KINDS[one.fork_kind] ?? one.fork_kind}`;
  return `Branch ${one.index}: ${number(one.token_ids.length)} tokens, ${one.verdict}${kind}${from}`;
}

/** Show the trajectories of a session; returns a function that tells what its traces say. */
function sequences(view, found) {
  const shown = element("div", {}), choice = element("select", {id: "branch"},
    found.map((one, place) => element("option", {value: place}, branch(one))));
  let traces = new Map(), told = () => {};
  const show = () => {
    const one = found[Number(choice.value)], {view: sequence, tell} = tokens(one);
    told = () => tell(new Sampled(one, traces));
    fill(shown, element("p", {}, verdict(one.verdict), " ", why(one.reasons)), sequence);
    told();
  };
  if (found.length === 0) {
    fill(view, element("p", {class: "quiet"}, "No turn has token ids, so there is no trajectory."));
  } else {
    choice.addEventListener("change", show);
    fill(view, element("p", {}, element("label", {for: "branch"}, "Trajectory "), choice), shown);
    show();
  }
  return found => {
    traces = found;
    told();
  };
}

/** Show one session: its trajectories, which are there first, then its turns. */
async function session(view, id) {
  const path = `api/sessions/${encodeURIComponent(id)}`;
  const turns = element("div", {}, element("p", {class: "quiet"}, "Loading"));
  const detail = element("div", {"aria-live": "polite"}), below = element("div", {});
  fill(view, element("p", {}, element("a", {href: "#traces"}, "All sessions")),
    element("h3", {}, `Session ${id}`), turns, detail, below);
  const told = await ask("GET", `${path}/trajectories`);
  const tell = sequences(below, told.trajectories.slice(0, MAX_ROWS));
  const found = await ask("GET", `${path}/traces?limit=${MAX_ROWS}`);
  const rows = ordered(found).map(one => line(one, trace => fill(detail, turn(trace))));
  fill(turns, table(rows.length === MAX_ROWS ? `The first ${MAX_ROWS} turns` : "Turns", TURNS, rows));
  tell(new Map(found.map(one => [one.trace_id, one])));
}

/** Show what the address asks for: the list, or one session. */
export async function traces(view) {
  const list = search();
  const follow = async () => {
    const [section, id] = location.hash.slice(1).split("/");
    if (section !== "" && section !== "traces") return; // "": it is the first section
    if (id === undefined) {
      fill(view, list.form, list.shown);
      await list.look();
      return;
    }
    try {
      await session(view, decodeURIComponent(id));
    } catch (error) {
      fill(view, element("p", {}, element("a", {href: "#traces"}, "All sessions")),
        element("p", {class: "bad"}, error.message));
    }
  };
  addEventListener("hashchange", follow);
  await follow();
}
