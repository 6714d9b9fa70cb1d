// Requests to the gateway itself. Paths are relative, so the page may lie below any prefix.

const token = document.querySelector('meta[name="form-token"]').content;

const scopes = document.querySelector('meta[name="scopes"]').content.split(" ");

/** Whether the page may offer what a route with this scope does. */
export function may(scope) {
  return scopes.includes("*") || scopes.includes(scope);
}

/** Return what a route of the gateway answers, as JSON; throws an Error with its message. */
export async function ask(method, path, body) {
  return (await askPage(method, path, body)).found;
}

/** Return the same as `found`, and the cursor of the `next` page, null if there is none. */
export async function askPage(method, path, body) {
  const answer = await fetch(`dashboard/${path}`, {
    method,
    headers: {
      "x-csrf-token": token,
      ...(body === undefined ? {} : {"content-type": "application/json"}),
    },
    body: body === undefined ? undefined : JSON.stringify(body),
    credentials: "same-origin",
  });
  if (answer.status === 401) location.reload();
  const said = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(said?.error?.message ?? `status ${answer.status}`);
  return {found: said, next: answer.headers.get("x-next-cursor")};
}

/** Ask the person, with the action on the button; resolves to whether the answer is yes. */
export function confirmed(title, text, action) {
  const dialog = document.getElementById("confirm");
  document.getElementById("confirm-title").textContent = title;
  document.getElementById("confirm-text").textContent = text;
  document.getElementById("confirm-yes").textContent = action;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise(resolve => {
    const closed = () => {
      if (dialog.open) return; // the event of the dialog before this one
      dialog.removeEventListener("close", closed);
      resolve(dialog.returnValue === "yes");
    };
    dialog.addEventListener("close", closed);
  });
}
