// A grid of hands that can be chosen from with keys: a listbox, one tile of which has the focus.
import { SIDE, go, image, make, short } from "./api.js";

// Open the frame of a hand; Escape there comes back to this page.
export const opened = ({ video, frame, hand, view }) => go({ view: "frame", video, frame, hand, look: view || "", back: location.hash.slice(1) });

// A hand by its box as well: a run may have numbered hands anew.
const named = ({ video, frame, hand, box, x0, y0, x1, y1 }) => `${video}/${frame}/${hand}/${(box ?? [x0, y0, x1, y1]).map(Math.round)}`;

export class Grid {
  constructor(label, open) {
    this.rows = [];
    this.chosen = new Set();
    this.at = 0;
    this.from = 0;
    this.open = open;
    this.element = make("div", { class: "grid", role: "listbox", "aria-multiselectable": "true", "aria-label": label });
    this.element.addEventListener("click", (event) => this.click(event));
    this.element.addEventListener("dblclick", () => this.open(this.rows[this.at]));
  }

  // `keep`: the hand that has the focus, or its place where it is gone; `choose`: what is chosen too, where the rows are the same.
  show(rows, { keep = false, choose = false } = {}) {
    const focused = this.element.contains(document.activeElement), names = rows.map(named), before = this.rows.map(named);
    const place = (index) => (names.includes(before[index]) ? names.indexOf(before[index]) : Math.max(0, Math.min(index, rows.length - 1)));
    this.chosen = choose && String(names) === String(before) ? this.chosen : new Set();
    this.rows = rows;
    [this.at, this.from] = keep ? [place(this.at), place(this.from)] : [0, 0];
    this.element.replaceChildren(...rows.map((row, index) => this.tile(row, index)));
    this.paint();
    if (focused) this.focus();
  }

  tile(row, index) {
    const side = SIDE[row.side] ?? "unknown";
    const bad = row.keep === false;
    const said = row.verdict ?? row.answer;
    const what = row.refused ? `refused ${side} hand` : `${side} hand ${row.hand}`, why = bad && !row.refused ? "dropped: " : "";
    const name = `${what} of ${row.video}, frame ${row.frame}${bad ? `, ${why}${row.reason}` : ""}${said ? `, ${said}` : ""}`;
    return make("div", { class: `tile${bad ? " dropped" : ""}${row.refused ? " refused" : ""}`, role: "option", tabindex: index === this.at ? 0 : -1, "data-index": index,
      "aria-selected": "false", "aria-label": name },
    make("img", { loading: "lazy", alt: "", width: 144, height: 144, src: image("hand", { video: row.video, frame: row.frame, hand: row.hand, at: [row.x0, row.y0, ...row.box ?? []] }) }),
    make("span", { class: "what" }, make("span", { class: side }, side), row.refused || row.quality === undefined ? null : make("span", {}, short(row.quality))),
    bad && row.reason ? make("span", { class: "reason" }, row.refused ? `refused: ${row.reason}` : row.reason) : null,
    said ? make("span", { class: /reject|wrong/.test(said) ? "said bad" : "said" }, said) : null);
  }

  click(event) {
    const tile = event.target.closest(".tile");
    if (!tile) return;
    const index = Number(tile.dataset.index);
    if (event.shiftKey) this.range(this.from, index);
    else if (event.ctrlKey || event.metaKey) this.toggle(index);
    else { this.chosen.clear(); this.from = index; }
    this.move(index);
  }

  focus() { this.element.children[this.at]?.focus(); }

  move(index, extend = false) {
    if (!this.rows.length) return;
    const next = Math.max(0, Math.min(index, this.rows.length - 1));
    if (extend) this.range(this.from, next); else if (!this.chosen.size) this.from = next;
    this.element.children[this.at]?.setAttribute("tabindex", "-1");
    this.at = next;
    this.element.children[next].setAttribute("tabindex", "0");
    this.focus();
    this.paint();
  }

  range(a, b) { this.chosen.clear(); for (let i = Math.min(a, b); i <= Math.max(a, b); i += 1) this.chosen.add(i); }
  toggle(index) { if (!this.chosen.delete(index)) this.chosen.add(index); this.from = index; this.paint(); }
  all() { this.range(0, this.rows.length - 1); this.paint(); }
  paint() { [...this.element.children].forEach((tile, i) => tile.setAttribute("aria-selected", String(this.chosen.has(i)))); }
  taken() { return this.chosen.size ? [...this.chosen].sort((a, b) => a - b).map((i) => this.rows[i]) : this.rows.slice(this.at, this.at + 1); }

  columns() { return getComputedStyle(this.element).gridTemplateColumns.split(" ").length; }

  keys() {
    const step = (by) => (event) => this.move(this.at + by(), event.shiftKey);
    return {
      ArrowRight: step(() => 1), ArrowLeft: step(() => -1), ArrowDown: step(() => this.columns()), ArrowUp: step(() => -this.columns()),
      Home: step(() => -this.at), End: step(() => this.rows.length), " ": () => this.toggle(this.at), "*": () => this.all(),
      Enter: () => this.rows.length && this.open(this.rows[this.at]),
    };
  }
}
