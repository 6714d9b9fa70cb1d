// Charts as drawings, each with a legend and with a table of the same numbers for those who read.

import {drawn, element, number, table} from "./dom.mjs";

const HEIGHT = 200, LEFT = 52, RIGHT = 18, BOTTOM = 22, TOP = 8;
const THICKEST = 48; // pixels of a bar: a single day does not fill the chart
export const MAX_SERIES = 6; // more are added up as "other": so many colours can be told apart

const compact = new Intl.NumberFormat("en", {notation: "compact", maximumFractionDigits: 1});

/** Return the end of the scale: a number of one digit and zeros that is not below. */
export function nice(most) {
  if (most <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 3, 4, 6, 8, 10].map(one => one * power).find(one => one >= most);
}

function total(one) {
  return one.values.reduce((sum, value) => sum + (value ?? 0), 0);
}

/**
 * Return the largest series, and the sum of the others; each is {name, values}. The series of `by`
 * with the same names say which are the largest, so that a name has one colour in several charts.
 */
export function largest(series, by = series) {
  const ranks = [...by].sort((one, other) => total(other) - total(one)).map(one => one.name);
  const sorted = [...series].sort((one, other) => ranks.indexOf(one.name) - ranks.indexOf(other.name));
  const [kept, rest] = [sorted.slice(0, MAX_SERIES), sorted.slice(MAX_SERIES)];
  if (rest.length === 0) return kept;
  const values = rest[0].values.map((_, place) =>
    rest.reduce((sum, one) => sum + (one.values[place] ?? 0), 0));
  return [...kept, {name: `${rest.length} others`, values, kind: "other"}];
}

function kindOf(one, place) {
  return one.kind ?? `c${place}`;
}

/** Return the stacks of bars: for each place, [from, to] of each series. */
export function stacked(series, count) {
  return Array.from({length: count}, (_, place) => {
    let sum = 0;
    return series.map(one => [sum, sum += one.values[place] ?? 0]);
  });
}

function scale(width, top, labels) {
  const lines = [0, 0.5, 1].flatMap(part => {
    const y = TOP + (HEIGHT - TOP - BOTTOM) * (1 - part);
    return [
      drawn("line", {x1: LEFT, x2: width - RIGHT, y1: y, y2: y, class: "grid"}),
      drawn("text", {x: LEFT - 6, y: y + 4, "text-anchor": "end"}, compact.format(top * part)),
    ];
  });
  const step = Math.max(Math.ceil(labels.length / Math.max((width - LEFT - RIGHT) / 70, 1)), 1);
  const words = labels.flatMap((label, place) => (labels.length - 1 - place) % step !== 0 ? [] : [
    drawn("text", {
      x: middle(width, labels.length, place), y: HEIGHT - 6, "text-anchor": "middle",
    }, label),
  ]);
  return [...lines, ...words];
}

function middle(width, count, place) {
  return LEFT + (width - LEFT - RIGHT) * (place + 0.5) / count;
}

function yOf(value, top) {
  return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
}

function bars(series, width, top, count) {
  const room = (width - LEFT - RIGHT) / count, gap = room > 6 ? 2 : 0;
  const thick = Math.max(Math.min(room - gap, THICKEST), 0.5);
  return stacked(series, count).flatMap((stack, place) => stack.flatMap(([from, to], which) =>
    to === from ? [] : [drawn("rect", {
      x: middle(width, count, place) - thick / 2, width: thick,
      y: yOf(to, top), height: yOf(from, top) - yOf(to, top), class: kindOf(series[which], which),
    })]));
}

/** A line for each series; it is broken where nothing is known. */
function lines(series, width, top, count) {
  return series.map((one, which) => {
    let path = "", drawing = false;
    one.values.forEach((value, place) => {
      const known = value !== null && value !== undefined;
      const at = known && `${middle(width, count, place)} ${yOf(value, top)}`;
      if (known) path += drawing ? `L${at}` : `M${at}h0`; // a single one is a dot
      drawing = known;
    });
    return drawn("path", {d: path || "M0 0", class: `line ${kindOf(one, which)}`});
  });
}

function legend(series) {
  return element("p", {class: "legend", "aria-hidden": "true"}, series.map((one, place) =>
    element("span", {class: "key"},
      drawn("svg", {viewBox: "0 0 10 10", class: "swatch"},
        drawn("rect", {width: 10, height: 10, class: kindOf(one, place)})), one.name)));
}

function numbers(title, series, labels, what) {
  const columns = [{name: what}, ...series.map(one => ({name: one.name, number: true}))];
  const rows = labels.map((label, place) => [label, ...series.map(one => number(one.values[place]))]);
  return table(title, columns, rows.reverse());
}

/** Return a chart. `labels` name the places, `what` says what they are; `form` is "bars" or "lines". */
export function chart({title, series, labels, what, form, width, open, ontoggle}) {
  const most = form === "bars"
    ? Math.max(0, ...stacked(series, labels.length).map(stack => stack.at(-1)?.[1] ?? 0))
    : Math.max(0, ...series.flatMap(one => one.values.map(value => value ?? 0)));
  const top = nice(most), draw = form === "bars" ? bars : lines;
  const picture = drawn("svg", {
    viewBox: `0 0 ${width} ${HEIGHT}`, class: "chart", role: "img",
    "aria-label": `${title}: at most ${number(most)}. The numbers are in the table below.`,
  }, ...scale(width, top, labels), ...draw(series, width, top, labels.length));
  const details = element("details", {ontoggle, "data-table": title, open},
    element("summary", {"data-id": `table:${title}`}, `Numbers: ${title}`));
  if (open) details.append(numbers(title, series, labels, what));
  else details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) {
      details.append(numbers(title, series, labels, what));
    }
  });
  return element("figure", {}, element("figcaption", {}, title), picture, legend(series), details);
}

/** Return how wide a chart in this view may be: its words keep their size on a phone. */
export function widthOf(view) {
  return Math.min(Math.max(view.clientWidth, 280), 1000);
}
