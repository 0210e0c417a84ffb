"""Every view of `whim browse` and its report as PNG files: `python docs/screenshots.py DATA OUT`, at two widths, light and dark.

Needs Chromium and `pip install playwright`. Whoever changes how a page looks runs it and looks; docs/browse_*.png are of its files.
"""

import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import sync_playwright

from pipeline.browse.server import Served, listen
from pipeline.browse.session import Session

WIDTHS, HEIGHT = (1280, 390), 860
SETTLED_MS = 2500
"""Thumbnails and meshes come after the page."""


def views(session: Session) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and address of each view, of hands that are worth a look."""
    best = session.hands("keep", "quality", descending=True, offset=0, limit=1)["rows"]
    refused = session.hands("refused", "score", descending=True, offset=0, limit=1)["rows"]
    yield "hands", {"view": "hands"}
    yield "filtered", {"view": "hands", "where": "quality >= 0.85 and quality < 0.9", "sort": "quality"}
    yield "refused", {"view": "hands", "where": "refused"}
    for name, rows in (("frame", best), ("frame_refused", refused)):
        for row in rows:
            yield name, {"view": "frame", **{key: row[key] for key in ("video", "frame", "hand")}}
    yield "poses", {"view": "poses"}
    yield "audit", {"view": "audit"}
    for audit in session.about()["audits"][:1]:
        yield "audited", {"view": "audit", "audit": audit}
    yield "decisions", {"view": "history"}
    yield "mistake", {"view": "hands", "where": "qualty > 1"}


def shoot(session: Session, served: Served, out: Path) -> None:
    """Write the images; names what hangs over an edge."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                page = browser.new_context(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme).new_page()
                page.on("pageerror", lambda error: print(f"fault: {error}"))
                addresses = {name: f"{served.address}#{urlencode(state)}" for name, state in views(session)}
                if session.report.is_file():
                    addresses["report"] = served.address.replace("/?", "/report?")
                for name, address in addresses.items():
                    page.goto("about:blank")
                    page.goto(address)
                    page.wait_for_timeout(SETTLED_MS)
                    if page.evaluate("document.documentElement.scrollWidth") > width:
                        print(f"{name} hangs over the edge at {width} px")
                    page.screenshot(path=out / f"{name}_{width}_{scheme}.png", full_page=name == "report")
        browser.close()


def main() -> None:
    """Serve a data folder and shoot its pages."""
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    session = Session(data, "ann", file=out / "index.duckdb")
    served = listen(session, 0)
    server = Thread(target=served.run, daemon=True)
    server.start()
    shoot(session, served, out)
    served.server.should_exit = True
    server.join(20)


if __name__ == "__main__":
    main()
