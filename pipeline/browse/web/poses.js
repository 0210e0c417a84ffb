// The map of poses: near points are like poses, lone ones are rare. A rectangle dragged on it becomes a filter.
import { SIDE, ask, go, make, short, state } from "./api.js";
import { conditions, joined } from "./filter.js";
import { opened } from "./grid.js";

export async function poses(main) {
  const where = state().where ?? "";
  const canvas = make("canvas", { class: "map", width: 1040, height: 650, role: "img", "aria-label": "Map of poses" });
  const filter = make("input", { type: "text", id: "filter", value: where, spellcheck: "false", autocomplete: "off" });
  const form = make("form", { class: "bar", role: "search", onsubmit: (event) => { event.preventDefault(); go({ view: "poses", where: filter.value.trim() }); } },
    make("label", { class: "wide", for: "filter" }, "Filter", filter), make("button", { type: "submit" }, "Show"),
    make("button", { type: "button", onclick: () => go({ view: "hands", where, sort: "rarity", descending: "1" }) }, "Rare poses first"),
    make("button", { type: "button", onclick: () => go({ view: "hands", where, sort: "rarity" }) }, "Near-duplicates first"));
  const told = make("p", { id: "count" });
  main.replaceChildren(form, told, canvas, make("p", {}, "Each point is a hand: blue left (mirrored into a right one), orange right. Click opens it; drag a rectangle to filter by it."));
  let points;
  try { points = await ask("poses", { where }); } catch (error) { told.textContent = error.message; return {}; }
  told.textContent = points.length ? `${points.length} poses shown` : "no fitted hand to show";
  const xs = points.map((one) => one.map_x), ys = points.map((one) => one.map_y);
  const low = [Math.min(...xs), Math.min(...ys)], high = [Math.max(...xs), Math.max(...ys)];
  const place = (one) => [20 + (1000 * (one.map_x - low[0])) / (high[0] - low[0] || 1), 20 + (610 * (one.map_y - low[1])) / (high[1] - low[1] || 1)];
  const back = ([x, y]) => [low[0] + ((x - 20) / 1000) * (high[0] - low[0] || 1), low[1] + ((y - 20) / 610) * (high[1] - low[1] || 1)];
  const context = canvas.getContext("2d");
  const draw = (drag) => {
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.globalAlpha = 0.75;
    for (const one of points) { context.fillStyle = one.side === 0 ? "#3f7fe0" : "#e07b1a"; context.beginPath(); context.arc(...place(one), 4, 0, 7); context.fill(); }
    context.globalAlpha = 1;
    if (drag) { context.strokeStyle = "#e0342b"; context.lineWidth = 2; context.strokeRect(drag[0], drag[1], drag[2] - drag[0], drag[3] - drag[1]); }
  };
  const at = (event) => { const box = canvas.getBoundingClientRect(); return [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height]; };
  let from = null;
  canvas.addEventListener("pointerdown", (event) => { from = at(event); canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => { if (from) draw([...from, ...at(event)]); });
  canvas.addEventListener("pointerup", (event) => {
    const to = at(event);
    if (from && Math.hypot(to[0] - from[0], to[1] - from[1]) > 8) {
      const [[x0, y0], [x1, y1]] = [back(from), back(to)];
      const within = (name, a, b) => `${name} between ${short(Math.min(a, b), 4)} and ${short(Math.max(a, b), 4)}`;
      go({ view: "hands", where: joined([...conditions(where), within("map_x", x0, x1), within("map_y", y0, y1)]) });
    } else if (points.length) {
      const near = points.map((one) => [Math.hypot(place(one)[0] - to[0], place(one)[1] - to[1]), one]).sort((a, b) => a[0] - b[0])[0];
      if (near[0] < 20) opened(near[1]);
    }
    from = null;
    draw();
  });
  draw();
  const sides = [0, 1].map((side) => `${points.filter((one) => one.side === side).length} ${SIDE[side]}`).join(", ");
  canvas.setAttribute("aria-label", `Map of ${points.length} poses: ${sides}`);
  return { "/": () => filter.focus() };
}
