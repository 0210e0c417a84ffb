// The fitted hand in space, turned by dragging or by the arrow keys: its triangles drawn from far to near.
import { make } from "./api.js";

const LIGHT = [-0.35, -0.55, -0.76];

// Triangles of a mesh (metres, camera axes: x right, y down, z forward) at the pixels `flat`, from far to near, lit from above the camera.
export function paintMesh(context, points, flat, faces, side) {
  const order = faces.map((face) => [points[face[0]][2] + points[face[1]][2] + points[face[2]][2], face]).sort((a, b) => b[0] - a[0]);
  const hue = side === 0 ? 216 : 28;
  for (const [, [a, b, c]] of order) {
    const [p, q, r] = [points[a], points[b], points[c]];
    const u = [q[0] - p[0], q[1] - p[1], q[2] - p[2]], v = [r[0] - p[0], r[1] - p[1], r[2] - p[2]];
    const n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
    if (n[2] > 0) continue;
    const lit = (n[0] * LIGHT[0] + n[1] * LIGHT[1] + n[2] * LIGHT[2]) / (Math.hypot(...n) || 1);
    context.fillStyle = context.strokeStyle = `hsl(${hue} 62% ${Math.round(26 + 44 * Math.max(0, lit))}%)`;
    context.beginPath();
    context.moveTo(...flat[a]);
    context.lineTo(...flat[b]);
    context.lineTo(...flat[c]);
    context.closePath();
    context.fill();
    context.stroke();
  }
}

export class Turn {
  constructor() {
    this.yaw = 0.5;
    this.pitch = 0.2;
    this.mesh = null;
    this.canvas = make("canvas", { class: "turn", width: 360, height: 360, tabindex: 0, role: "img", "aria-label": "The fitted hand in space; arrow keys turn it" });
    let held = null;
    this.canvas.addEventListener("pointerdown", (event) => { held = [event.clientX, event.clientY]; this.canvas.setPointerCapture(event.pointerId); });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!held) return;
      this.turn((event.clientX - held[0]) / 90, (event.clientY - held[1]) / 90);
      held = [event.clientX, event.clientY];
    });
    this.canvas.addEventListener("pointerup", () => { held = null; });
    this.canvas.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: [-0.2, 0], ArrowRight: [0.2, 0], ArrowUp: [0, -0.2], ArrowDown: [0, 0.2] }[event.key];
      if (by) { this.turn(...by); event.preventDefault(); event.stopPropagation(); }
    });
  }

  show(mesh) {
    this.mesh = mesh;
    if (mesh) this.canvas.dataset.yaw = this.yaw.toFixed(2);
    this.draw();
  }

  turn(yaw, pitch) {
    this.yaw += yaw;
    this.pitch = Math.max(-1.5, Math.min(1.5, this.pitch + pitch));
    this.canvas.dataset.yaw = this.yaw.toFixed(2);
    this.draw();
  }

  draw() {
    const context = this.canvas.getContext("2d"), { width, height } = this.canvas;
    context.clearRect(0, 0, width, height);
    const style = getComputedStyle(this.canvas);
    if (!this.mesh) {
      context.fillStyle = style.getPropertyValue("--soft");
      context.font = "16px system-ui";
      context.fillText("no fitted hand", 20, 34);
      return;
    }
    const { vertices, faces, side } = this.mesh;
    const middle = [0, 1, 2].map((axis) => vertices.reduce((sum, v) => sum + v[axis], 0) / vertices.length);
    const [cy, sy, cp, sp] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
    const turned = vertices.map((v) => {
      const [x, y, z] = v.map((value, axis) => value - middle[axis]);
      const x1 = x * cy + z * sy, z1 = z * cy - x * sy;
      return [x1, y * cp - z1 * sp, y * sp + z1 * cp];
    });
    const reach = Math.max(...turned.map(([x, y, z]) => Math.hypot(x, y, z)), 1e-6);
    const scale = (0.46 * width) / reach;
    const flat = turned.map(([x, y]) => [width / 2 + x * scale, height / 2 + y * scale]);
    paintMesh(context, turned, flat, faces, side);
  }
}
