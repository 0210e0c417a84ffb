"""The report: one self-contained HTML page of a run. What ran and what failed, what was found, and images to judge it by."""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
from markupsafe import Markup

from hands.drawing.charts import bars, histogram, quartiles, split_bar
from pipeline.engine.store import Store
from pipeline.report.found import Found, Run, gather, load_clip
from pipeline.report.near import HASH_BITS, Near, near_frames, near_poses
from pipeline.report.overview import UNPLANNED, Overview
from pipeline.report.pictures import Example, by_chance, draw_examples, spread
from stages.digest import HTML, seal_text
from stages.tables import LEFT, RIGHT

STATES = ("done", "pending", "retry", "blocked", "failed")
_MAX_RANKED = 2000
_MAX_BARS = 15
_CROWD = 6

Pictures = Mapping[Example, tuple[str, str]]


def write_report(
    root: Path,
    out: Path,
    *,
    overview: Overview = UNPLANNED,
    title: str = "",
    num_pictures: int = 9,
    budget_bytes: int = 4 << 20,
) -> None:
    """Write the page of the data folder `root` to `out`, whole or not at all; its images take `budget_bytes` at most.

    The same tables give the same page. Hands that were not fitted or reviewed yet are counted and said to be so.
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
    card = partial(_card, found=found, pictures=pictures)
    page = _template().render(
        title=title or Path(store.name).name,
        overview=overview,
        states=STATES,
        damaged=[*overview.damaged, *run.damaged],
        stages=_stages(overview),
        tiles=_tiles(run),
        best=[card(example) for example in best],
        worst=[card(example) for example in worst],
        dropped=[(reason, count, [card(example) for example in dropped[reason]]) for reason, count in reasons.most_common()],
        charts=Markup(_charts(run, reasons)),
        agreement=_agreement(run),
        near=[_told_near(near_poses(store, found), "degrees"), _told_near(near_frames(store), f"bits of {HASH_BITS}")],
        videos=Markup(_videos(run)),
        without_hands=sorted(set(run.videos) - set(found.video[found.keep].tolist())),
    )
    with store.aside(out.absolute()) as temporary:
        temporary.write_text(seal_text(page, *HTML))


def _template() -> jinja2.Template:
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=folder, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["thousands"] = lambda number: f"{number:,}"
    environment.filters["megabytes"] = lambda number: f"{number / 1e6:,.1f} MB"
    return environment.get_template("report.html")


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


def _tiles(run: Run) -> list[tuple[str, str, str]]:
    """Value, name and note of each."""
    found, num_kept, num_waiting = run.found, int(run.found.keep.sum()), int(run.found.waiting.sum())
    share = f"{100 * num_kept / max(1, len(found.row) - num_waiting):.0f} % of those reviewed"
    doubtful = int((found.keep & found.box_only).sum())
    notes = [share, *([f"{doubtful:,} for box and side alone"] if doubtful else []), *([f"{num_waiting:,} wait"] if num_waiting else [])]
    duration_s = sum(float(c.end_s[0] - c.start_s[0]) for c in run.clips.values())
    num_frames = len(set(zip(found.video.tolist(), found.frame.tolist(), strict=True)))
    errors, qualities = (v[found.keep & np.isfinite(v)] for v in (found.error_px, found.quality))
    return [
        (f"{len(run.videos):,}", "videos", f"{_clock(duration_s)} in {len(run.clips):,} clips"),
        (f"{len(found.row):,}", "hands found", f"on {num_frames:,} frames"),
        (f"{num_kept:,}", "hands kept", ", ".join(notes)),
        (f"{np.median(errors):.1f} px" if len(errors) else "–", "median fit error", "of kept hands"),
        (f"{np.median(qualities):.2f}" if len(qualities) else "–", "median quality", "of kept hands, 0 to 1"),
    ]


def _stages(overview: Overview) -> dict[str, Counter[str]]:
    """Parts of each stage by state, in the order of the recipe."""
    by_stage: dict[str, Counter[str]] = {}
    for line in overview.status:
        by_stage.setdefault(line["stage"], Counter())[line["state"]] += line["count"]
    return by_stage


def _card(example: Example, found: Found, pictures: Pictures) -> dict[str, Any]:
    """What is shown of one hand: the frame, the close-up and what is known of it."""
    i = example.index
    side = {LEFT: "left", RIGHT: "right"}.get(int(found.side[i]), "unknown")
    facts = [
        ("quality", _known(found.quality[i], 2)),
        ("error", f"{_known(found.error_px[i], 1)} px"),
        ("score", _known(found.score[i], 2)),
        ("size", f"{found.size_px[i]:.0f} px"),
        *([("seen by", f"{found.num_agree[i]} of {found.num_run[i]}")] if found.num_run[i] > 1 else []),
    ]
    return {
        "video": example.video,
        "frame": example.frame,
        "browse": f"view=frame&video={quote(example.video)}&frame={example.frame}&hand={found.hand[i]}",
        "clock": _clock(example.time_s, tenths=True),
        "side": side,
        "box_only": bool(found.keep[i] and found.box_only[i]),
        "images": pictures.get(example, ()),
        "meter": f"{100 * float(np.nan_to_num(found.quality[i])):.1f}",
        "facts": facts,
    }


def _known(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "–"


def _agreement(run: Run) -> list[tuple[str, int, int, float]]:
    """Each detector: hands it saw, hands that it alone saw, and which share of these the review kept (NaN where there are none)."""
    rows = []
    for name, seen in sorted(run.seen_by.items(), key=lambda one: -int(one[1].sum())):
        alone = seen & (run.found.num_agree == 1)
        kept = float(run.found.keep[alone].mean()) if alone.any() else float("nan")
        rows.append((name, int(seen.sum()), int(alone.sum()), kept))
    return rows


def _told_near(near: Near, unit: str) -> dict[str, Any]:
    """Near-duplicates as the page tells them, each pair with the hands of both places."""
    pairs = []
    for pair in near.pairs:
        places = [f"(video = {quoted(video)} and frame = {frame}{f' and hand = {hand}' if hand >= 0 else ''})"
                  for video, frame, hand in (pair.first, pair.second)]  # fmt: skip
        told = [f"{video}, frame {frame:,}" for video, frame, _ in (pair.first, pair.second)]
        pairs.append((*told, f"{pair.distance:.1f} {unit}", where_link(" or ".join(places))))
    return {"looked_at": near.num_looked_at, "near": near.num_near, "pairs": pairs}


def _charts(run: Run, reasons: Counter[str]) -> str:
    found, keep, verdicts = run.found, run.found.keep, _verdicts(run.found)

    def of(values: np.ndarray) -> dict[str, np.ndarray]:
        return {name: values[mask] for name, mask in verdicts.items()}

    def spread(title: str, column: str, values: np.ndarray, top: float, *, times: float = 1, **words: str) -> str:
        edges = np.linspace(0, top, 26)
        return histogram(title, of(times * values), edges, links=_ranges(column, edges / times), **words)

    left = found.side == LEFT
    _, on_frame = np.unique(np.char.add(found.clip.astype(str), found.frame.astype(str)), return_counts=True)
    crowds = Counter(f"{n}" if n < _CROWD else f"{_CROWD} or more" for n in np.sort(on_frame).tolist())
    why = {reason: where_link(f"reason = {quoted(reason)}") for reason in reasons}
    share = 100 * found.error_share
    return "".join((
        spread("Quality", "quality", found.quality, 1, note="from the review"),
        spread("Score", "score", found.score, 1, note="existence, all detectors fused"),
        spread("Fit error", "error_px", found.error_px, _upper(found.error_px, 5), unit=" px", note="joints to landmarks"),
        spread("Fit error over size", "error_share", found.error_share, _upper(share, 5), times=100, unit=" %"),
        spread("Hand size", "size_px", found.size_px, _upper(found.size_px, 50), unit=" px", note="longer side of the box"),
        quartiles("Quality by size", found.size_share[keep] * 100, found.quality[keep], (0, 4, 10, 25, 100), unit=" %", note="kept hands"),
        spread("Hand size over frame", "size_share", found.size_share, 100, times=100, unit=" %"),
        split_bar("Side of kept hands", {"left": int((left & keep).sum()), "right": int(((found.side == RIGHT) & keep).sum())}),
        _list("Hands on a frame", bars([(name, {"kept": n}) for name, n in crowds.items()]), "frames"),
        _list("Why dropped", bars([(name, {"dropped": n}) for name, n in reasons.most_common()], links=why), "hands by reason"),
    ))  # fmt: skip


def _ranges(column: str, edges: np.ndarray) -> list[str]:
    """Filters of the bins of a histogram; the outermost ones hold what lies beyond them too."""
    last, tests = len(edges) - 2, []
    for i, (low, high) in enumerate(pairwise(edges.tolist())):
        bounds = ([f"{column} >= {low:.6g}"] if i else []) + ([f"{column} < {high:.6g}"] if i < last else [])
        tests.append(where_link(" and ".join(bounds)))
    return tests


def where_link(where: str) -> str:
    """The hands of a filter, as `whim browse` is asked for them."""
    return f"view=hands&where={quote(where)}"


def quoted(text: str) -> str:
    """A text as filters have it."""
    return "'" + text.replace("'", "''") + "'"


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
    return f'<figure class="chart"><figcaption>{Markup.escape(title)}<small>{Markup.escape(note)}</small></figcaption>{content}</figure>'


def _videos(run: Run) -> str:
    """Hands of every video, most first; a long tail folds away."""
    found = run.found
    counts = {name: Counter(found.video[mask].tolist()) for name, mask in _verdicts(found).items()}
    rows = [(video, {name: count[video] for name, count in counts.items()}) for video in run.videos]
    rows.sort(key=lambda row: -sum(row[1].values()))
    highest = max([1, *(sum(parts.values()) for _, parts in rows)])
    tail = rows[_MAX_BARS:]
    links = {video: where_link(f"video = {quoted(video)}") for video in run.videos}
    rest = bars(tail, highest=highest, links=links)
    more = f"<details><summary>{len(tail):,} more videos</summary>{rest}</details>" if tail else ""
    return bars(rows[:_MAX_BARS], highest=highest, links=links) + more if rows else "<p class=empty>No video yet.</p>"


def _clock(time_s: float, *, tenths: bool = False) -> str:
    """0:07, 12:05, 1:02:03; with tenths 0:07.4."""
    minutes, seconds = divmod(round(time_s, 1) if tenths else round(time_s), 60)
    hours, minutes = divmod(int(minutes), 60)
    last = f"{seconds:04.1f}" if tenths else f"{int(seconds):02d}"
    return f"{hours}:{minutes:02d}:{last}" if hours else f"{minutes}:{last}"
