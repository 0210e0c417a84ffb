// The hands of a filter: how they are spread, beside a grid of them.
import { SIDE, ask, go, make, number, say, state } from "./api.js";
import { actions } from "./decide.js";
import { has, ranged, toggled } from "./filter.js";
import { Grid, opened } from "./grid.js";
import { spread } from "./spreads.js";

const PAGE = 60;
const SORTS = ["", "quality", "score", "size_px", "error_px", "error_share", "rarity", "landmark_score", "flip_margin", "track_length", "time_s"];
const TITLES = { refused: "refused by fusion" };
const quoted = (text) => `'${String(text).replaceAll("'", "''")}'`;

function condition(name, value) {
  if (value === null) return `${name} is null`;
  if (name === "side") return `side = ${SIDE[value]}`;
  return typeof value === "boolean" ? `${name} = ${value}` : `${name} = ${quoted(value)}`;
}

// Hands and candidates that fusion refused, in words.
function counted(total, refused) {
  const words = [`${number(total - refused)} hands`, `${number(refused)} refused`];
  if (!refused) return words[0];
  return total === refused ? words[1] : words.join(", ");
}

// The values of a column as buttons that add each to the filter, or take it away.
function values(name, rows, where, set) {
  const buttons = rows.slice(0, 20).map((row) => {
    const parts = name === "refused" ? ["refused", condition("reason", row.value)] : [condition(name, row.value)];
    const text = name === "side" ? SIDE[row.value] : row.value === null ? "none" : row.value === "" ? "(empty)" : String(row.value);
    return make("li", {}, make("button", { type: "button", "aria-pressed": String(has(where, ...parts)),
      onclick: () => set({ where: toggled(where, ...parts) }) }, `${text} ${number(row.num)}`));
  });
  return [make("h2", {}, TITLES[name] ?? name), make("ul", {}, ...buttons)];
}

async function spreads(where, set) {
  const found = await ask("facets", { where });
  const bars = Object.entries(found.spreads).flatMap(([name, one]) => [make("h2", {}, `${name}, ${one.low} to ${one.high}`),
    spread(name, one, where, (parts) => set({ where: ranged(where, name, parts) }))]);
  const lists = Object.entries(found.counts).filter(([, rows]) => rows.length).flatMap(([name, rows]) => values(name, rows, where, set));
  const wide = matchMedia("(min-width: 60rem)").matches;
  return make("details", { open: wide }, make("summary", {}, "How they are spread"), ...bars, ...lists);
}

export async function hands(main) {
  const now = state();
  const where = now.where ?? "", offset = Number(now.offset ?? 0);
  const set = (more) => go({ ...now, view: "hands", offset: "", ...more });
  const filter = make("input", { type: "text", id: "filter", value: where, spellcheck: "false", autocomplete: "off",
    placeholder: "quality > .8 and side = left and sources = 'whim'" });
  const options = SORTS.map((name) => make("option", { value: name, selected: name === (now.sort ?? "") }, name || "video and time"));
  const sort = make("select", { id: "sort", onchange: () => set({ sort: sort.value }) }, ...options);
  const down = make("input", { type: "checkbox", id: "down", checked: now.descending === "1", onchange: () => set({ descending: down.checked ? "1" : "" }) });
  const form = make("form", { class: "bar", role: "search", onsubmit: (event) => { event.preventDefault(); set({ where: filter.value.trim() }); } },
    make("label", { class: "wide", for: "filter" }, "Filter", filter), make("button", { type: "submit" }, "Show"),
    make("label", { for: "sort" }, "Sort by", sort), make("label", { class: "check", for: "down" }, down, "largest first"));
  const grid = new Grid("Hands", opened);
  const count = make("p", { id: "count" }), pager = make("div", { class: "pager" });
  const facets = make("aside", { "aria-label": "How they are spread" });
  const query = { where, sort: now.sort ?? "", descending: now.descending ?? "", offset, limit: PAGE };
  let total = 0;
  const page = (by) => { const next = offset + by * PAGE; if (next >= 0 && next < total) go({ ...now, offset: next || "" }); };
  const load = async (keep, choose = false) => {
    const found = await ask("hands", query);
    total = found.total;
    grid.show(found.rows, { keep, choose });
    count.textContent = `${counted(total, found.refused)}${where ? ` where ${where}` : ""}`;
    pager.replaceChildren(
      make("button", { type: "button", disabled: offset === 0, onclick: () => page(-1) }, "Before ", make("kbd", {}, "[")),
      make("span", {}, total ? `${number(offset + 1)} to ${number(Math.min(offset + PAGE, total))}` : "none"),
      make("button", { type: "button", disabled: offset + PAGE >= total, onclick: () => page(1) }, "Next ", make("kbd", {}, "]")));
  };
  const facet = async () => { try { facets.replaceChildren(await spreads(where, set)); } catch (error) { say(error.message); } };
  const { keys, bar } = actions({ chosen: () => grid.taken(), done: async () => { await load(true); facet(); } });
  main.replaceChildren(form, make("div", { class: "sides" }, facets, make("section", { "aria-label": "Grid" }, count, grid.element, pager, bar)));
  try { await load(false); } catch (error) {
    count.textContent = error.message;
    filter.setAttribute("aria-invalid", "true");
    return { "/": () => filter.focus() };
  }
  if (!document.activeElement || document.activeElement === document.body) grid.focus();
  facet();
  return { ...grid.keys(), ...keys, renew: async () => { await load(true, true); facet(); }, "[": () => page(-1), "]": () => page(1), "/": () => filter.focus(), Escape: () => grid.focus() };
}
