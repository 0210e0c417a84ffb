// Histograms of numbers: each bar is a button that holds the filter to its range; arrows go from bar to bar, Tab from one to the next.
import { make, number } from "./api.js";
import { has } from "./filter.js";

const round = (value) => Number(value.toFixed(6));

// The conditions of a bar. The outermost ones hold what lies beyond them too.
export function range(name, { low, high, counts }, i) {
  const edge = (k) => round(low + (k * (high - low)) / counts.length);
  return [i > 0 && `${name} >= ${edge(i)}`, i < counts.length - 1 && `${name} < ${edge(i + 1)}`].filter(Boolean);
}

export function spread(name, one, where, set) {
  const most = Math.max(1, ...one.counts);
  const bars = one.counts.map((count, i) => {
    const parts = range(name, one, i), label = `${parts.join(", ")}: ${number(count)} hands`;
    const bar = make("button", { type: "button", title: label, "aria-label": label, "aria-pressed": String(has(where, ...parts)),
      tabindex: i ? -1 : 0, "aria-disabled": !count && "true", onclick: () => count && set(parts) }, make("span"));
    bar.firstChild.style.height = count ? `max(2px, ${(100 * count) / most}%)` : "0";
    return bar;
  });
  const row = make("div", { class: "spread", role: "group", "aria-label": `${name}, ${one.low} to ${one.high}` }, ...bars);
  row.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key], at = bars.indexOf(event.target);
    if (!by || at < 0) return;
    event.preventDefault();
    event.stopPropagation();
    const next = bars[Math.max(0, Math.min(at + by, bars.length - 1))];
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  return row;
}
