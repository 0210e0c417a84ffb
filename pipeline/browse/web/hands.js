// The hands of a filter: facets beside a grid.
import { SIDE, ask, go, make, number, say, state } from "./api.js";
import { actions } from "./decide.js";
import { Grid } from "./grid.js";

const PAGE = 60;
const SORTS = ["", "quality", "score", "size_px", "error_px", "error_share", "rarity", "landmark_score", "flip_margin", "track_length", "time_s"];
const quoted = (text) => `'${String(text).replaceAll("'", "''")}'`;

function condition(name, value) {
  if (value === null) return `${name} is null`;
  if (name === "side") return `side = ${SIDE[value]}`;
  return typeof value === "boolean" ? `${name} = ${value}` : `${name} = ${quoted(value)}`;
}

export function toggled(where, part) {
  const parts = where.split(/\s+and\s+/i).filter(Boolean);
  return (parts.includes(part) ? parts.filter((one) => one !== part) : [where && /\sor\s/i.test(where) ? `(${where})` : where, part].filter(Boolean)).join(" and ");
}

function bars({ low, high, counts }, name) {
  const most = Math.max(1, ...counts);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 26");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${name} from ${low} to ${high}: ${counts.join(", ")}`);
  counts.forEach((count, i) => {
    const bar = document.createElementNS(svg.namespaceURI, "rect");
    const height = count ? Math.max(1, (24 * count) / most) : 0;
    for (const [key, value] of Object.entries({ x: i * 5 + 0.5, y: 25 - height, width: 4, height, fill: "currentColor" })) bar.setAttribute(key, value);
    svg.append(bar);
  });
  return svg;
}

export async function hands(main, about) {
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
  const grid = new Grid("Hands", (row) => go({ view: "frame", video: row.video, frame: row.frame, hand: row.hand, back: location.hash.slice(1) }));
  const count = make("p", { id: "count" }), pager = make("div", { class: "pager" });
  const facets = make("aside", { "aria-label": "How they are spread" });
  const query = { where, sort: now.sort ?? "", descending: now.descending ?? "", offset, limit: PAGE };
  let total = 0;
  const page = (by) => { const next = offset + by * PAGE; if (next >= 0 && next < total) go({ ...now, offset: next || "" }); };
  const load = async (keep) => {
    const found = await ask("hands", query);
    total = found.total;
    grid.show(found.rows, { keep });
    count.textContent = `${number(total)} hands${where ? ` where ${where}` : ""}`;
    pager.replaceChildren(
      make("button", { type: "button", disabled: offset === 0, onclick: () => page(-1) }, "Before ", make("kbd", {}, "[")),
      make("span", {}, total ? `${number(offset + 1)} to ${number(Math.min(offset + PAGE, total))}` : "none"),
      make("button", { type: "button", disabled: offset + PAGE >= total, onclick: () => page(1) }, "Next ", make("kbd", {}, "]")));
    return grid.rows.length;
  };
  const spread = async () => {
    const { counts, spreads } = await ask("facets", { where });
    const lists = Object.entries(counts).map(([name, rows]) => [make("h3", {}, name), make("ul", {}, ...rows.slice(0, 20).map((row) => {
      const part = condition(name, row.value);
      const text = name === "side" ? SIDE[row.value] : row.value === null ? "none" : row.value === "" ? "(empty)" : String(row.value);
      return make("li", {}, make("button", { type: "button", "aria-pressed": String(where.split(/\s+and\s+/i).includes(part)),
        onclick: () => set({ where: toggled(where, part) }) }, `${text} ${number(row.num)}`));
    }))]);
    const shown = Object.entries(spreads).flatMap(([name, one]) => [make("h3", {}, `${name}, ${one.low} to ${one.high}`), bars(one, name)]);
    const wide = matchMedia("(min-width: 60rem)").matches;
    facets.replaceChildren(make("details", { open: wide }, make("summary", {}, "How they are spread"), ...shown, ...lists.flat()));
  };
  const { keys, bar } = actions({ chosen: () => grid.taken(), done: async () => { await load(true); spread().catch((error) => say(error.message)); } });
  main.replaceChildren(form, make("div", { class: "sides" }, facets, make("section", { "aria-label": "Grid" }, count, grid.element, pager, bar)));
  try { await load(false); if (!document.activeElement || document.activeElement === document.body) grid.focus(); } catch (error) { count.textContent = error.message; filter.setAttribute("aria-invalid", "true"); return {}; }
  spread().catch((error) => say(error.message));
  return { ...grid.keys(), ...keys, "[": () => page(-1), "]": () => page(1), "/": () => filter.focus(), Escape: () => grid.focus() };
}
