// Audits: hands drawn by chance, looked at one after the other, and what that says of all of them.
import { ask, change, go, make, number, say, state } from "./api.js";
import { actions } from "./decide.js";
import { Grid, opened } from "./grid.js";

const WORDS = { keep: "correct", reject: "no hand: reject", side: "wrong side", landmarks: "wrong landmarks" };

function begin(main, about) {
  const size = make("input", { type: "number", id: "size", min: 1, max: 2000, value: 200 });
  const filter = make("input", { type: "text", id: "filter", value: state().where ?? "keep", spellcheck: "false", autocomplete: "off" });
  const told = make("p", { role: "alert" });
  const form = make("form", { class: "bar", onsubmit: async (event) => {
    event.preventDefault();
    try {
      const drawn = await change("audit", { where: filter.value.trim(), size: Number(size.value), seed: Math.floor(Math.random() * 2 ** 31) });
      go({ view: "audit", audit: drawn.name });
    } catch (error) { told.textContent = error.message; }
  } }, make("label", { for: "size" }, "Hands drawn by chance", size), make("label", { class: "wide", for: "filter" }, "of those that this filter takes", filter),
  make("button", { type: "submit" }, "Draw"));
  const before = about.audits.map((name) => make("li", {}, make("a", { href: `#view=audit&audit=${encodeURIComponent(name)}` }, name)));
  main.replaceChildren(make("h2", {}, "Audit"), make("p", {}, "Draw hands by chance and say of each whether it is right. The figures that follow hold for all that the filter takes, and stand in the dataset's card after the next run."),
    form, told, before.length ? make("section", { "aria-label": "Audits made" }, make("h2", {}, "Audits made"), make("ul", {}, ...before)) : "");
  return { "/": () => filter.focus() };
}

export async function audit(main, about) {
  const name = state().audit;
  if (!name) return begin(main, about);
  const grid = new Grid("Hands drawn", opened);
  const figures = make("div", { class: "figures", id: "figures" }), head = make("p", {});
  const load = async (keep, choose = false) => {
    const found = await ask("audit", { name });
    grid.show(found.hands.map((hand) => ({ ...hand, verdict: WORDS[hand.answer] })), { keep, choose });
    head.textContent = `${found.hands.length} of ${number(found.population)} hands${found.where ? ` where ${found.where}` : ""}; ${found.precision.of} looked at`;
    figures.replaceChildren(make("span", {}, "Hands: ", make("b", { id: "precision" }, found.precision.text)), make("span", {}, "On their side: ", make("b", { id: "side-accuracy" }, found.side.text)));
    return found;
  };
  const done = async (forward) => { const at = grid.at; await load(true); grid.move(forward ? at + 1 : at); };
  const { keys, bar } = actions({ chosen: () => grid.taken(), done, audit: () => name });
  main.replaceChildren(make("h2", {}, `Audit ${name}`), head, figures, make("p", {}, "Keep says correct. Reject, Swap side and Wrong landmarks say what is wrong, and correct it."), grid.element, bar);
  try { await load(false); grid.focus(); } catch (error) { head.textContent = error.message; say(error.message); return {}; }
  return { ...grid.keys(), ...keys, renew: () => load(true, true) };
}
