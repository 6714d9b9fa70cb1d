// Tables that are read when somebody asks for them: usage by day, key and model.

import {ask} from "./asking.mjs";
import {element, fill} from "./dom.mjs";
import {body} from "./panels.mjs";

/** Draw the report that is chosen, with links to the others. */
export async function reports(view) {
  const titles = await ask("GET", "panels");
  const choice = element("select", {id: "report", onchange: () => show()},
    Object.entries(titles).map(([name, title]) => element("option", {value: name}, title)));
  const file = element("a", {download: ""}, "CSV");
  const shown = element("div", {"aria-live": "polite"});

  async function show() {
    file.setAttribute("href", `dashboard/panels/${encodeURIComponent(choice.value)}?format=csv`);
    fill(shown, element("p", {class: "quiet"}, "Loading"));
    try {
      const part = await ask("GET", `panels/${encodeURIComponent(choice.value)}`);
      fill(shown, ...[body(choice.value, part, show)].flat().filter(one => one !== null));
    } catch (error) {
      fill(shown, element("p", {class: "bad"}, error.message));
    }
  }

  fill(view, element("p", {class: "actions"},
    element("label", {for: "report"}, "Report"), choice,
    element("button", {type: "button", onclick: show}, "Look again"), file), shown);
  await show();
}
