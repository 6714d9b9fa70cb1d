// Builds the page from text nodes and elements only: nothing that a server sends is read as HTML.

/** Return an element; children are elements, or anything else as text. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children.flat().filter(one => one !== null && one !== undefined)
    .map(one => one instanceof Node ? one : document.createTextNode(String(one))));
  return made;
}

/** Replace what a view shows, and keep the keyboard's focus where it was. */
export function fill(view, ...children) {
  const focused = view.contains(document.activeElement) ? document.activeElement.dataset.id : null;
  const scrolled = [...view.querySelectorAll(".scroll")].map(one => [one.scrollTop, one.scrollLeft]);
  view.replaceChildren(...children.filter(one => one !== null));
  [...view.querySelectorAll(".scroll")].forEach((one, place) => {
    if (scrolled[place]) [one.scrollTop, one.scrollLeft] = scrolled[place];
  });
  if (focused) {
    [...view.querySelectorAll("[data-id]")].find(one => one.dataset.id === focused)?.focus();
  }
}

/** Return a table in a frame that the keyboard can scroll; the first column heads its row. */
export function table(caption, columns, rows) {
  const heads = columns.map(one => element("th",
    {scope: "col", class: one.number ? "number" : null, "aria-sort": one.sorted}, one.head ?? one.name));
  const lines = rows.map(cells => element("tr", {}, cells.map((cell, place) =>
    place === 0 ? element("th", {scope: "row"}, cell)
      : element("td", {class: columns[place].number ? "number" : null}, cell))));
  return element("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": caption},
    element("table", {}, element("caption", {}, caption),
      element("thead", {}, element("tr", {}, heads)), element("tbody", {}, lines)));
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 120) return `${value.toPrecision(3)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

export function ago(at) {
  if (at === null || at === undefined) return "–";
  const passed = Math.max(Math.floor(Date.now() / 1000 - at), 0);
  return passed === 0 ? "just now" : passed < 120 ? `${passed} s ago` : `${seconds(passed)} ago`;
}

export function number(value) {
  if (value === null || value === undefined) return "–";
  return Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(4)));
}

export function bytes(value) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let step = 0;
  while (value >= 1024 && step < units.length - 1) {
    value /= 1024;
    step++;
  }
  return `${step === 0 ? value : value.toPrecision(3)} ${units[step]}`;
}

/** Return a part of a whole as a bar, with its number; `limited`: a whole that is not to be reached. */
export function share(value, limited) {
  const part = Math.min(Math.max(value, 0), 1);
  const bar = drawn("svg", {viewBox: "0 0 100 10", class: "bar", "aria-hidden": "true",
    preserveAspectRatio: "none"}, drawn("rect", {width: 100, height: 10, class: "whole"}),
  drawn("rect", {width: 100 * part, height: 10, class: limited && part >= 0.9 ? "part nearly" : "part"}));
  return element("span", {class: "share"}, bar, `${Math.floor(100 * value)} %`);
}

/** Return an element of a drawing; children are elements, or anything else as text. */
export function drawn(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  made.append(...children.map(one => one instanceof Node ? one : String(one)));
  return made;
}
