// What is known of a frame, drawn over its image: boxes, skeletons, meshes, each source's box, what was refused.
import { paintMesh } from "./turn.js";

const FINGERS = [0, 1, 2, 3, 4].map((finger) => [0, 1, 2, 3, 4].map((joint) => (joint ? finger * 4 + joint : 0)));
const COLOURS = { 0: "#4f8df0", 1: "#f08a24", "-1": "#c8c8c8" };

function box(context, [x0, y0, x1, y1], colour, width, dash = []) {
  context.setLineDash(dash);
  context.lineWidth = width + 2;
  context.strokeStyle = "rgba(0,0,0,.55)";
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  context.lineWidth = width;
  context.strokeStyle = colour;
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  context.setLineDash([]);
}

function label(context, text, x, y, unit) {
  context.font = `${13 * unit}px system-ui`;
  const wide = context.measureText(text).width;
  context.fillStyle = "rgba(0,0,0,.72)";
  context.fillRect(x, y - 16 * unit, wide + 8 * unit, 18 * unit);
  context.fillStyle = "#fff";
  context.fillText(text, x + 4 * unit, y - 3 * unit);
}

function skeleton(context, points, colour, unit) {
  context.strokeStyle = colour;
  context.lineWidth = 2 * unit;
  for (const finger of FINGERS) {
    context.beginPath();
    finger.forEach((joint, i) => { const [x, y] = points[joint]; if (i) context.lineTo(x, y); else context.moveTo(x, y); });
    context.stroke();
  }
  context.fillStyle = "#fff";
  for (const [x, y] of points) { context.beginPath(); context.arc(x, y, 2 * unit, 0, 7); context.fill(); }
}

function mesh(context, { vertices, faces, camera, side }) {
  const flat = vertices.map(([x, y]) => [camera[0] * x + camera[1], camera[0] * y + camera[2]]);
  context.globalAlpha = 0.72;
  context.lineWidth = 0.3;
  paintMesh(context, vertices, flat, faces, side);
  context.globalAlpha = 1;
}

const whole = (points) => points && points.every((point) => point[0] !== null);

// `edited`: a box that is moved or drawn just now; `layers`: which are shown.
export function drawFrame(canvas, picture, detail, { layers, chosen, meshes, edited }) {
  const context = canvas.getContext("2d");
  const [wide, high] = detail.size;
  canvas.width = picture.naturalWidth || wide;
  canvas.height = picture.naturalHeight || high;
  const scale = canvas.width / wide;
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  context.setTransform(scale, 0, 0, scale, 0, 0);
  const unit = Math.max(1, wide / 900);
  if (layers.people) for (const person of detail.people) box(context, person.box, "#7bc47f", unit, [6 * unit, 4 * unit]);
  if (layers.mesh) for (const one of Object.values(meshes)) mesh(context, one);
  for (const hand of detail.hands) {
    const colour = COLOURS[hand.side];
    if (layers.sources) (hand.source_boxes ?? []).forEach((one, i) => { box(context, one, "#f5e663", unit, [3 * unit, 3 * unit]); label(context, hand.sources[i], one[0], one[3] + 16 * unit, unit); });
    if (layers.skeleton && whole(hand.keypoints)) skeleton(context, hand.keypoints, colour, unit);
    if (layers.boxes) {
      box(context, hand.box, colour, (hand.hand === chosen ? 4 : 2) * unit, hand.keep === false ? [8 * unit, 5 * unit] : []);
      label(context, `${hand.hand} ${{ 0: "L", 1: "R", "-1": "?" }[hand.side]}${hand.keep === false ? ` ${hand.reason}` : ""}`, hand.box[0], hand.box[1], unit);
    }
  }
  if (layers.boxes) for (const one of detail.added) { box(context, one.box, COLOURS[one.side], 3 * unit); label(context, `added by ${one.who}`, one.box[0], one.box[1], unit); }
  if (layers.refused) for (const one of detail.refused) { box(context, one.box, "#e05a50", (one.hand === chosen ? 3 : 1) * unit, [2 * unit, 3 * unit]); label(context, `refused: ${one.reason}`, one.box[0], one.box[1], unit); }
  if (edited) { box(context, edited, "#ffffff", 3 * unit, [10 * unit, 4 * unit]); }
  context.setTransform(1, 0, 0, 1, 0, 0);
}

// The hands of a clip over its frames: a row a track, what is dropped pale, the frame that is shown marked.
export function drawStrip(canvas, clip, frame) {
  const tracks = [...new Set(clip.hands.map((hand) => hand.track))].sort((a, b) => a - b).slice(0, 12);
  canvas.width = 900;
  canvas.height = 10 + 12 * Math.max(1, tracks.length);
  const context = canvas.getContext("2d"), cell = canvas.width / Math.max(1, clip.frames.length);
  const at = new Map(clip.frames.map(([index], i) => [index, i]));
  for (const hand of clip.hands) {
    const row = tracks.indexOf(hand.track);
    if (row < 0 || !at.has(hand.frame)) continue;
    context.globalAlpha = hand.keep ? 1 : 0.35;
    context.fillStyle = COLOURS[hand.side];
    context.fillRect(at.get(hand.frame) * cell, 5 + row * 12, Math.max(1, cell - 1), 10);
    if (hand.verdict) { context.globalAlpha = 1; context.fillStyle = "#1b9e5a"; context.fillRect(at.get(hand.frame) * cell, 5 + row * 12, Math.max(1, cell - 1), 3); }
  }
  context.globalAlpha = 1;
  context.strokeStyle = "#e0342b";
  context.lineWidth = 2;
  const x = ((at.get(frame) ?? 0) + 0.5) * cell;
  context.beginPath();
  context.moveTo(x, 0);
  context.lineTo(x, canvas.height);
  context.stroke();
}
