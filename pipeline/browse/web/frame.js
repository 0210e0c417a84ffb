// One frame: its image with all that is known of it, the clip to scrub through, the chosen hand in space and in numbers.
import { SIDE, ask, change, go, image, make, remember, say, short, state } from "./api.js";
import { actions } from "./decide.js";
import { drawFrame, drawStrip } from "./draw.js";
import { Turn } from "./turn.js";

const LAYERS = { boxes: true, skeleton: true, mesh: false, sources: false, refused: true, people: false };
const SHOWN = ["side", "score", "side_log_odds", "landmark_score", "quality", "keep", "reason", "box_only", "verdict", "outcome", "error_px",
  "error_share", "inlier_ratio", "flip_margin", "violation_deg", "track", "track_length", "person", "num_agree", "num_run"];

const loaded = (source) => new Promise((resolve) => { const picture = new Image(); picture.onload = picture.onerror = () => resolve(picture); picture.src = source; });

function facts(hand) {
  if (!hand) return make("p", {}, "no hand is chosen");
  const rows = SHOWN.filter((name) => hand[name] !== undefined && hand[name] !== null && hand[name] !== "").map((name) => {
    const value = name === "side" ? SIDE[hand.side] : typeof hand[name] === "number" ? short(hand[name], Number.isInteger(hand[name]) ? 0 : 3) : String(hand[name]);
    return make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value));
  });
  const seen = hand.sources.map((source, i) => make("tr", {}, make("th", { scope: "row" }, source), make("td", {}, `score ${short(hand.source_scores[i])}`)));
  return make("table", {}, make("tbody", {}, ...rows, ...seen));
}

function named(hand) {
  const what = hand.hand < 0 ? `refused ${SIDE[hand.side]} (${hand.reason})` : `${hand.hand} ${SIDE[hand.side]}${hand.keep === false ? ` (${hand.reason})` : ""}`;
  return hand.verdict ? `${what}, ${hand.verdict}` : what;
}

// Buttons for the views of a camera that bends straight lines; none where an image is looked at whole.
function looks(detail, now) {
  if (detail.views.length < 2) return null;
  return make("div", { class: "bar", role: "group", "aria-label": "Views of the frame" }, ...detail.views.map((one) => make("button", { type: "button",
    "aria-pressed": String(one === detail.look), onclick: () => go({ ...now, look: one || "", hand: "" }, true) }, one < 0 ? "whole image" : `view ${one}`)));
}

export async function frame(main) {
  const now = state();
  const here = { video: now.video, frame: Number(now.frame), look: Number(now.look ?? 0) };
  let detail, clip, picture, meshes = {}, edited = null, adding = false, addedSide = 1;
  try { [detail, clip, picture] = await Promise.all([ask("frame", here), ask("clip", here), loaded(image("frame", here))]); }
  catch (error) { main.replaceChildren(make("p", { role: "alert" }, error.message)); return {}; }
  let chosen = now.hand === undefined ? detail.hands[0]?.hand : Number(now.hand);
  const canvas = make("canvas", { class: "whole", tabindex: 0, role: "img", "aria-label": `Frame ${here.frame} of ${here.video}` });
  const strip = make("canvas", { class: "strip", role: "img", "aria-label": `Tracks of clip ${clip.clip}` });
  const turn = new Turn(), side = make("div", { class: "scroll" }), hint = make("p", { id: "hint" });
  const places = clip.frames.map(([index]) => index), at = Math.max(0, places.indexOf(here.frame));
  const slider = make("input", { type: "range", min: 0, max: Math.max(0, places.length - 1), value: at, "aria-label": "Frame of the clip",
    "aria-valuetext": `frame ${here.frame}`, onchange: () => step(Number(slider.value) - at) });
  const step = (by) => {
    const next = places[Math.max(0, Math.min(at + by, places.length - 1))];
    if (next !== undefined && next !== here.frame) go({ ...now, frame: next, ...followed(next) }, true);
  };
  const followed = (next) => {
    const track = clip.hands.find((one) => one.frame === here.frame && one.hand === chosen)?.track ?? -1;
    const same = track < 0 ? null : clip.hands.find((one) => one.frame === next && one.track === track);
    return same ? { hand: same.hand, look: same.view || "" } : { hand: "" };
  };
  const every = () => [...detail.hands, ...detail.refused];
  const hand = () => every().find((one) => one.hand === chosen);
  const seen = () => ({ ...here, hand: chosen, box: hand().box_seen ?? hand().box });
  const draw = () => drawFrame(canvas, picture, detail, { layers: LAYERS, chosen, edited,
    meshes: LAYERS.mesh ? Object.fromEntries(Object.entries(meshes).filter(([, one]) => one)) : {} });

  const layers = make("fieldset", { class: "bar" }, make("legend", {}, "Shown"), ...Object.keys(LAYERS).map((name) => {
    const input = make("input", { type: "checkbox", id: `layer-${name}`, checked: LAYERS[name], onchange: () => { LAYERS[name] = input.checked; show(); } });
    return make("label", { class: "check", for: `layer-${name}` }, input, name);
  }));
  const picker = make("div", { class: "bar", role: "group", "aria-label": "Hands of this frame" });

  async function show() {
    picker.replaceChildren(...every().map((one) => make("button", { type: "button", "aria-pressed": String(one.hand === chosen), "data-hand": one.hand,
      onclick: () => { chosen = one.hand; show(); } }, named(one))));
    side.replaceChildren(facts(hand()));
    drawStrip(strip, clip, here.frame);
    draw();
    if (state().view === "frame" && state().video === now.video && state().frame === now.frame) remember({ ...state(), hand: chosen });
    space().catch((error) => say(error.message));
  }
  // Meshes come as they are made: nobody waits for them with a decision.
  async function space() {
    const wanted = detail.look < 0 ? [] : (LAYERS.mesh ? detail.hands.map((one) => one.hand) : [chosen]).filter((one) => one >= 0);
    for (const one of wanted) if (meshes[one] === undefined) meshes[one] = await ask("mesh", { ...here, hand: one }).catch(() => null);
    turn.show(meshes[chosen] ?? null);
    draw();
  }
  const reload = async () => { [detail, clip] = await Promise.all([ask("frame", here), ask("clip", here)]); await show(); };
  // A run may have numbered hands anew: the chosen one is found by its box.
  const renew = async () => {
    const boxed = (one) => String(one?.box?.map(Math.round)), was = boxed(hand());
    [detail, clip, picture] = await Promise.all([ask("frame", here), ask("clip", here), loaded(image("frame", { ...here, at: Date.now() }))]);
    meshes = {};
    if (boxed(hand()) !== was) chosen = every().find((one) => boxed(one) === was)?.hand;
    await show();
  };

  const { keys, bar } = actions({ chosen: () => (hand() ? [seen()] : []), done: reload });
  const track = () => clip.hands.filter((one) => one.track === hand()?.track && one.track >= 0).map((one) => ({ video: here.video, frame: one.frame, hand: one.hand, box: one.box }));
  const swapTrack = async () => {
    const hands = track();
    if (!hands.length) { say("this hand is of no track"); return; }
    try { await change("decide", { what: "side", hands }); await reload(); say(`Swap side: ${hands.length} hands of the track`); } catch (error) { say(error.message); }
  };
  const begin = (add) => {
    if (!add && !hand()) { say("no hand is chosen"); return; }
    if (here.look < 0) { say("boxes are drawn in a view"); return; }
    const [wide, high] = detail.size;
    adding = add;
    edited = add ? [wide * 0.4, high * 0.4, wide * 0.6, high * 0.6] : [...hand().box];
    hint.textContent = `${add ? "A hand is added" : "The box is moved"}: arrows move it, with Shift they size it, with Alt finely; ${add ? "s changes its side, " : ""}Enter sets it, Escape leaves it`;
    canvas.focus();
    draw();
  };
  const finish = async (set) => {
    const box = edited;
    edited = null;
    hint.textContent = "";
    if (set) {
      const body = adding ? { what: "add", hands: [here], to_box: box, to_side: addedSide } : { what: "box", hands: [seen()], to_box: box };
      try { await change("decide", body); await reload(); say(adding ? `added a ${SIDE[addedSide]} hand` : "box moved"); } catch (error) { say(error.message); }
    }
    draw();
  };
  const nudge = (dx, dy, event) => {
    const by = (event.altKey ? 1 : 8) * Math.max(1, detail.size[0] / 900);
    const [x0, y0, x1, y1] = edited;
    edited = event.shiftKey ? [x0, y0, Math.max(x0 + 4, x1 + dx * by), Math.max(y0 + 4, y1 + dy * by)] : [x0 + dx * by, y0 + dy * by, x1 + dx * by, y1 + dy * by];
    draw();
  };
  const point = (event) => { const place = canvas.getBoundingClientRect(); return [((event.clientX - place.left) / place.width) * detail.size[0], ((event.clientY - place.top) / place.height) * detail.size[1]]; };
  let from = null;
  canvas.addEventListener("pointerdown", (event) => {
    const [x, y] = point(event);
    if (edited) { from = [x, y]; return; }
    const hit = every().find((one) => x >= one.box[0] && x <= one.box[2] && y >= one.box[1] && y <= one.box[3]);
    if (hit) { chosen = hit.hand; show(); }
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!edited || !from || !event.buttons) return;
    const [x, y] = point(event);
    edited = [Math.min(from[0], x), Math.min(from[1], y), Math.max(from[0], x) + 1, Math.max(from[1], y) + 1];
    draw();
  });
  canvas.addEventListener("pointerup", () => { from = null; });

  bar.append(make("button", { type: "button", onclick: swapTrack }, "Swap side of the track ", make("kbd", {}, "t")),
    make("button", { type: "button", onclick: () => begin(false) }, "Move box ", make("kbd", {}, "b")),
    make("button", { type: "button", onclick: () => begin(true) }, "Add hand ", make("kbd", {}, "a")));
  const back = () => { location.hash = now.back || "view=hands"; };
  const undoAdded = detail.added.length ? make("p", {}, "Added by people: ", ...detail.added.map((one) => make("button", { type: "button",
    onclick: async () => { try { await change("undo", { decision: one.decision }); await reload(); } catch (error) { say(error.message); } } }, `take back ${SIDE[one.side]} hand`))) : null;
  main.replaceChildren(
    make("p", {}, make("a", { href: `#${now.back || "view=hands"}` }, "Back"), ` ${here.video}, clip ${clip.clip.slice(here.video.length + 1)}, frame ${here.frame}${clip.frames[at]?.[1] == null ? "" : ` at ${short(clip.frames[at][1], 2)} s`}`),
    make("div", { class: "stage" },
      make("section", { "aria-label": "Frame" }, looks(detail, now), canvas, hint, strip, slider,
        make("div", { class: "pager" }, make("button", { type: "button", onclick: () => step(-1) }, "Frame before ", make("kbd", {}, "←")),
          make("button", { type: "button", onclick: () => step(1) }, "Next frame ", make("kbd", {}, "→"))), layers, undoAdded),
      make("section", { "aria-label": "The chosen hand" }, picker, turn.canvas, side)), bar);
  await show();
  if (document.activeElement === document.body) canvas.focus();
  const pick = (by) => { const all = every().map((one) => one.hand); if (all.length) { chosen = all[(all.indexOf(chosen) + by + all.length) % all.length]; show(); } };
  const arrows = (dx, dy, otherwise) => (event) => (edited ? nudge(dx, dy, event) : otherwise());
  return { ...keys, renew: () => (edited ? false : renew()), s: (event) => { if (edited && adding) { addedSide = 1 - addedSide; say(`${SIDE[addedSide]} hand`); } else keys.s(event); },
    t: swapTrack, b: () => begin(false), a: () => begin(true), ArrowLeft: arrows(-1, 0, () => step(-1)), ArrowRight: arrows(1, 0, () => step(1)),
    ArrowUp: arrows(0, -1, () => pick(-1)), ArrowDown: arrows(0, 1, () => pick(1)), "[": () => pick(-1), "]": () => pick(1),
    Enter: () => edited && finish(true), Escape: () => (edited ? finish(false) : back()) };
}
