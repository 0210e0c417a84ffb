"""The local web server of `whim browse`: loopback only, a token in the address, no GET that changes anything, no word from elsewhere.

Whoever has the address may look and decide; nobody else. A page of another site cannot have it: requests for other hosts (DNS rebinding)
are refused, what changes something must come as JSON with the token in a header, and nothing but this server's own files may run.
"""

import hmac
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.browse.decisions import NO_NUMBER, NOWHERE, Decision, refuse_many
from pipeline.browse.session import Session
from stages.errors import UserError, one_line
from stages.tables import UNKNOWN_SIDE
from stages.verdicts import What, is_box

WEB = Path(__file__).parent / "web"
LARGEST_BODY = 1 << 20
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_OF_REPORT = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
}
"""The report carries its style and its images within it, and no script."""


class Guard:
    """Lets through what may be asked; everything that it lets through carries the headers above."""

    def __init__(self, app: ASGIApp, token: str, hosts: frozenset[str]) -> None:
        self.app, self.token, self.hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope)
        refusal = self._refusal(request)

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                more = [(n.lower().encode(), v.encode()) for n, v in _HEADERS.items() if n.lower().encode() not in given]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        if refusal:
            status, why = refusal
            return await PlainTextResponse(why + "\n", status)(scope, receive, with_headers)
        return await self.app(scope, receive, with_headers)

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        """Why a request is refused, with the status; None where it is not."""
        if request.headers.get("host", "").lower() not in self.hosts:
            return 421, "this is whim browse at another address"
        if request.method not in ("GET", "HEAD", "POST"):
            return 405, "GET and POST only"
        if request.url.path.startswith("/web/"):
            return None if request.method != "POST" else (405, "GET only")  # the page's own code: the same for everybody
        in_header = request.headers.get("x-token", "")
        given = in_header or (request.query_params.get("token", "") if request.method != "POST" else "")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            return 403, "open the address that whim browse printed, with its token"
        if request.method == "POST":
            origin = request.headers.get("origin")
            if origin is not None and urlsplit(origin).netloc.lower() not in self.hosts:
                return 403, "this comes from another page"
            if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                return 415, "what changes something is JSON"
            if not request.headers.get("content-length", "").isdigit() or int(request.headers["content-length"]) > LARGEST_BODY:
                return 413, f"a request says its length, at most {LARGEST_BODY >> 10} KiB: decide on fewer hands at once"
        return None


def make_app(session: Session, token: str, port: int) -> ASGIApp:
    """The application, for requests to this port of this machine."""
    hosts = frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost"))

    def get(path: str, answer: Callable[[Mapping[str, str]], Any]) -> Route:
        async def endpoint(request: Request) -> Response:
            return await _answered(lambda: answer(request.query_params))

        return Route(path, endpoint, methods=["GET"])

    def post(path: str, change: Callable[[Mapping[str, Any]], Any]) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                body = await request.json()
            except (ValueError, RecursionError):  # the latter of brackets within brackets
                return JSONResponse({"error": "no JSON"}, 400)
            if not isinstance(body, dict):
                return JSONResponse({"error": "a JSON object is wanted"}, 400)
            return await _answered(lambda: change(body))

        return Route(path, endpoint, methods=["POST"])

    async def page(request: Request) -> Response:
        return Response((WEB / "index.html").read_bytes(), media_type="text/html")

    async def report(request: Request) -> Response:
        return await _answered(lambda: Response(_report(session, token), media_type="text/html", headers=_OF_REPORT))

    def jpeg(read: Callable[[Mapping[str, str]], bytes]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            answered = await _answered(lambda: Response(read(request.query_params), media_type="image/jpeg"))
            if answered.status_code == 200:
                answered.headers["Cache-Control"] = "private, max-age=600"
            return answered

        return endpoint

    routes = [
        Route("/", page, methods=["GET"]),
        Route("/report", report, methods=["GET"]),
        get("/api/about", lambda q: session.about()),
        get("/api/hands", lambda q: _hands(session, q)),
        get("/api/facets", lambda q: session.asking.facets(session.asking.where(q.get("where", "")))),
        get("/api/poses", lambda q: session.asking.poses(session.asking.where(q.get("where", "")))),
        get("/api/frame", lambda q: session.frame(*_place(q), _whole(q, "look", 0))),
        get("/api/clip", lambda q: session.clip(*_place(q))),
        get("/api/mesh", lambda q: session.mesh(*_place(q), _whole(q, "hand"))),
        get("/api/history", lambda q: session.history()),
        get("/api/audit", lambda q: session.audit(q.get("name", ""))),
        Route("/image/frame", jpeg(lambda q: session.image(*_place(q), _whole(q, "look", 0))), methods=["GET"]),
        Route("/image/hand", jpeg(lambda q: session.thumb(*_place(q), _whole(q, "hand"))), methods=["GET"]),
        post("/api/decide", lambda body: _decide(session, body)),
        post("/api/undo", lambda body: session.undo(_text(body, "decision"))),
        post("/api/audit", lambda body: session.draw(_text(body, "where"), _whole(body, "size"), _whole(body, "seed"))),
        Mount("/web", StaticFiles(directory=WEB)),
    ]
    return Guard(Starlette(routes=routes), token, hosts)


@dataclass(frozen=True, slots=True)
class Served:
    """A server that listens, and the address that lets its reader in."""

    server: uvicorn.Server
    listening: socket.socket
    address: str
    token: str

    def run(self) -> None:
        """Answer until interrupted, or `server.should_exit`."""
        self.server.run(sockets=[self.listening])


def listen(session: Session, port: int) -> Served:
    """A server on a port of this machine, 0 for a free one. Raises UserError where the port is taken."""
    token = secrets.token_urlsafe(24)
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        listening.close()
        why = error.strerror if isinstance(error, OSError) else "there are 0 to 65535"
        raise UserError(f"port {port} cannot be had ({why}): name another with --port, 0 takes a free one") from error
    listening.listen(128)  # who comes before the server answers waits
    port = listening.getsockname()[1]
    config = uvicorn.Config(make_app(session, token, port), log_level="warning", access_log=False, server_header=False, lifespan="off")
    return Served(uvicorn.Server(config), listening, f"http://127.0.0.1:{port}/?token={token}", token)


async def _answered(answer: Callable[[], Any]) -> Response:
    """The answer as JSON; what a person can mend as one line."""
    try:
        found = await run_in_threadpool(answer)
    except Exception as error:
        line = one_line(error)
        if line is None:
            raise
        return JSONResponse({"error": line}, 400)
    return found if isinstance(found, Response) else JSONResponse(found)


def _report(session: Session, token: str) -> bytes:
    """The report of the last run; what it says of hands leads to them. Raises UserError where there is none."""
    try:
        page = session.report.read_bytes()
    except OSError as error:
        raise UserError(f"no report: whim report --data {session.store.word()}") from error
    return page.replace(b' data-browse="', f' class="browse" href="/?token={token}#'.encode())


def _hands(session: Session, query: Mapping[str, str]) -> Any:
    page = {"offset": _whole(query, "offset", 0), "limit": _whole(query, "limit", 60)}
    return session.hands(query.get("where", ""), query.get("sort", ""), descending=query.get("descending") == "1", **page)


def _decide(session: Session, body: Mapping[str, Any]) -> Any:
    what, hands = _text(body, "what"), body.get("hands", [])
    if what not in set(What) or not isinstance(hands, list) or not all(isinstance(hand, dict) for hand in hands):
        raise UserError(f"a decision is one of {', '.join(What)} on a list of hands")
    refuse_many(len(hands))
    if what == What.ADD and len(hands) > 1:
        raise UserError("one hand is added at a time")
    added = NO_NUMBER if what == What.ADD else None
    decision = Decision(
        what=What(what),
        who=session.who,
        to_side=_whole(body, "to_side", UNKNOWN_SIDE),
        to_box=_box(body, "to_box"),
        audit=_text(body, "audit")[:80],
    )
    places = [(*_place(hand), _whole(hand, "hand", added)) for hand in hands]
    return {"decision": session.decide(decision, places, [_box(hand, "box") for hand in hands])}


def _box(query: Mapping[str, Any], name: str) -> tuple[float, float, float, float]:
    """A box of a request; NaN where there is none. Raises UserError."""
    given = query.get(name)
    if given is None:
        return NOWHERE
    numbers = isinstance(given, list) and all(isinstance(one, int | float) and not isinstance(one, bool) for one in given)
    if not numbers or not is_box(given):
        raise UserError(f"{name} must be four numbers x0, y0, x1, y1 with x0 < x1 and y0 < y1")
    x0, y0, x1, y1 = map(float, given)
    return x0, y0, x1, y1


def _place(query: Mapping[str, Any]) -> tuple[str, int]:
    return _text(query, "video"), _whole(query, "frame")


def _text(query: Mapping[str, Any], name: str) -> str:
    """A text of a request, '' where there is none. Raises UserError."""
    value = query.get(name, "")
    try:
        value.encode()
    except (AttributeError, UnicodeEncodeError):  # a number; half of a character
        raise UserError(f"{name} must be a text, got {str(value)[:40]!r}") from None
    return str(value)


def _whole(query: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A whole number of a request. Raises UserError."""
    value = query.get(name, default)
    try:
        number = int(str(value))
    except ValueError:
        raise UserError(f"{name} must be a whole number, got {str(value)[:40]!r}") from None
    if abs(number) >= 1 << 62:
        raise UserError(f"{name} is too large")
    return number
