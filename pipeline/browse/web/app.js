// The page: which view is shown, and which keys it knows.
import { ask, make, say, state } from "./api.js";
import { audit } from "./audit.js";
import { DECISIONS } from "./decide.js";
import { frame } from "./frame.js";
import { hands } from "./hands.js";
import { history } from "./history.js";
import { poses } from "./poses.js";

const VIEWS = { hands, frame, poses, audit, history };
const MORE = [["u", "Undo"], ["arrows", "Next hand; in a frame the next frame, up and down the next hand"], ["Space", "Choose several"], ["*", "Choose all shown"],
  ["Enter", "Open the frame; set a box"], ["Escape", "Back"], ["t", "Swap side of the whole track"], ["b", "Move a box"], ["a", "Add a hand"], ["/", "Filter"], ["[ ]", "Page before, next"], ["?", "These keys"]];

const main = document.getElementById("main"), help = document.getElementById("help");
let keys = {}, about = null, turn = 0;

document.getElementById("keys").append(...[...DECISIONS.map(([key, name]) => [key, name]), ...MORE].flatMap(([key, name]) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, name)]));
document.getElementById("help-button").addEventListener("click", () => help.showModal());
document.getElementById("help-close").addEventListener("click", () => help.close());

async function show() {
  const mine = (turn += 1), name = VIEWS[state().view] ? state().view : "hands";
  keys = {};
  say("");
  for (const link of document.querySelectorAll("nav a[data-view]")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  try {
    about = await ask("about");
    document.getElementById("folder").textContent = about.folder;
    const report = document.getElementById("report");
    report.hidden = !about.report;
    report.href = `/report${location.search}`;
    const told = [...about.unreadable.map((part) => `${part} cannot be read: whim verify says more`),
      ...about.lost.map((one) => `${one.who} said ${one.what} of a hand on frame ${one.frame} of ${one.video} that no run finds any more`)];
    const warning = document.getElementById("warning");
    warning.hidden = !told.length;
    warning.textContent = told.slice(0, 5).join("; ") + (told.length > 5 ? `; and ${told.length - 5} more` : "");
    // A view that comes late, after the reader went on to another, is not shown.
    const place = { replaceChildren: (...children) => { if (mine === turn) main.replaceChildren(...children); } };
    const found = await VIEWS[name](place, about);
    if (mine === turn) { keys = found ?? {}; document.body.dataset.ready = `${name} ${turn}`; }
  } catch (error) { if (mine === turn) main.replaceChildren(make("p", { role: "alert" }, error.message)); }
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=checkbox]), select, textarea"), pressing = event.target.matches("button, a, summary, input");
  if (help.open || event.ctrlKey || event.metaKey) return;
  if (typing && event.key !== "Escape") return;
  if (pressing && (event.key === "Enter" || event.key === " ")) return;
  if (event.key === "?") { help.showModal(); return; }
  const act = keys[event.key];
  if (!act) return;
  event.preventDefault();
  Promise.resolve(act(event)).catch((error) => say(error.message));
});

// Whoever comes back to this tab sees what was decided or made elsewhere meanwhile; a box that is being drawn stays.
async function renew() {
  if (document.hidden || !about) return;
  try {
    const now = await ask("about");
    if (now.revision !== about.revision && (await (keys.renew ?? show)()) !== false) about = now;
  } catch (error) { say(error.message); }
}

window.addEventListener("focus", renew);
document.addEventListener("visibilitychange", renew);
window.addEventListener("hashchange", show);
show();
