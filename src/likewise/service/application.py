"""The ASGI application: who asks, whether they may, what is answered, and what is logged."""

import logging
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from likewise.service.keys import Key, Keys
from likewise.service.openapi import ENDPOINTS, Endpoint, Served, document
from likewise.service.receiving import Budget, Gone, Held, receive_body
from likewise.service.refusals import Envelope, Refusal, not_exported, refusal_of

if TYPE_CHECKING:
    from likewise.service.exported_routes import ExportedRoutes
    from likewise.service.routes import Routes

PAGE = Path(__file__).with_name("page")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
PAGE_SAFE = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
}
MOST_CLIENTS = 10_000  # whose rate is remembered
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HERE = ("localhost", "127.0.0.1", "[::1]")
_log = logging.getLogger("likewise.service")

Handler = Callable[[Request, bytes], Awaitable[Response]]


class Application:
    """Answers HTTP requests, as ASGI has them.

    Args:
        routes: Answer what is allowed.
        keys: The keys of clients; None where everybody on this machine may ask.
    """

    def __init__(self, routes: "Routes | ExportedRoutes", keys: Keys | None = None) -> None:
        self.routes, self.keys, self.settings = routes, keys, routes.settings
        self.budget = Budget(self.settings.most_bytes_waiting)
        self._working = 0
        self._rates: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._fixed = {(each.method, each.path): each for each in ENDPOINTS if "{" not in each.path}
        self._varied = [
            (each, re.compile(each.path.replace("{id}", "(?P<id>[^/]+)") + r"\Z"))
            for each in ENDPOINTS
            if "{" in each.path
        ]
        self._files = _page_files()
        routes.counts.gauge(
            "likewise_requests_working", "Requests worked on now.", lambda: self._working
        )
        routes.counts.gauge(
            "likewise_body_bytes", "Bytes of bodies in memory.", lambda: self.budget.taken
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or start and stop."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                self.routes.is_ready = False
                self.routes.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        request = Request(scope, receive)
        asked_id = request.headers.get("x-request-id", "")
        request_id = asked_id if _ID.fullmatch(asked_id) else uuid.uuid4().hex
        held = Held(self.budget)
        told: dict[str, Any] = {"request_id": request_id, "method": scope["method"]}
        try:
            response = await self._respond(request, receive, held, told)
        except Gone:
            told["status"] = 499  # as other servers log it
            _log.info("left", extra={"told": told})
            return
        except Exception as error:
            response = self._refused(error, request_id, told)
        finally:
            held.release()
        response.raw_headers += [(b"x-request-id", request_id.encode()), *SAFE]
        await response(scope, receive, send)
        seconds = time.perf_counter() - started
        route = told.setdefault("route", "other")
        told |= {"status": response.status_code, "seconds": round(seconds, 6)}
        self.routes.counts.requests.labels(route, str(response.status_code)).inc()
        self.routes.counts.seconds.labels(route).observe(seconds)
        _log.info("answered", extra={"told": told})

    async def _respond(
        self, request: Request, receive: Receive, held: Held, told: dict[str, Any]
    ) -> Response:
        method, path = request.scope["method"], request.scope["path"]
        if method in ("GET", "HEAD") and path in self._files:
            told["route"] = "page"
            return self._page(path)
        endpoint = self._endpoint("GET" if method == "HEAD" else method, path, request)
        told["route"] = endpoint.path
        client = self._client(request, endpoint)
        told["client"] = client
        self._count(client)
        if not self.routes.is_ready and endpoint.name != "health":
            raise Refusal(
                "stopping",
                "service must not be about to stop, got that it is. Ask another one.",
                headers={"Connection": "close"},
            )
        if endpoint is _DOCUMENT:
            # Asked anew, since the operating points of the model may be others now.
            content = _document(self.routes.served(has_keys=self.keys is not None))
            return Response(content, media_type="application/json")
        content = b""
        handler: Handler | None = getattr(self.routes, endpoint.name, None)
        if handler is None:
            raise not_exported(endpoint.path)
        if endpoint.asks is not None:
            declared = request.headers.get("content-length")
            content = await receive_body(receive, declared, self.settings, self.budget, held)
            told["bytes"] = len(content)
        if endpoint.scope is None:
            return await handler(request, content)
        if self._working >= self.settings.most_concurrent:
            raise Refusal(
                "busy",
                f"service must work on at most {self.settings.most_concurrent} requests at once, "
                "got more. Try again.",
                headers={"Retry-After": "1"},
            )
        self._working += 1
        try:
            return await handler(request, content)
        finally:
            self._working -= 1

    def _endpoint(self, method: str, path: str, request: Request) -> Endpoint:
        found = self._fixed.get((method, path))
        if found is not None:
            return found
        if method == "GET" and path == "/openapi.json":
            return _DOCUMENT
        allowed = {each.method for each in ENDPOINTS if each.path == path}
        raw = request.scope.get("raw_path") or quote(path).encode()
        for each, pattern in self._varied:
            if (match := pattern.match(raw.decode("latin-1"))) is not None:
                if each.method == method:
                    # Unquoted only here: an id may have a slash in it.
                    request.scope["path_params"] = {"id": unquote(match["id"])}
                    return each
                allowed.add(each.method)
        if path in self._files or path == "/openapi.json":
            allowed.add("GET")
        if allowed:
            raise Refusal(
                "method_not_allowed",
                f"method must be one of {', '.join(sorted(allowed))}, got {method[:20]}.",
                headers={"Allow": ", ".join(sorted(allowed))},
            )
        raise Refusal("not_found", f"address must be one of /openapi.json, got {path[:80]!r}.")

    def _client(self, request: Request, endpoint: Endpoint) -> str:
        """Who asks, by the name of the key, or by the address."""
        address = "unknown" if request.client is None else request.client.host
        if self.keys is None:
            _check_near(request)
            return address
        if endpoint.scope is None or endpoint is _DOCUMENT:
            return address
        kind, _, secret = request.headers.get("authorization", "").partition(" ")
        key = self.keys.find(secret.strip()) if kind.lower() == "bearer" else None
        if key is None:
            raise Refusal(
                "unauthorized",
                "Authorization must be Bearer and a key that the service knows, got "
                f"{'another' if secret else 'none'}.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        _check_scope(key, endpoint)
        return key.name

    def _count(self, client: str) -> None:
        """Refuse a client that asks more often than allowed, by a bucket of tokens."""
        rate = self.settings.most_per_second
        if rate is None:
            return
        now = time.monotonic()
        most = max(1.0, rate)
        tokens, before = self._rates.pop(client, (most, now))
        tokens = min(most, tokens + (now - before) * rate)
        self._rates[client] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._rates) > MOST_CLIENTS:
            self._rates.popitem(last=False)
        if tokens < 1:
            wait = max(1, round((1 - tokens) / rate + 0.5))
            raise Refusal(
                "too_many_requests",
                f"client must ask at most {rate:g} times per second, got more. Wait.",
                headers={"Retry-After": str(wait)},
            )

    def _refused(self, error: Exception, request_id: str, told: dict[str, Any]) -> Response:
        refusal = refusal_of(error)
        if refusal is None or refusal.status >= 500:
            _log.error(
                "failed",
                extra={"told": dict(told)},
                exc_info=error if not isinstance(error, Refusal) else None,
            )
        if refusal is None:
            refusal = Refusal(
                "internal", "service must answer, got a fault of ours. The log has more."
            )
        told["code"] = refusal.code
        self.routes.counts.refused.labels(refusal.code).inc()
        return Response(
            msgspec.json.encode(Envelope(refusal.code, refusal.sentence, request_id)),
            refusal.status,
            headers=refusal.headers,
            media_type="application/json",
        )

    def _page(self, path: str) -> Response:
        kind, content = self._files[path]
        return Response(content, media_type=kind, headers=PAGE_SAFE)


_DOCUMENT = Endpoint("GET", "/openapi.json", "openapi", "This document.", None, scope=None)


@lru_cache(maxsize=16)
def _document(served: Served) -> bytes:
    return msgspec.json.encode(document(served))


def _check_scope(key: Key, endpoint: Endpoint) -> None:
    if endpoint.scope == "write" and key.scope != "write":
        raise Refusal(
            "forbidden", f"key must be allowed to write, got that of {key.name!r}, which may read."
        )


def _check_near(request: Request) -> None:
    """Refuse pages from elsewhere that make a browser on this machine ask.

    Without keys, whoever reaches the service may use it, and a browser on this machine reaches it
    for any page. The header Host tells a name that was pointed here, Origin a page from elsewhere.
    """
    host = request.headers.get("host", "")
    if (urlsplit(f"//{host}").hostname or "") not in ("localhost", "127.0.0.1", "::1"):
        raise Refusal(
            "forbidden",
            f"Host must be one of {', '.join(_HERE)} for a service without keys, got "
            f"{host[:80]!r}. Start it with --keys.",
        )
    origin = request.headers.get("origin")
    is_foreign = origin is not None and urlsplit(origin).netloc != host
    if is_foreign or request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise Refusal("forbidden", "page that asks must be that of the service, got another.")


def _page_files() -> dict[str, tuple[str, bytes]]:
    """The files of the page, by their address."""
    found = {
        f"/page/{file.name}": (TYPES[file.suffix], file.read_bytes())
        for file in sorted(PAGE.iterdir())
        if file.suffix in TYPES
    }
    return {**found, "/": found["/page/index.html"]}
