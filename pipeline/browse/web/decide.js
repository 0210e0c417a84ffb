// Decisions on hands, from buttons and keys alike.
import { change, make, say } from "./api.js";

export const DECISIONS = [
  ["k", "Keep", { what: "keep" }],
  ["r", "Reject", { what: "reject" }],
  ["s", "Swap side", { what: "side" }],
  ["1", "Left", { what: "side", to_side: 0 }],
  ["2", "Right", { what: "side", to_side: 1 }],
  ["w", "Wrong landmarks", { what: "landmarks" }],
];

// The box says which hand was seen: a run may have numbered hands anew since.
const place = ({ video, frame, hand, box, x0, y0, x1, y1 }) => ({ video, frame, hand, box: box ?? (x0 === undefined ? undefined : [x0, y0, x1, y1]) });

// `view`: chosen() gives the hands, done() is called after; `audit` is the audit that is answered, or "".
export function actions(view) {
  const decide = async (decision, name) => {
    const hands = view.chosen();
    if (!hands.length) { say("no hand is chosen"); return; }
    try {
      await change("decide", { ...decision, hands: hands.map(place), audit: view.audit?.() ?? "" });
      await view.done(true);
      say(`${name}: ${hands.length} ${hands.length === 1 ? "hand" : "hands"}`);
    } catch (error) { say(error.message); }
  };
  const undo = async () => {
    try { const { of } = await change("undo", {}); await view.done(false); say(`undone: ${of}`); } catch (error) { say(error.message); }
  };
  const keys = Object.fromEntries(DECISIONS.map(([key, name, decision]) => [key, () => decide(decision, name)]));
  keys.u = undo;
  const buttons = DECISIONS.map(([key, name, decision]) =>
    make("button", { type: "button", "data-key": key, onclick: () => decide(decision, name) }, `${name} `, make("kbd", {}, key)));
  buttons.push(make("button", { type: "button", "data-key": "u", onclick: undo }, "Undo ", make("kbd", {}, "u")));
  return { keys, bar: make("div", { class: "actions", role: "toolbar", "aria-label": "Decisions" }, ...buttons) };
}
