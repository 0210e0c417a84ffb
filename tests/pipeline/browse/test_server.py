"""The local server answers whoever has its address, and nobody else; what it answers is what the tables hold."""

import html
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import Request, urlopen

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

import pipeline.browse.session as session_module
from pipeline.browse.decisions import Decision
from pipeline.browse.exchange import export_verdicts
from pipeline.browse.index import renew
from pipeline.browse.server import Served, listen
from pipeline.browse.session import Session
from pipeline.engine.store import Store
from pipeline.engine.verdicts import read_verdicts
from pipeline.report.page import write_report
from stages.cameras.said import cameras_of
from stages.cameras.views import Look
from stages.errors import UserError
from stages.tables import Fits, Hands, Manifest, Reviews
from stages.verdicts import What
from tests.pipeline.browse.small_run import run_again, with_refused

CLIP = "asl_bird-0000"


class Client:
    """Requests to a server as one may send them by hand."""

    def __init__(self, served: Served) -> None:
        self.token = served.token
        self.port = int(served.listening.getsockname()[1])

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body if body is None or isinstance(body, bytes) else json.dumps(body), given)
        response = connection.getresponse()
        found = response.status, response.read(), response.headers
        connection.close()
        return found

    def get(self, path: str, **query: Any) -> Any:
        status, content, _ = self.send("GET", f"{path}?{urlencode(query)}", X_Token=self.token)
        assert status == 200, content
        return json.loads(content)

    def image(self, video: str, frame: int) -> bytes:
        status, content, _ = self.send("GET", f"/image/frame?{urlencode({'video': video, 'frame': frame})}", X_Token=self.token)
        assert status == 200, content
        return content

    def refused(self, path: str, **query: Any) -> str:
        status, content, _ = self.send("GET", f"{path}?{urlencode(query)}", X_Token=self.token)
        assert status == 400, content
        return str(json.loads(content)["error"])

    def post(self, path: str, body: Any, status: int = 200) -> Any:
        got, content, _ = self.send("POST", path, body, X_Token=self.token, Content_Type="application/json")
        assert got == status, content
        return json.loads(content)


@pytest.fixture
def client(served: Served) -> Client:
    return Client(served)


@pytest.fixture
def reader(untouched: tuple[Path, Served]) -> Client:
    return Client(untouched[1])


@pytest.fixture
def same(untouched: tuple[Path, Served]) -> Path:
    return untouched[0]


def decoded(jpeg: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def files(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


def test_without_the_token_nothing_is_told(reader: Client) -> None:
    for path in ("/", "/api/about", "/api/hands", "/image/frame?video=asl_bird&frame=0", "/nowhere"):
        assert reader.send("GET", path)[0] == 403
        assert reader.send("GET", path, X_Token="x" * 32)[0] == 403
        assert reader.send("GET", f"{path}{'&' if '?' in path else '?'}token=")[0] == 403
    assert reader.send("GET", f"/?token={reader.token}")[0] == 200
    body = {"what": "reject", "hands": [{"video": "asl_bird", "frame": 0, "hand": 0}]}
    assert reader.send("POST", "/api/decide", body, Content_Type="application/json")[0] == 403
    in_address = f"/api/decide?token={reader.token}"  # an address may be made by a page elsewhere, a header may not
    assert reader.send("POST", in_address, body, Content_Type="application/json")[0] == 403


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost:1", "127.0.0.1.evil.example:{port}", ""])
def test_a_name_that_was_rebound_to_this_machine_is_refused(host: str, reader: Client) -> None:
    assert reader.send("GET", f"/?token={reader.token}", Host=host.format(port=reader.port))[0] == 421
    assert reader.send("GET", "/web/app.js", Host=host.format(port=reader.port))[0] == 421


def test_localhost_is_this_machine(reader: Client) -> None:
    assert reader.send("GET", f"/?token={reader.token}", Host=f"localhost:{reader.port}")[0] == 200


def test_no_get_changes_anything(reader: Client, same: Path) -> None:
    before = files(same)
    for path in ("decide", "undo", "audit"):
        query = urlencode(
            {"what": "reject", "video": "asl_bird", "frame": 0, "hand": 0, "where": "keep", "size": 5, "seed": 1, "token": reader.token}
        )
        assert reader.send("GET", f"/api/{path}?{query}")[0] in (400, 405)
    for path in ("about", "hands", "facets", "poses", "history"):
        reader.get(f"/api/{path}")
    for path in ("frame", "clip"):
        reader.get(f"/api/{path}", video="asl_bird", frame=0)
    assert files(same) == before
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert reader.send(method, "/api/decide", X_Token=reader.token)[0] == 405


def test_what_changes_something_comes_from_the_page_itself(client: Client, data: Path) -> None:
    body = {"what": "reject", "hands": [{"video": "asl_bird", "frame": 0, "hand": 0}]}
    token = {"X_Token": client.token}
    assert client.send("POST", "/api/decide", body, **token, Content_Type="text/plain")[0] == 415
    assert client.send("POST", "/api/decide", body, **token, Content_Type="application/json", Origin="http://evil.example")[0] == 403
    assert client.send("POST", "/api/decide", b"x" * ((1 << 20) + 1), **token, Content_Type="application/json")[0] == 413
    assert client.send("POST", "/api/decide", b"[1]", **token, Content_Type="application/json")[0] == 400
    assert not (data / "verdicts").exists()
    origin = f"http://127.0.0.1:{client.port}"
    assert client.send("POST", "/api/decide", body, **token, Content_Type="application/json", Origin=origin)[0] == 200
    assert [path.name for path in (data / "verdicts").glob("*.parquet")] == ["asl_bird.parquet"]


def test_every_answer_forbids_what_it_does_not_bring(reader: Client) -> None:
    for path in (f"/?token={reader.token}", "/web/app.js", "/api/about", "/web/nothing.js"):
        _, _, headers = reader.send("GET", path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert (headers["X-Frame-Options"], headers["Referrer-Policy"], headers["X-Content-Type-Options"]) == (
            "DENY",
            "no-referrer",
            "nosniff",
        )
    page = reader.send("GET", f"/?token={reader.token}")[1].decode()
    assert "<script>" not in page
    assert " style=" not in page
    assert "onclick" not in page
    for script in (Path(__file__).parents[3] / "pipeline/browse/web").glob("*.js"):
        assert not {"innerHTML", "outerHTML", "insertAdjacentHTML", "eval("} & set(
            script.read_text().replace("(", "( ").replace(".", " ").split()
        ), script


def test_no_path_leads_out(reader: Client, same: Path) -> None:
    for path in ("/web/../server.py", "/web/%2e%2e/server.py", "/web/..%2fserver.py", "/web//etc/passwd"):
        assert reader.send("GET", path, X_Token=reader.token)[0] in (400, 404)
    for video in ("../../etc/passwd", "asl_bird/../asl_bird", "", "asl_bird\x00", "' or ''='"):
        assert "no frame" in reader.refused("/api/frame", video=video, frame=0)
        hands = [{"video": video, "frame": 0, "hand": 0}]
        assert "no frame" in reader.post("/api/decide", {"what": "reject", "hands": hands}, 400)["error"]
    assert not (same / "verdicts").exists()
    assert "no audit" in reader.refused("/api/audit", name="../manifest")


@pytest.mark.parametrize(
    "where",
    [
        "1; copy hands to '/tmp/x'", "video = (select 1)", "read_text('/etc/passwd') = 'a'", "keep) or (1=1", "hands",
        "side = 'x'; --", "(" * 60,
    ],
)  # fmt: skip
def test_a_hostile_filter_is_refused_in_a_line(where: str, reader: Client) -> None:
    for path in ("hands", "facets", "poses"):
        assert "filter" in reader.refused(f"/api/{path}", where=where)
    assert "filter" in reader.post("/api/audit", {"where": where, "size": 3, "seed": 1}, 400)["error"]
    assert "no column" in reader.refused("/api/hands", sort="quality; drop table hands")
    for bad in ({"offset": "x"}, {"limit": "1e3"}, {"offset": str(1 << 70)}):
        reader.refused("/api/hands", **bad)


def test_filters_sort_and_facets_say_what_the_tables_hold(reader: Client, same: Path) -> None:
    store = Store(same)
    parts = [
        (store.read(Hands, "hands", c), store.read(Fits, "fits", c), store.read(Reviews, "reviews", c)) for c in (CLIP, "asl_milk-0000")
    ]
    hands, fits, reviews = (kind.concat([part[i] for part in parts]) for i, kind in enumerate((Hands, Fits, Reviews)))  # type: ignore[attr-defined]
    found = reader.get("/api/hands", limit=500)
    assert found["total"] == len(found["rows"]) == len(hands)
    expected = reviews.keep & (hands.side == 1) & (fits.error_px < 2)
    assert reader.get("/api/hands", where="keep and side = right and error_px < 2")["total"] == expected.sum() > 0
    assert reader.get("/api/hands", where="signer = 'b'")["total"] == (hands.video == "asl_bird").sum()
    by_quality = [row["quality"] for row in reader.get("/api/hands", sort="quality", descending=1, limit=500)["rows"]]
    np.testing.assert_allclose(by_quality, np.sort(reviews.quality)[::-1], rtol=1e-6)
    second = reader.get("/api/hands", sort="quality", descending=1, limit=2, offset=2)["rows"]
    assert [row["quality"] for row in second] == by_quality[2:4]
    facets = reader.get("/api/facets", where="side = left")
    assert {row["value"]: row["num"] for row in facets["counts"]["side"]} == {0: int((hands.side == 0).sum())}
    assert sum(facets["spreads"]["quality"]["counts"]) == (hands.side == 0).sum()
    rare = reader.get("/api/hands", sort="rarity", descending=1, limit=500)["rows"]
    assert rare[0]["rarity"] > rare[-1]["rarity"] >= 0
    assert len(reader.get("/api/poses")) == np.isfinite(fits.hand_pose[:, 0]).sum()


def test_a_frame_is_shown_with_all_that_is_known_of_it(client: Client, data: Path) -> None:
    hands = Store(data).read(Hands, "hands", CLIP)
    frame = int(hands.frame[0])
    detail = client.get("/api/frame", video="asl_bird", frame=frame)
    assert (detail["clip"], detail["size"]) == (CLIP, [640, 480])
    here = np.flatnonzero(hands.frame == frame)
    assert [hand["hand"] for hand in detail["hands"]] == hands.hand[here].tolist()
    for row, hand in zip(here, detail["hands"], strict=True):
        np.testing.assert_allclose(hand["box"], hands.box[row], rtol=1e-4)
        np.testing.assert_allclose(hand["source_boxes"], hands.source_boxes[row], rtol=1e-4)
        assert hand["sources"] == hands.sources[row]
        mesh = client.get("/api/mesh", video="asl_bird", frame=frame, hand=hand["hand"])
        flat = np.array(mesh["vertices"])[:, :2] * mesh["camera"][0] + np.array(mesh["camera"][1:])
        np.testing.assert_allclose([*flat.min(0), *flat.max(0)], hand["box_mesh"], atol=0.5)
    clip = client.get("/api/clip", video="asl_bird", frame=frame)
    assert {index for index, _ in clip["frames"]} >= set(hands.frame.tolist())
    (shard,) = (data / "shards").glob("*/*.parquet")
    stored = {row["sample"]: row["image"] for row in pq.read_table(shard, columns=["sample", "image"]).to_pylist()}
    status, content, headers = client.send("GET", f"/image/frame?video=asl_bird&frame={frame}", X_Token=client.token)
    assert (status, headers["Content-Type"], content) == (200, "image/jpeg", stored[f"asl_bird/{frame}"])
    shard.unlink()  # the video shows the same frame
    status, content, _ = client.send("GET", f"/image/frame?video=asl_bird&frame={clip['frames'][-1][0]}", X_Token=client.token)
    before, now = (decoded(c) for c in (stored[f"asl_bird/{clip['frames'][-1][0]}"], content))
    assert np.abs(before.astype(int) - now).mean() < 2
    thumb = decoded(client.send("GET", f"/image/hand?video=asl_bird&frame={frame}&hand=0", X_Token=client.token)[1])
    assert thumb.shape == (144, 144, 3)
    assert "was not fitted" in client.refused("/api/mesh", video="asl_bird", frame=frame, hand=99)


def test_decisions_are_seen_at_once_and_can_be_undone(client: Client) -> None:
    hands = [{"video": row["video"], "frame": row["frame"], "hand": row["hand"]} for row in client.get("/api/hands", limit=3)["rows"]]
    client.post("/api/decide", {"what": "reject", "hands": hands})
    client.post("/api/decide", {"what": "side", "hands": hands[:1]})
    assert client.get("/api/hands", where="verdict like '%rejected%'")["total"] == 3
    first = client.get("/api/frame", video=hands[0]["video"], frame=hands[0]["frame"])["hands"][hands[0]["hand"]]
    assert first["verdict"] == f"rejected, side: {'left' if first['side'] == 1 else 'right'}"
    assert [(row["what"], row["num"], row["who"]) for row in client.get("/api/history")] == [("side", 1, "ann"), ("reject", 3, "ann")]
    client.post("/api/undo", {})
    assert client.get("/api/hands", where="verdict = 'rejected'")["total"] == 3
    client.post("/api/undo", {})
    assert client.get("/api/hands", where="verdict is not null")["total"] == 0
    assert "nothing to undo" in client.post("/api/undo", {}, 400)["error"]
    client.post("/api/decide", {"what": "add", "hands": hands[:1], "to_box": [1, 2, 30, 40], "to_side": 1})
    assert client.get("/api/frame", video=hands[0]["video"], frame=hands[0]["frame"])["added"][0]["box"] == [1, 2, 30, 40]


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("decide", b"[" * 100_000, "no JSON"),
        ("decide", b'{"what": ' + b"[" * 100_000, "no JSON"),
        ("decide", {"what": {}}, "what must be a text, got '{}'"),
        ("decide", {"what": "reject", "hands": [{"video": {"a": 1}}]}, "video must be a text"),
        ("decide", {"what": "reject", "hands": [{"video": "\ud800"}]}, "video must be a text"),
        ("decide", {"what": "reject", "audit": [], "hands": [{}]}, "audit must be a text"),
        ("decide", {"what": "reject", "hands": [{"box": "x"}]}, "box must be four numbers"),
        ("decide", {"what": "reject", "hands": [{"box": [5, 5, 1, 1]}]}, "box must be four numbers"),
        ("decide", {"what": "reject", "hands": [{"box": [float("nan"), 1, 2, 3]}]}, "box must be four numbers"),
        ("decide", {"what": "box", "hands": [{}], "to_box": [1, 2, 3, 10**400]}, "to_box must be four numbers"),
        ("decide", {"what": "box", "hands": [{}], "to_box": [-90, 0, -30, 50]}, "the box lies beside the image, which has 640 x"),
        ("decide", {"what": "add", "to_side": 1, "hands": [{}], "to_box": [0, 480, 30, 500]}, "the box lies beside the image"),
        ("decide", {"what": "add", "to_side": 1, "hands": [{}, {}], "to_box": [0, 0, 30, 50]}, "one hand is added at a time"),
        ("decide", {"what": "reject", "hands": [{"frame": 1.5}]}, "frame must be a whole number"),
        ("decide", {"what": "reject", "hands": []}, "decide on 1 to 5000 hands at once, not 0"),
        ("decide", {"what": "reject", "hands": [{}] * 5001}, "decide on 1 to 5000 hands at once, not 5001"),
        ("undo", {"decision": ["x"]}, "decision must be a text"),
        ("audit", {"where": {}, "size": 1, "seed": 1}, "where must be a text"),
    ],
)  # fmt: skip
def test_what_says_nothing_is_refused_in_one_line_and_nothing_is_written(
    path: str, body: Any, told: str, reader: Client, same: Path
) -> None:
    hands = body.get("hands") if isinstance(body, dict) else None
    if hands:
        frame = int(Store(same).read(Hands, "hands", CLIP).frame[0])
        known = {"video": "asl_bird", "frame": frame, "hand": 0}
        body = {**body, "hands": [known | hand for hand in hands]}
    assert reader.post(f"/api/{path}", body, 400)["error"].startswith(told)
    assert not (same / "verdicts").exists()


def test_a_decision_looks_up_each_clip_once_however_many_hands_it_is_on(
    client: Client, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = client.get("/api/hands", limit=500)["rows"]
    asked: list[str] = []

    def counting(name: str) -> Callable[..., Any]:
        real = getattr(Store, name)

        def counted(*given: Any, **more: Any) -> Any:
            asked.append(name)
            return real(*given, **more)

        return counted

    for name in ("made_by", "read", "stamp"):
        monkeypatch.setattr(Store, name, counting(name))
    counts = []
    for some in (rows[:1] + rows[-1:], rows):  # a hand of either video; all of them
        asked.clear()
        client.post("/api/decide", {"what": "side", "hands": some})
        counts.append(len(asked))
        client.post("/api/undo", {})
    assert len(rows) > 10
    assert counts[0] == counts[1]


def test_what_is_undone_is_the_last_decision_though_the_clock_was_set_back(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(data, "ann", file=tmp_path / "index.duckdb")
    bird, milk = (
        session.hands(f"video = '{name}'", "", descending=False, offset=0, limit=1)["rows"][0] for name in ("asl_bird", "asl_milk")
    )
    for now_s, row in ((2e9, bird), (1e9, milk)):
        monkeypatch.setattr("time.time", lambda now_s=now_s: now_s)
        session.decide(Decision(what=What.REJECT, who="ann"), [(row["video"], row["frame"], row["hand"])])
    assert [row["video"] for row in session.history()] == ["asl_milk", "asl_bird"]
    assert session.undo()["of"].endswith("of asl_milk, by ann")
    assert session.undo()["of"].endswith("of asl_bird, by ann")


def test_a_shard_that_was_packed_in_another_order_shows_no_other_frame(client: Client, data: Path) -> None:
    """The index says where a frame lies; a run that ended since may have put another one there."""
    (shard,) = (data / "shards").glob("*/*.parquet")
    rows = pq.read_table(shard)
    stored = {(row["video"], row["frame"]): row["image"] for row in rows.select(["video", "frame", "image"]).to_pylist()}
    places = list(stored)

    def packed(order: np.ndarray) -> None:
        pq.write_table(rows.take(order), shard.with_name("aside"))
        shard.with_name("aside").replace(shard)

    packed(np.arange(len(rows))[::-1])  # unknown to the index
    for place in places[::3]:
        now, held = decoded(client.image(*place)), decoded(stored[place])
        assert np.abs(now.astype(int) - held).mean() < 2, place  # as its video shows it
    index = data / "shards" / "index.json"
    index.touch()
    client.get("/api/about")
    assert client.image(*places[1]) == stored[places[1]]
    packed(np.arange(len(rows)))
    index.touch()
    client.get("/api/about")
    for place in places[2::3]:  # read before in the order that was
        assert client.image(*place) == stored[place]


def test_a_decision_on_a_hand_that_a_run_numbered_anew_is_refused(client: Client, data: Path) -> None:
    seen = client.get("/api/hands", where="video = 'asl_bird'", limit=500)["rows"]
    frame = next(row["frame"] for row in seen if [other["frame"] for other in seen].count(row["frame"]) > 1)
    first, second = ({**row, "box": [row[c] for c in ("x0", "y0", "x1", "y1")]} for row in seen if row["frame"] == frame)
    store = Store(data)
    hands = store.read(Hands, "hands", CLIP)
    here = np.flatnonzero(hands.frame == frame)
    order = np.arange(len(hands))
    order[here] = here[::-1]
    store.commit("hands", CLIP, replace(hands.take(order), hand=hands.hand), store.made_by("hands", CLIP) or {})
    for what in ("reject", "side"):
        told = client.post("/api/decide", {"what": what, "hands": [first]}, 400)["error"]
        assert told == f"a run has found the hands on frame {frame} of asl_bird anew since they were shown: load the page again"
    assert client.get("/api/history") == []
    client.post("/api/decide", {"what": "reject", "hands": [{**first, "hand": second["hand"]}]})
    assert client.get("/api/history")[0]["num"] == 1


def test_clasped_hands_that_swapped_their_numbers_are_not_taken_for_each_other(client: Client, data: Path) -> None:
    store = Store(data)
    hands = store.read(Hands, "hands", CLIP)
    frames, counts = np.unique(hands.frame, return_counts=True)
    frame = int(frames[counts > 1][0])
    first, second = np.flatnonzero(hands.frame == frame)[:2]
    clasped = hands.box.copy()
    clasped[[first, second]] = [[100, 100, 200, 200], [110, 110, 210, 210]]  # IoU .68
    store.commit("hands", CLIP, replace(hands, box=clasped), store.made_by("hands", CLIP) or {})
    body = {"video": "asl_bird", "frame": frame, "hand": int(hands.hand[first])}
    told = client.post("/api/decide", {"what": "reject", "hands": [{**body, "box": [110, 110, 210, 210]}]}, 400)["error"]
    assert "anew since they were shown" in told
    client.post("/api/decide", {"what": "reject", "hands": [{**body, "box": [101, 100, 200, 201]}]})


def test_what_lands_while_the_tables_are_read_is_taken_up(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def renew_beside_a_run(store: Store, file: Path) -> tuple[str, ...]:
        unreadable = renew(store, file)
        if not list((data / "refused_hands").glob("late")):
            (data / "refused_hands" / "late").touch()
            with_refused(data)
        return unreadable

    monkeypatch.setattr(session_module, "renew", renew_beside_a_run)
    session = Session(data, "ann", file=tmp_path / "index.duckdb")

    def lone() -> int:
        return int(session.hands("refused and reason = 'lone'", "", descending=False, offset=0, limit=9)["refused"])

    assert lone() == 0, "of one detector nothing is"
    session.refresh()
    assert lone() == 1


def test_what_is_decided_elsewhere_is_seen_without_a_restart(client: Client, data: Path, tmp_path: Path) -> None:
    before = client.get("/api/about")["revision"]
    assert client.get("/api/about")["revision"] == before
    (row,) = client.get("/api/hands", where="video = 'asl_bird'", limit=1)["rows"]
    elsewhere = Session(data, "bob", file=tmp_path / "elsewhere.duckdb")
    elsewhere.decide(Decision(what=What.REJECT, who="bob"), [(row["video"], row["frame"], row["hand"])])
    assert client.get("/api/about")["revision"] != before
    assert client.get("/api/hands", where="verdict = 'rejected'")["total"] == 1
    told = client.post("/api/undo", {})
    assert told["of"] == f"reject of a hand on frame {row['frame']} of asl_bird, by bob"
    elsewhere.refresh()
    assert elsewhere.hands("verdict is not null", "", descending=False, offset=0, limit=1)["total"] == 0


def test_two_tabs_may_decide_at_the_same_moment(data: Path, tmp_path: Path) -> None:
    session = Session(data, "ann", file=tmp_path / "index.duckdb")
    rows = session.hands("video = 'asl_bird'", "", descending=False, offset=0, limit=16)["rows"]
    places = [(row["video"], row["frame"], row["hand"]) for row in rows]
    session.decide(Decision(what=What.KEEP, who="ann"), places)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda place: session.decide(Decision(what=What.REJECT, who="ann"), [place]), 4 * places))
        assert len(set(pool.map(lambda _: session.about()["revision"], range(16)))) == 1
    assert session.hands("verdict like '%rejected'", "", descending=False, offset=0, limit=1)["total"] == len(places)


def test_refused_candidates_are_rows_that_a_filter_asks_for(client: Client, data: Path) -> None:
    found = client.get("/api/hands", limit=500)["total"]
    frame, boxes = with_refused(data)
    client.get("/api/about")  # takes up what has landed
    assert client.get("/api/hands", limit=500)["total"] == found
    rows = client.get("/api/hands", where="refused")["rows"]
    assert [(row["hand"], row["side"], row["reason"], row["keep"]) for row in rows] == [(-2, -1, "lone", False), (-1, 1, "weak", False)]
    assert [row["x0"] for row in rows] == boxes[::-1, 0].tolist()
    assert client.get("/api/hands", where="refused and reason = 'weak'")["refused"] == 1
    counts = client.get("/api/facets", where="keep")["counts"]["refused"]
    assert {row["value"]: row["num"] for row in counts} == {"weak": 1, "lone": 1}
    thumb = client.send("GET", f"/image/hand?video=asl_bird&frame={frame}&hand=-1", X_Token=client.token)
    assert (thumb[0], decoded(thumb[1]).shape) == (200, (144, 144, 3))
    detail = client.get("/api/frame", video="asl_bird", frame=frame)
    assert [(one["hand"], one["reason"]) for one in detail["refused"]] == [(-1, "weak"), (-2, "lone")]
    drawn = client.post("/api/audit", {"where": "refused or keep", "size": 2000, "seed": 1})
    kept = client.get("/api/hands", where="keep")["total"]
    assert (drawn["population"], len(drawn["hands"])) == (kept, kept)  # an audit judges hands


def test_a_refused_candidate_that_is_kept_is_a_hand_of_the_next_run(client: Client, data: Path) -> None:
    frame, boxes = with_refused(data)
    client.get("/api/about")
    weak, lone = ({"video": "asl_bird", "frame": frame, "hand": hand} for hand in (-1, -2))
    assert "unknown side" in client.post("/api/decide", {"what": "keep", "hands": [lone]}, 400)["error"]
    assert "is no hand" in client.post("/api/decide", {"what": "reject", "hands": [weak]}, 400)["error"]
    assert "no candidate -3" in client.post("/api/decide", {"what": "keep", "hands": [{**weak, "hand": -3}]}, 400)["error"]
    client.post("/api/decide", {"what": "keep", "hands": [weak]})
    client.post("/api/decide", {"what": "side", "to_side": 0, "hands": [lone]})
    rows = client.get("/api/hands", where="refused")["rows"]
    assert {row["hand"]: row["verdict"] for row in rows} == {-1: "added", -2: "added"}
    added = client.get("/api/frame", video="asl_bird", frame=frame)["added"]
    assert [(one["box"], one["side"]) for one in added] == [(boxes[0].tolist(), 1), (boxes[1].tolist(), 0)]
    client.post("/api/undo", {})
    rows = client.get("/api/hands", where="refused and verdict is not null")["rows"]
    assert [row["hand"] for row in rows] == [-1]
    run_again(data)
    (shard,) = (data / "shards").glob("*/*.parquet")
    rows = [row for row in pq.read_table(shard).to_pylist() if (row["video"], row["frame"]) == ("asl_bird", frame)]
    added = [(hand["box"], hand["side"]) for row in rows for hand in row["hands"] if hand["sources"] == ["person"]]
    assert added == [(boxes[0].tolist(), 1)]


def test_frames_of_a_bent_camera_are_shown_through_its_views(client: Client, data: Path) -> None:
    store = Store(data)
    manifest = store.read(Manifest, "", "manifest")
    said = json.dumps({"from": "manifest", "projection": "fisheye", "hfov_deg": 180})
    store.commit("", "manifest", replace(manifest, camera=np.full(len(manifest), said, object)), store.made_by("", "manifest") or {})
    hands = store.read(Hands, "hands", CLIP)
    frame, here = int(hands.frame[0]), hands.frame == hands.frame[0]
    placed = replace(hands, view=np.where(here, 1, hands.view).astype(np.int16), box_source=hands.box + 7)
    store.commit("hands", CLIP, placed, store.made_by("hands", CLIP) or {})
    client.get("/api/about")
    cameras = cameras_of(said, 640, 480)
    row = int(np.flatnonzero(cameras.view == 1)[0])
    one = client.get("/api/frame", video="asl_bird", frame=frame, look=1)
    assert (one["views"], one["size"]) == (cameras.view.tolist(), [cameras.width[row], cameras.height[row]])
    assert len(one["hands"]) == here.sum() > 0 == len(client.get("/api/frame", video="asl_bird", frame=frame)["hands"])
    whole = client.get("/api/frame", video="asl_bird", frame=frame, look=-1)
    np.testing.assert_allclose([hand["box"] for hand in whole["hands"]], hands.box[here] + 7, rtol=1e-4)
    np.testing.assert_allclose([hand["box_seen"] for hand in whole["hands"]], hands.box[here], rtol=1e-4)
    assert (whole["size"], whole["hands"][0]["keypoints"]) == ([640, 480], None)
    address = f"video=asl_bird&frame={frame}"
    image, seen = (decoded(client.send("GET", f"/image/frame?{address}&look={look}", X_Token=client.token)[1]) for look in (-1, 1))
    assert image.shape == (480, 640, 3)
    assert np.abs(Look(cameras, row)(image).astype(int) - seen).mean() < 4
    assert client.send("GET", f"/image/hand?{address}&hand={hands.hand[0]}", X_Token=client.token)[0] == 200
    assert "no view 40" in client.refused("/api/frame", video="asl_bird", frame=frame, look=40)
    add = {"what": "add", "hands": [{"video": "asl_bird", "frame": frame}], "to_box": [1, 1, 50, 90], "to_side": 1}
    assert "bends straight lines" in client.post("/api/decide", add, 400)["error"]
    client.post("/api/decide", {"what": "reject", "hands": [{"video": "asl_bird", "frame": frame, "hand": int(hands.hand[0])}]})
    for kind in ("coco", "labelstudio"):  # which know frames, and no views
        with pytest.raises(UserError, match="asl_bird were seen through views of a bent camera"):
            export_verdicts(store, kind, data / "verdicts.json")
    assert export_verdicts(store, "csv", data / "verdicts.csv") == 1


def test_the_report_leads_to_its_hands_and_runs_nothing(client: Client, data: Path) -> None:
    assert not client.get("/api/about")["report"]
    assert "no report: whim report --data" in json.loads(client.send("GET", f"/report?token={client.token}")[1])["error"]
    write_report(data, data / "report.html")
    assert client.get("/api/about")["report"]
    assert client.send("GET", "/report")[0] == 403
    status, content, headers = client.send("GET", f"/report?token={client.token}")
    assert (status, "script" in headers["Content-Security-Policy"], headers["Referrer-Policy"]) == (200, False, "no-referrer")
    links = [html.unescape(found) for found in re.findall(r'href="/\?token=[^#"]+#([^"]+)"', content.decode())]
    asked = [parse_qs(link) for link in links]
    wheres = [one["where"][0] for one in asked if one["view"] == ["hands"] and "where" in one]
    assert len({where.split(" ")[0] for where in wheres}) >= 6
    kinds = ("quality", "score", "error_px", "size_px")
    total = client.get("/api/hands")["total"]
    for kind in kinds:  # the bars of a histogram take every hand whose number is known, once
        of_bars = [client.get("/api/hands", where=where)["total"] for where in wheres if where.startswith(f"{kind} ")]
        assert sum(of_bars) == client.get("/api/hands", where=f"{kind} is not null")["total"] > 0
    assert sum(client.get("/api/hands", where=where)["total"] for where in wheres if where.startswith("video = ")) == total
    frames = [one for one in asked if one["view"] == ["frame"]]
    assert frames
    for one in frames:
        assert client.get("/api/frame", video=one["video"][0], frame=one["frame"][0])["hands"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"what": "paint"}, "a decision is one of"),
        ({"what": "undo", "hands": [{"video": "asl_bird", "frame": 0, "hand": 0}]}, "no such decision"),
        ({"what": "keep", "hands": []}, "1 to 5000 hands"),
        ({"what": "keep", "hands": [{"video": "asl_bird", "frame": 0, "hand": 99}]}, "no hand 99"),
        ({"what": "keep", "hands": [{"video": "asl_bird", "frame": 0}]}, "hand must be a whole number"),
        (
            {"what": "keep", "hands": [{"video": "asl_bird", "frame": 0, "hand": 0}, {"video": "asl_bird", "frame": 0, "hand": 9}]},
            "no hand 9",
        ),
        ({"what": "box", "hands": [{"video": "asl_bird", "frame": 0, "hand": 0}], "to_box": [5, 5, 1, 9]}, "x0 < x1"),
        ({"what": "box", "hands": [{"video": "asl_bird", "frame": 0, "hand": 0}], "to_box": [0, 0, 1e39, 9]}, "x0 < x1"),
        ({"what": "add", "hands": [{"video": "asl_bird", "frame": 0}], "to_box": [1, 1, 5, 9]}, "left one (0) or a right one (1)"),
        ({"what": "add", "hands": [{"video": "asl_bird", "frame": 1}], "to_box": [1, 1, 5, 9], "to_side": 1}, "was not looked at"),
    ],
)
def test_a_decision_that_says_nothing_leaves_nothing(body: dict[str, Any], told: str, reader: Client, same: Path) -> None:
    assert told in reader.post("/api/decide", body, 400)["error"]
    assert not list(same.glob("verdicts/*.parquet"))


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_ends_the_server_is_told_what_becomes_of_the_decisions(number: signal.Signals, data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "browse", str(data), "--port", "0"]
    own = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=own) as process:
        assert process.stdout is not None
        address = next(line for line in process.stdout if "token=" in line).split()[-1]
        decided = number is signal.SIGINT
        if decided:
            parts = urlsplit(address)
            headers = {"X-Token": parts.query.removeprefix("token="), "Content-Type": "application/json"}
            body = json.dumps({"what": "reject", "hands": [{"video": "asl_bird", "frame": 0, "hand": 0}]}).encode()
            with urlopen(Request(f"http://{parts.netloc}/api/decide", body, headers), timeout=60) as answer:
                assert answer.status == 200
        else:
            with urlopen(address, timeout=60) as answer:  # it serves
                assert answer.status == 200
        process.send_signal(number)
        told = process.stderr.read() if process.stderr else ""
    kept = f"what was decided is kept; whim run --data {data} takes it up"
    assert (process.returncode, told) == (130, f"whim browse has ended: {kept if decided else 'nothing was decided'}\n")


def test_a_port_that_there_is_not_is_told(served: Served) -> None:
    for port in (1 << 16, -1, int(served.listening.getsockname()[1])):
        with pytest.raises(UserError, match=f"port {port} cannot be had"):
            listen(None, port)  # type: ignore[arg-type]


def test_an_image_that_is_not_there_is_asked_for_again(client: Client) -> None:
    """The refusal was kept by the browser as long as an image is: ten minutes after the video was back."""
    for frame, status, kept in ((0, 200, "private, max-age=600"), (1 << 40, 400, "no-store")):
        got, _, headers = client.send("GET", f"/image/frame?{urlencode({'video': 'asl_bird', 'frame': frame})}", X_Token=client.token)
        assert (got, headers["Cache-Control"]) == (status, kept)


def test_a_hand_is_added_at_the_very_time_of_its_frame(data: Path, tmp_path: Path) -> None:
    """Times were kept by five digits, as the page is told them: a tenth of a second is lost after a quarter of an hour."""
    store = Store(data)
    hands = store.read(Hands, "hands", CLIP)
    late = replace(hands, time_s=hands.time_s + 1234.5678)
    store.commit("hands", CLIP, late, store.made_by("hands", CLIP) or {})
    session = Session(data, "ann", file=tmp_path / "index.duckdb")
    decision = Decision(what=What.ADD, who="ann", to_side=0, to_box=(4, 4, 40, 40))
    session.decide(decision, [("asl_bird", int(late.frame[-1]), -1)])
    assert read_verdicts(store, "asl_bird").time_s.tolist() == [late.time_s[-1]]
