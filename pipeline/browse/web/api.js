// What the page asks of the server and how it builds what it shows: text is always text, never markup.
const token = new URLSearchParams(location.search).get("token") ?? "";

export class Refused extends Error {}

async function answered(request) {
  let response;
  try { response = await request; } catch { throw new Refused("whim browse does not answer any more: start it again, and open the address that it prints"); }
  const text = await response.text();
  let found;
  try { found = JSON.parse(text); } catch { found = { error: text.trim() }; }
  if (!response.ok) throw new Refused(found.error ?? `the server said ${response.status}`);
  return found;
}

export async function ask(path, query = {}) {
  return answered(fetch(`/api/${path}?${new URLSearchParams(query)}`, { headers: { "X-Token": token } }));
}

export async function change(path, body) {
  const headers = { "X-Token": token, "Content-Type": "application/json" };
  return answered(fetch(`/api/${path}`, { method: "POST", headers, body: JSON.stringify(body) }));
}

export const image = (kind, query) => `/image/${kind}?${new URLSearchParams({ ...query, token })}`;

// An element: make("button", { type: "button", onclick: f, "aria-label": "x" }, "text", child)
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function say(text) { document.getElementById("status").textContent = text; }

export const SIDE = { 0: "left", 1: "right", "-1": "unknown" };
export const short = (value, digits = 2) => (value === null || value === undefined ? "?" : Number(value).toFixed(digits));
export const number = (value) => Number(value).toLocaleString("en");

// The hash holds the view and what it shows, so that a page can be kept, sent to oneself and gone back to.
export const state = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
const hashed = (next) => `#${new URLSearchParams(Object.entries(next).filter(([, value]) => value !== "" && value !== undefined))}`;
// Note what is shown, for whoever loads the page again.
export const remember = (next) => history.replaceState(null, "", location.pathname + location.search + hashed(next));
// With `replace` the page that is left is not gone back to.
export function go(next, replace = false) {
  if (!replace) { location.hash = hashed(next); return; }
  remember(next);
  window.dispatchEvent(new HashChangeEvent("hashchange"));
}
