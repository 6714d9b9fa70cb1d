// Evaluations: a form to submit one, the newest scores of each model as a matrix, and the jobs.

import {ask, may} from "./asking.mjs";
import {ago, element, fill, number, table} from "./dom.mjs";
import {body, csv} from "./panels.mjs";

const MAX_ROWS = 200; // models of the matrix that are in the page
const MAX_CELLS = 60; // scores of each of them

/** Return the columns of the matrix, one for each score that is shown. */
function cells(matrix, text) {
  return matrix.columns
    .flatMap(column => column.metrics.map(metric => ({...column, metric})))
    .filter(one => `${one.label} ${one.metric}`.toLowerCase().includes(text.toLowerCase()));
}

function score(row, cell) {
  return row.data[cell.key]?.[cell.metric] ?? null;
}

/** Compare two models by a score, or by name; those without the score come last. */
export function compared(one, other, cell, down) {
  if (cell === null) return (down ? -1 : 1) * one.model.localeCompare(other.model, "en");
  const [left, right] = [score(one, cell), score(other, cell)];
  if (left === null || right === null) return (left === null) - (right === null);
  return down ? right - left : left - right;
}

/** The matrix: what it is sorted by, and what is left out of it. */
class Matrix {
  constructor() {
    this.found = {columns: [], rows: [], updated_at: null};
    this.by = null; // the sorting score, as the words of its head; null: the model
    this.down = false;
    this.shown = element("div", {});
    const look = () => this.draw();
    this.model = element("input", {type: "search", oninput: look});
    this.evaluation = element("input", {type: "search", oninput: look});
    this.form = element("p", {class: "actions", role: "search"},
      element("label", {}, "Model ", this.model),
      element("label", {}, "Evaluation ", this.evaluation));
  }

  sort(by) {
    this.down = this.by === by ? !this.down : by !== null; // the best score first
    this.by = by;
    this.draw();
  }

  head(words, by, numeric) {
    const sorted = this.by === by;
    return {
      name: words, number: numeric, sorted: sorted ? this.down ? "descending" : "ascending" : "none",
      head: element("button", {type: "button", "data-id": `sort:${words}`, onclick: () => this.sort(by)},
        words, sorted ? this.down ? " ↓" : " ↑" : ""),
    };
  }

  draw() {
    const all = cells(this.found, this.evaluation.value);
    const by = all.find(one => words(one) === this.by) ?? null;
    const named = this.found.rows
      .filter(row => row.model.toLowerCase().includes(this.model.value.toLowerCase()))
      .sort((one, other) => compared(one, other, by, this.down));
    const columns = all.slice(0, MAX_CELLS), models = named.slice(0, MAX_ROWS);
    const rows = models.map(row => [row.model, ...columns.map(one => number(score(row, one)))]);
    if (rows.length === 0) {
      fill(this.shown, element("p", {class: "quiet"}, "No model has such a score."));
      return;
    }
    fill(this.shown, table(this.caption(models, named, columns, all), [
      this.head("Model", null, false), ...columns.map(one => this.head(words(one), words(one), true)),
    ], rows));
  }

  caption(models, named, columns, all) {
    const parts = [
      models.length < named.length ? `the first ${models.length} of ${named.length} models` : "",
      columns.length < all.length ? `the first ${columns.length} of ${all.length} scores` : "",
      this.found.updated_at === null ? "" : `newest score ${ago(this.found.updated_at)}`,
    ].filter(one => one !== "");
    return `Scores (${parts.join(", ")})`;
  }
}

function words(cell) {
  return `${cell.label} ${cell.metric}`;
}

/** A form that submits an evaluation. What the repository has is asked for when it is opened. */
function form() {
  const model = element("input", {type: "text", required: true, maxlength: 500});
  const most = element("input", {type: "number", min: 1, class: "few"});
  const choice = element("select", {multiple: true, size: 5});
  const said = element("p", {role: "status"});
  const submit = async event => {
    event.preventDefault();
    const evals = [...choice.selectedOptions].map(one => one.value);
    try {
      const made = await ask("POST", "api/eval/submit", {
        model: model.value, evals: evals.length === 0 ? null : evals,
        ...(most.value === "" ? {} : {prepare_args: {max_prompts: Number(most.value)}}),
      });
      said.className = "good";
      fill(said, `${made.job_id}: ${made.message}.`);
    } catch (error) {
      said.className = "bad";
      fill(said, error.message);
    }
  };
  const opened = async event => {
    if (!event.target.open || choice.length > 0) return;
    try {
      const {evals} = await ask("GET", "api/eval/evals");
      fill(choice, ...evals.map(one => element("option", {value: one.name}, one.name)));
    } catch (error) {
      said.className = "bad";
      fill(said, error.message);
    }
  };
  return element("details", {ontoggle: opened}, element("summary", {}, "Submit an evaluation"),
    element("form", {class: "actions", onsubmit: submit},
      element("label", {}, "Model ", model),
      element("label", {}, "Evaluations (none: the default ones) ", choice),
      element("label", {}, "Prompts at most ", most),
      element("button", {}, "Submit")), said);
}

const matrix = new Matrix();
const jobs = element("div", {});
let known = null; // the jobs with whose ends the matrix was read

async function look(part) {
  const ended = part.columns.indexOf("ended_at");
  const now = JSON.stringify(part.rows.map(row => row[ended]));
  if (now === known) return;
  known = now;
  try {
    matrix.found = await ask("GET", "api/ui/eval_matrix");
    matrix.draw();
  } catch (error) {
    known = null;
    fill(matrix.shown, element("p", {class: "bad"}, error.message));
  }
}

export function evaluations(view, parts) {
  const [name, part] = [...parts].find(([one]) => one.endsWith(".evaluations")) ?? [];
  if (part === undefined) return;
  if (!view.contains(jobs)) {
    fill(view, ...(may("eval") || may("admin") ? [form()] : []), matrix.form, matrix.shown,
      element("p", {}, csv(name.replace(/evaluations$/, "scores"), "Scores as CSV")),
      element("h3", {}, "Jobs"), jobs);
  }
  const redraw = () => evaluations(view, parts);
  fill(jobs, ...[body(name, part, redraw)].flat().filter(one => one !== null));
  look(part);
}
