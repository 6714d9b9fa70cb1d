// A trajectory as coloured tokens. Only those in sight are in the page, whatever their number.

import {element, fill} from "./dom.mjs";

const ROW = 26; // pixels, as in page.css
const CELL = 92;
const ROWS = 16; // rows in sight
const BEYOND = 4; // rows that are drawn above and below those in sight
const SHADES = [0.9, 0.5, 0.2, 0.05];

/** Return the class of a token: given, or sampled with this likely a logprob. */
function kind(trajectory, at) {
  if (trajectory.loss_mask[at] === 0) return "given";
  const logprob = trajectory.logprobs[at];
  if (logprob === null) return "sampled unknown";
  const shade = SHADES.findIndex(bound => Math.exp(logprob) >= bound);
  return `sampled p${shade === -1 ? SHADES.length : shade}`;
}

function visible(text) {
  return text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "·");
}

/** Return the alternatives of a token, as chat or as completions has them. */
function alternatives(top) {
  if (top === null || top === undefined) return [];
  const pairs = Array.isArray(top) ? top.map(one => [one.token, one.logprob]) : Object.entries(top);
  return pairs.filter(([, logprob]) => typeof logprob === "number");
}

/** Where the turns of a trajectory have sampled, and what the engines said of their tokens. */
export class Sampled {
  constructor(trajectory, traces) {
    this.texts = new Map();
    this.spans = [];
    trajectory.trace_ids.forEach((id, turn) => {
      const trace = traces.get(id), choice = trace?.choices[trajectory.choices[turn]];
      if (choice === undefined) return;
      const prompt = choice.prompt_token_ids.length || trace.prompt_token_ids.length;
      this.spans.push({start: prompt, end: prompt + choice.token_ids.length, trace, choice, turn});
    });
    for (const trace of traces.values()) for (const choice of trace.choices) {
      choice.tokens?.forEach((text, place) => this.texts.set(choice.token_ids[place], text));
    }
  }

  /** The text of a token, or its id if no engine has sent the text. */
  text(id) {
    return this.texts.get(id) ?? `#${id}`;
  }

  span(at) {
    return this.spans.find(one => at >= one.start && at < one.end);
  }
}

function detail(trajectory, sampled, at) {
  const id = trajectory.token_ids[at], logprob = trajectory.logprobs[at], span = sampled.span(at);
  const facts = [["Token", `${at + 1} of ${trajectory.token_ids.length}`], ["Id", id],
    ["Text", visible(sampled.text(id))],
    ["Loss mask", trajectory.loss_mask[at] === 1 ? "1, sampled" : "0, given"]];
  if (logprob !== null) {
    facts.push(["Logprob", `${logprob.toFixed(4)} (${(100 * Math.exp(logprob)).toFixed(1)} %)`]);
  }
  const version = trajectory.weight_versions[at];
  if (version !== null) facts.push(["Weights", version]);
  if (span !== undefined) {
    facts.push(["Turn", `${span.turn + 1}, ${span.trace.trace_id}`]);
    const others = alternatives(span.choice.top_logprobs?.[at - span.start]).slice(0, 8);
    if (others.length > 0) {
      facts.push(["Alternatives", others.map(([text, one]) =>
        `${visible(text)} ${(100 * Math.exp(one)).toFixed(1)} %`).join(", ")]);
    }
  }
  return facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
}

/** Return the view of a trajectory, and a function that tells it what its traces say. */
export function tokens(trajectory) {
  let sampled = new Sampled(trajectory, new Map());
  const count = trajectory.token_ids.length;
  const space = element("div", {class: "space"}), sight = element("div", {class: "sight"});
  const facts = element("dl", {class: "facts", "aria-live": "polite"});
  const frame = element("div", {
    class: "tokens", tabindex: 0, role: "region",
    "aria-label": `${count} tokens; arrow keys go from token to token`,
  }, space, sight);
  let columns = 1, chosen = 0, asked = false;

  function draw() {
    asked = false;
    columns = Math.max(Math.floor(frame.clientWidth / CELL), 1);
    const rows = Math.ceil(count / columns);
    space.style.height = `${rows * ROW}px`;
    frame.style.height = `${Math.min(rows, ROWS) * ROW + 4}px`;
    const first = Math.max(Math.floor(frame.scrollTop / ROW) - BEYOND, 0);
    const last = Math.min(first + Math.ceil(frame.clientHeight / ROW) + 2 * BEYOND, rows);
    sight.style.top = `${first * ROW}px`;
    const drawn = [];
    for (let at = first * columns; at < Math.min(last * columns, count); at++) {
      const one = document.createElement("span");
      one.className = kind(trajectory, at) + (at === chosen ? " chosen" : "");
      one.dataset.at = at;
      one.textContent = visible(sampled.text(trajectory.token_ids[at]));
      drawn.push(one);
    }
    sight.replaceChildren(...drawn);
  }

  function later() {
    if (!asked) requestAnimationFrame(draw);
    asked = true;
  }

  function choose(at) {
    if (count === 0) return;
    chosen = Math.min(Math.max(at, 0), count - 1);
    fill(facts, ...detail(trajectory, sampled, chosen));
    later();
  }

  function go(at) {
    choose(at);
    const top = Math.floor(chosen / columns) * ROW;
    if (top < frame.scrollTop) frame.scrollTop = top;
    if (top + ROW > frame.scrollTop + frame.clientHeight) frame.scrollTop = top + ROW - frame.clientHeight;
  }

  frame.addEventListener("scroll", later, {passive: true});
  // Not "mouseover": keys scroll tokens below a mouse that rests, which must not choose another one.
  frame.addEventListener("mousemove", event => {
    const at = event.target.dataset?.at;
    if (at !== undefined && Number(at) !== chosen) choose(Number(at));
  });
  frame.addEventListener("keydown", event => {
    const step = {
      ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns,
      Home: -count, End: count,
    }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    go(chosen + step);
  });
  new ResizeObserver(later).observe(frame);
  choose(0);
  const tell = said => {
    sampled = said;
    choose(chosen);
  };
  return {view: element("div", {}, legend(), frame, facts), tell};
}

function legend() {
  const named = [["given", "given, loss mask 0"], ["sampled p0", "sampled, 90 % or more"],
    ["sampled p1", "50 %"], ["sampled p2", "20 %"], ["sampled p3", "5 %"], ["sampled p4", "less"]];
  return element("p", {class: "legend"}, named.map(([name, text]) =>
    element("span", {class: name}, text)));
}
