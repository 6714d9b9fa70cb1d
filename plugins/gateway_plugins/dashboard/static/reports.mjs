// Usage: charts by day, budgets, tables that are read when somebody asks for them, calls of a day.

import {ask} from "./asking.mjs";
import {calls} from "./calls.mjs";
import {chart, largest, widthOf} from "./charts.mjs";
import {element, fill} from "./dom.mjs";
import {body, csv} from "./panels.mjs";

const [LEAST, DAYS] = [7, 30]; // days of the charts
const ELSEWHERE = [".scores", ".budgets", ".days_models"]; // reports that are shown in another form

/** Return the days from the first to the last one, LEAST to DAYS of them, as "2026-11-21". */
export function daysOf(found) {
  if (found.length === 0) return [];
  const sorted = [...found].sort(), last = Date.parse(sorted.at(-1)), day = 86_400_000;
  const early = Math.min(Date.parse(sorted[0]), last - (LEAST - 1) * day);
  const first = Math.max(early, last - (DAYS - 1) * day);
  return Array.from({length: Math.round((last - first) / day) + 1}, (_, step) =>
    new Date(first + step * day).toISOString().slice(0, 10));
}

/** Return a series for each model, of the sums of some columns by day. */
export function byModel(part, days, columns) {
  const places = columns.map(name => part.columns.indexOf(name)), at = new Map(days.map((one, n) => [one, n]));
  const [day, model] = ["day", "model"].map(name => part.columns.indexOf(name));
  const found = new Map();
  for (const row of part.rows) {
    if (!at.has(row[day])) continue;
    const name = row[model] || "no model";
    if (!found.has(name)) found.set(name, days.map(() => 0));
    found.get(name)[at.get(row[day])] += places.reduce((sum, place) => sum + row[place], 0);
  }
  return [...found].map(([name, values]) => ({name, values}));
}

async function charts(view, name) {
  const part = await ask("GET", `panels/${encodeURIComponent(name)}`);
  const days = daysOf(part.rows.map(row => row[part.columns.indexOf("day")]));
  if (days.length === 0) return;
  const labels = days.map(day => day.slice(5)), width = widthOf(view);
  const tokens = byModel(part, days, ["prompt_tokens", "completion_tokens"]);
  const draw = (title, series) => chart({
    title, labels, width, what: "day", form: "bars", series: largest(series, tokens),
  });
  fill(view, draw("Tokens per day by model", tokens),
    draw("Requests per day by model", byModel(part, days, ["requests"])));
}

async function budgets(view, name) {
  const part = await ask("GET", `panels/${encodeURIComponent(name)}`);
  if (part.rows.length === 0) return;
  fill(view, ...[body(name, part)].flat().filter(one => one !== null),
    element("p", {}, csv(name, "Budgets as CSV")));
}

/** Fill a part of the view; one that fails says so, and leaves the others. */
function begin(fills, view, name) {
  if (name === undefined) return;
  fills(view, name).catch(error => fill(view, element("p", {class: "bad"}, error.message)));
}

function choice(titles) {
  const named = Object.entries(titles).filter(([name]) => !ELSEWHERE.some(end => name.endsWith(end)));
  const select = element("select", {id: "report"},
    named.map(([name, title]) => element("option", {value: name}, title)));
  const file = csv("", "CSV"), shown = element("div", {"aria-live": "polite"});
  async function show() {
    file.setAttribute("href", `dashboard/panels/${encodeURIComponent(select.value)}?format=csv`);
    fill(shown, element("p", {class: "quiet"}, "Loading"));
    try {
      const part = await ask("GET", `panels/${encodeURIComponent(select.value)}`);
      fill(shown, ...[body(select.value, part, show)].flat().filter(one => one !== null));
    } catch (error) {
      fill(shown, element("p", {class: "bad"}, error.message));
    }
  }
  select.addEventListener("change", show);
  const form = element("p", {class: "actions"}, element("label", {for: "report"}, "Report"), select,
    element("button", {type: "button", onclick: show}, "Look again"), file);
  return {form, shown, show, some: named.length > 0};
}

/** Show all days, or the calls of the day that the address names. */
export async function reports(view) {
  const titles = await ask("GET", "panels");
  const named = end => Object.keys(titles).find(name => name.endsWith(end));
  const [drawings, spent] = [element("div", {}), element("div", {})];
  const chosen = choice(titles);
  const whole = () => {
    fill(view, drawings, spent, chosen.some ? chosen.form : null, chosen.shown);
    begin(charts, drawings, named(".days_models"));
    begin(budgets, spent, named(".budgets"));
    return chosen.some ? chosen.show() : null;
  };
  const follow = async () => {
    const [section, day] = location.hash.slice(1).split("/");
    if (section !== "reports") return;
    if (day !== undefined && /^\d{8}$/.test(day)) await calls(view, day);
    else await whole();
  };
  addEventListener("hashchange", follow);
  await (location.hash.startsWith("#reports/") ? follow() : whole());
}
