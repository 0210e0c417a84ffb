// Who decided what, and when; any decision can be taken back.
import { ask, change, go, make, say } from "./api.js";

export async function history(main) {
  const show = async () => {
    const rows = await ask("history");
    const undone = new Set(rows.map((row) => row.undoes).filter(Boolean));
    const lines = rows.map((row) => make("tr", {},
      make("td", {}, new Date(row.when_s * 1000).toLocaleString()), make("td", {}, row.who), make("td", {}, row.what), make("td", {}, String(row.num)),
      make("td", {}, make("a", { href: `#${new URLSearchParams({ view: "frame", video: row.video, frame: row.frame, back: "view=history" })}` }, `${row.video}, frame ${row.frame}`)),
      make("td", {}, row.what === "undo" ? "" : undone.has(row.decision) ? "taken back" : make("button", { type: "button", onclick: async () => {
        try { const { of } = await change("undo", { decision: row.decision }); await show(); say(`undone: ${of}`); } catch (error) { say(error.message); } } }, "Take back"))));
    const head = make("tr", {}, ...["when", "who", "what", "hands", "first of them", "take back"].map((name) => make("th", { scope: "col" }, name)));
    main.replaceChildren(make("h2", {}, "Decisions"), rows.length ? make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Decisions" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines)))
      : make("p", {}, "nothing is decided yet"));
  };
  await show();
  return { renew: show, u: async () => { try { const { of } = await change("undo", {}); await show(); say(`undone: ${of}`); } catch (error) { say(error.message); } }, Escape: () => go({ view: "hands" }) };
}
