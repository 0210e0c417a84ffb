"""The report: one self-contained HTML page of a run. What ran and what failed, what was found, and pictures to judge it by."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from hands.drawing.charts import bars, histogram, split_bar
from pipeline.engine.store import Store
from pipeline.report.found import Found, Run, gather, load_clip
from pipeline.report.pictures import Example, by_chance, draw_examples, spread
from pipeline.report.status import odd_lines
from pipeline.stage_settings import in_words
from stages.digest import HTML, seal_text
from stages.tables import LEFT, RIGHT, Videos

_STATES = ("done", "pending", "retry", "blocked", "failed")
_MAX_RANKED = 2000
_MAX_BARS = 15
_CROWD = 6

Pictures = Mapping[Example, tuple[str, str]]


def write_report(
    root: Path,
    out: Path,
    *,
    status: Sequence[Mapping[str, Any]] = (),
    title: str = "",
    num_pictures: int = 9,
    budget_bytes: int = 4 << 20,
) -> None:
    """Write the page of the data folder `root` to `out`, whole or not at all; its pictures take `budget_bytes` at most.

    `status` has one mapping a line: stage, state (done, pending, retry, blocked, failed), reason, count, advice. The same tables give
    the same page. Hands that were not fitted or reviewed yet are counted and said to be so.
    """
    store = Store(root)
    run = gather(store)
    found = run.found
    best = spread(_ranked(found, found.keep, -found.quality), num_pictures)
    worst = spread(_ranked(found, found.keep & ~_is_one_of(found, best), found.quality), num_pictures)
    reasons = Counter(found.reason[~found.keep & ~found.waiting].tolist())
    dropped = {reason: spread(by_chance(_ranked(found, found.reason == reason, found.row)), 3) for reason, _ in reasons.most_common()}
    examples = [*best, *worst, *(e for group in dropped.values() for e in group)]
    pictures = draw_examples(examples, partial(load_clip, store, run), budget_bytes=budget_bytes)
    sheet = partial(_sheet, found=found, pictures=pictures)
    page = Template((Path(__file__).parent / "report.html").read_text()).substitute(
        title=escape(title or store.root.name),
        tiles=_tiles(run),
        verdict=_verdict(status),
        settings=_settings(store),
        left_out=_left_out(store) + _odd(run),
        stages=_stages(status),
        problems=_problems(status),
        best=sheet(best),
        worst=sheet(worst),
        dropped=_dropped(reasons, dropped, sheet),
        charts=_charts(run, reasons),
        videos=_videos(found, run.videos),
    )
    with store.aside(out.absolute()) as temporary:
        temporary.write_text(seal_text(page, *HTML))


def _settings(store: Store) -> str:
    """What the run's user set, as a line of the page's head."""
    asked = in_words((store.read_json("run.json") or {}).get("settings", {}))
    return f"<p>set by hand: <code>{escape(asked)}</code></p>" if asked else ""


def _left_out(store: Store) -> str:
    """The files beside the videos that were not taken, folded away."""
    files = (store.read_json("left_out.json") or {}).get("files", [])
    if not files:
        return ""
    lines = "".join(f"<li>{escape(str(one.get('name')))}: {escape(str(one.get('why')))}" for one in files[:1000])
    return f"<details><summary>{len(files):,} files beside the videos were not taken</summary><ul>{lines}</ul></details>"


def _odd(run: Run) -> str:
    """Videos that are read in another way than plain ones."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for clips in run.clips.values():
        for word in clips.odd[0].split():
            found[word][clips.video[0]] = None
    lines = odd_lines({word: list(videos) for word, videos in found.items()})
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _ranked(found: Found, eligible: np.ndarray, rank: np.ndarray) -> list[Example]:
    """The first eligible hand of every second of every clip, lowest rank first."""
    rows = np.flatnonzero(eligible & np.isfinite(rank))
    rows = rows[np.argsort(rank[rows], kind="stable")]
    first: dict[tuple[str, int], int] = {}
    for row in rows.tolist():
        first.setdefault((found.clip[row], int(found.time_s[row])), row)
        if len(first) == _MAX_RANKED:
            break
    return [_example(found, row) for row in first.values()]


def _example(found: Found, row: int) -> Example:
    return Example(
        video=found.video[row],
        clip=found.clip[row],
        frame=int(found.frame[row]),
        time_s=float(found.time_s[row]),
        row=int(found.row[row]),
        index=row,
    )


def _is_one_of(found: Found, examples: Iterable[Example]) -> np.ndarray:
    mask = np.zeros(len(found.row), bool)
    mask[[e.index for e in examples]] = True
    return mask


def _tiles(run: Run) -> str:
    found, num_kept, num_waiting = run.found, int(run.found.keep.sum()), int(run.found.waiting.sum())
    share = f"{100 * num_kept / max(1, len(found.row) - num_waiting):.0f} % of those reviewed"
    duration_s = sum(float(c.end_s[0] - c.start_s[0]) for c in run.clips.values())
    num_frames = len(set(zip(found.video.tolist(), found.frame.tolist(), strict=True)))
    errors, qualities = (v[found.keep & np.isfinite(v)] for v in (found.error_px, found.quality))
    tiles = (
        (f"{len(run.videos):,}", "videos", f"{_clock(duration_s)} in {len(run.clips):,} clips"),
        (f"{len(found.row):,}", "hands found", f"on {num_frames:,} frames"),
        (f"{num_kept:,}", "hands kept", share + (f", {num_waiting:,} wait" if num_waiting else "")),
        (f"{np.median(errors):.1f} px" if len(errors) else "–", "median fit error", "of kept hands"),
        (f"{np.median(qualities):.2f}" if len(qualities) else "–", "median quality", "of kept hands, 0 to 1"),
    )
    return "".join(f"<div class=tile><b>{value}</b><span>{name}</span><small>{note}</small></div>" for value, name, note in tiles)


def _verdict(status: Sequence[Mapping[str, Any]]) -> str:
    counts: Counter[str] = Counter()
    for line in status:
        counts[line["state"]] += line["count"]
    if not counts:
        return ""
    if counts["done"] == counts.total():
        return f"<p class='verdict good'>All {counts.total():,} parts are done.</p>"
    rest = ", ".join(f"{counts[state]:,} {state}" for state in _STATES[1:] if counts[state])
    kind = "bad" if counts["failed"] or counts["retry"] else "open"
    return f"<p class='verdict {kind}'>{counts['done']:,} of {counts.total():,} parts are done; {rest}.</p>"


def _stages(status: Sequence[Mapping[str, Any]]) -> str:
    """One bar a stage. Every bar is full: what matters is the share that is not done."""
    by_stage: dict[str, Counter[str]] = defaultdict(Counter)
    for line in status:
        by_stage[line["stage"]][line["state"]] += line["count"]
    if not by_stage:
        return "<p class=empty>The state of the stages was not given.</p>"
    rows = []
    for stage, counts in by_stage.items():
        total = counts.total()
        pieces = "".join(f'<i class="{s}" style="width:{100 * counts[s] / total:.3f}%"></i>' for s in _STATES if counts[s])
        text = ", ".join(f"{counts[s]:,} {s}" for s in _STATES if counts[s])
        rows.append(f'<div class="row stage"><code>{escape(stage)}</code><span class="track">{pieces}</span><span>{text}</span></div>')
    return f'<div class="bars">{"".join(rows)}</div>'


def _problems(status: Sequence[Mapping[str, Any]]) -> str:
    lines = [line for line in status if line["state"] != "done"]
    if not lines:
        return ""
    rows = []
    for line in lines:
        stage, state, reason, advice = (escape(str(line[name])) for name in ("stage", "state", "reason", "advice"))
        chip = f'<span class="chip {state}">{state}</span>'
        rows.append(f"<tr><td><code>{stage}</code><td>{chip}<td>{reason}<td class=n>{line['count']:,}<td>{advice}</tr>")
    head = "<tr><th>stage</th><th>state</th><th>reason</th><th class=n>parts</th><th>what to do</th></tr>"
    return f"<div class=scroll><table>{head}{''.join(rows)}</table></div>"


def _dropped(reasons: Counter[str], examples: Mapping[str, list[Example]], sheet: Any) -> str:
    groups = [
        f"<h3><code>{escape(reason)}</code><small>{count:,} {'hand' if count == 1 else 'hands'}</small></h3>{sheet(examples[reason])}"
        for reason, count in reasons.most_common()
    ]
    return "".join(groups) or "<p class=empty>No hand was dropped.</p>"


def _sheet(examples: Sequence[Example], *, found: Found, pictures: Pictures) -> str:
    cards = [_card(example, found, pictures.get(example)) for example in examples]
    return f"<div class=sheet>{''.join(cards)}</div>" if cards else "<p class=empty>None yet.</p>"


def _card(example: Example, found: Found, pictures: tuple[str, str] | None) -> str:
    """The frame, the close-up and what is known of the hand."""
    i = example.index
    side = {LEFT: "left", RIGHT: "right"}.get(int(found.side[i]), "unknown")
    if pictures:
        alt = f"{side} hand in {example.video}, frame {example.frame}"
        images = "".join(f'<img src="{uri}" alt="{escape(alt)}">' for uri in pictures)
    else:
        images = "<span class=gone>the video can no longer be read here</span>"
    facts = [
        f"quality <b>{_known(found.quality[i], 2)}</b>",
        f"error <b>{_known(found.error_px[i], 1)} px</b>",
        f"score <b>{_known(found.score[i], 2)}</b>",
        f"size <b>{found.size_px[i]:.0f} px</b>",
        *([f"seen by <b>{found.num_agree[i]} of {found.num_run[i]}</b>"] if found.num_run[i] > 1 else []),
    ]
    quality = float(np.nan_to_num(found.quality[i]))
    return (
        f'<figure class="card"><div class="pair">{images}</div><div class="meter"><i style="width:{100 * quality:.1f}%"></i></div>'
        f'<figcaption><div class="where"><span class="chip {side}">{side}</span><b title="{escape(example.video)}">'
        f"{escape(example.video)}</b><small>{_clock(example.time_s, tenths=True)} · frame {example.frame:,}</small></div>"
        f'<div class="facts">{"".join(f"<span>{fact}</span>" for fact in facts)}</div></figcaption></figure>'
    )


def _known(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "–"


def _charts(run: Run, reasons: Counter[str]) -> str:
    found, keep, verdicts = run.found, run.found.keep, _verdicts(run.found)

    def of(values: np.ndarray) -> dict[str, np.ndarray]:
        return {name: values[mask] for name, mask in verdicts.items()}

    left = found.side == LEFT
    _, on_frame = np.unique(np.char.add(found.clip.astype(str), found.frame.astype(str)), return_counts=True)
    crowds = Counter(f"{n}" if n < _CROWD else f"{_CROWD} or more" for n in np.sort(on_frame).tolist())
    return "".join((
        histogram("Quality", of(found.quality), np.linspace(0, 1, 26), note="from the review"),
        histogram("Score", of(found.score), np.linspace(0, 1, 26), note="existence, all detectors fused"),
        histogram("Fit error", of(found.error_px), np.linspace(0, _upper(found.error_px, 5), 26), unit=" px", note="joints to landmarks"),
        histogram("Fit error over size", of(100 * found.error_share), np.linspace(0, _upper(100 * found.error_share, 5), 26), unit=" %"),
        histogram("Hand size", of(found.size_px), np.linspace(0, _upper(found.size_px, 50), 26), unit=" px", note="longer side of the box"),
        histogram("Hand size over frame", of(100 * found.size_share), np.linspace(0, 100, 26), unit=" %"),
        split_bar("Side of kept hands", {"left": int((left & keep).sum()), "right": int(((found.side == RIGHT) & keep).sum())}),
        _list("Hands on a frame", bars([(name, {"kept": n}) for name, n in crowds.items()]), "frames"),
        _list("Seen by", bars([(name, {"kept": n}) for name, n in run.sources.most_common(_MAX_BARS)]), "hands by detector"),
        _list("Why dropped", bars([(name, {"dropped": n}) for name, n in reasons.most_common()]), "hands by reason"),
    ))  # fmt: skip


def _verdicts(found: Found) -> dict[str, np.ndarray]:
    """Masks by what the review said, under the names of their colours; those that wait only where there are any."""
    masks = {"kept": found.keep, "dropped": ~found.keep & ~found.waiting}
    return {**masks, "waiting": found.waiting} if found.waiting.any() else masks


def _upper(values: np.ndarray, least: float) -> float:
    """A round upper end of an axis that shows all but the last hundredth."""
    finite = values[np.isfinite(values)]
    top = max(least, float(np.percentile(finite, 99)) if len(finite) else least)
    magnitude = 10 ** np.floor(np.log10(top))
    return float(next(m for m in (1, 2, 2.5, 4, 5, 8, 10) if m * magnitude >= top) * magnitude)


def _list(title: str, content: str, note: str) -> str:
    return f'<figure class="chart"><figcaption>{escape(title)}<small>{escape(note)}</small></figcaption>{content}</figure>'


def _videos(found: Found, videos: Mapping[str, Videos]) -> str:
    """Hands of every video, most first; a long tail folds away."""
    counts = {name: Counter(found.video[mask].tolist()) for name, mask in _verdicts(found).items()}
    rows = [(video, {name: count[video] for name, count in counts.items()}) for video in videos]
    rows.sort(key=lambda row: -sum(row[1].values()))
    highest = max([1, *(sum(parts.values()) for _, parts in rows)])
    tail = rows[_MAX_BARS:]
    more = f"<details><summary>{len(tail):,} more videos</summary>{bars(tail, highest=highest)}</details>" if tail else ""
    return bars(rows[:_MAX_BARS], highest=highest) + more if rows else "<p class=empty>No video yet.</p>"


def _clock(time_s: float, *, tenths: bool = False) -> str:
    """0:07, 12:05, 1:02:03; with tenths 0:07.4."""
    minutes, seconds = divmod(time_s if tenths else round(time_s), 60)
    hours, minutes = divmod(int(minutes), 60)
    last = f"{seconds:04.1f}" if tenths else f"{int(seconds):02d}"
    return f"{hours}:{minutes:02d}:{last}" if hours else f"{minutes}:{last}"
