"""A service that runs: its socket, its connections, its log, and how it stops."""

import asyncio
import logging
import signal
import socket
import sys
import threading
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from likewise.errors import InputError
from likewise.service.application import Application
from likewise.service.refusals import CODES, Envelope
from likewise.service.settings import Settings

HEAD_SECONDS = 10.0  # in which the head of a request must have come
HEAD_BYTES = 65_536
IDLE_SECONDS = 30  # that a connection stays open without a request
SWITCH = 0.0005  # seconds after which a thread that computes lets the others have a turn
STOP = (signal.SIGINT, signal.SIGTERM)
NEAR = ("127.0.0.1", "localhost", "::1")


def serve(application: Application, listening: socket.socket, *, loop: str = "auto") -> None:
    """Answer until a signal says to stop; then finish what was begun.

    Args:
        application: Answers.
        listening: A socket from `listen`.
        loop: Event loop of uvicorn.
    """
    sys.setswitchinterval(SWITCH)
    server_of(application, loop=loop).run(sockets=[listening])


def server_of(application: Application, *, loop: str = "auto") -> uvicorn.Server:
    """What answers at a socket, in this thread or in another, until `should_exit` is set."""
    settings = application.settings
    config = uvicorn.Config(
        application,
        http=guarded(settings),
        ws="none",
        loop=loop,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.stop_seconds)),
    )
    return _Server(config, application)


def listen(host: str, port: int, *, has_keys: bool) -> socket.socket:
    """A socket to listen at.

    Args:
        host: An address of this machine.
        port: 0 for any that is free.
        has_keys: Whether clients must give a key; only then others may reach the service.

    Raises:
        InputError: Others could reach it without a key, or the address cannot be used.
    """
    if host not in NEAR and not has_keys:
        raise InputError(
            f"must be {NEAR[0]} for a service without keys, got {host!r}.",
            argument="host",
            command="Make a key with likewise key FILE NAME, and give --keys FILE.",
        )
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found = socket.socket(family, socket.SOCK_STREAM)
        try:
            if sys.platform != "win32":
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(2048)  # who connects before the service has started waits for it
        except BaseException:
            found.close()
            raise
    except (OSError, OverflowError) as error:
        told = getattr(error, "strerror", None) or error
        raise InputError(
            f"host and port must be free on this machine, got {host}:{port} ({told}). "
            "Choose another port."
        ) from error
    return found


class _Server(uvicorn.Server):
    """Tells at once, when it is told to stop, that it is not ready any more."""

    def __init__(self, config: uvicorn.Config, application: Application) -> None:
        super().__init__(config)
        self._application = application

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals tell the service to stop while this lasts; to stop so is no failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self.handle_exit) for each in STOP}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._application.routes.is_ready = False
        super().handle_exit(sig, frame)


def guarded(settings: Settings) -> type[HttpToolsProtocol]:
    """How connections are spoken with: few at once, with short heads that come in time."""

    class Guarded(HttpToolsProtocol):
        _head: asyncio.TimerHandle | None = None
        _in_head = True
        _head_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > settings.most_connections:
                most = settings.most_connections
                self._refuse("busy", f"connections must be at most {most:,}, got more. Try again.")
                return
            self._head = self.loop.call_later(HEAD_SECONDS, self._too_slow)

        def connection_lost(self, exc: Exception | None) -> None:
            self._came()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            if self._in_head:
                self._head_bytes += len(data)
            super().data_received(data)
            if self._in_head and self._head_bytes > HEAD_BYTES and self.parser is not None:
                self._refuse("malformed", f"head must have at most {HEAD_BYTES:,} bytes, got more.")

        def on_message_begin(self) -> None:
            if self._head is None:
                self._head = self.loop.call_later(HEAD_SECONDS, self._too_slow)
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._came()
            self._in_head = False
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._in_head, self._head_bytes = True, 0
            super().on_message_complete()

        def send_400_response(self, msg: str) -> None:
            self._refuse("malformed", "request must be HTTP/1.1, got something else.")

        def _too_slow(self) -> None:
            self._head = None
            self._refuse("too_slow", f"head must come within {HEAD_SECONDS:g} seconds.")

        def _came(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

        def _refuse(self, code: str, sentence: str) -> None:
            self._came()
            if self.transport.is_closing():
                return
            status = CODES[code][0]
            told = Envelope(code, sentence, uuid.uuid4().hex)
            content = msgspec.json.encode(told)
            phrase = {400: "Bad Request", 408: "Request Timeout"}.get(status, "Service Unavailable")
            head = (
                f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(content)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + content)
            self.transport.close()

    return Guarded


class JsonLines(logging.Formatter):
    """A line of JSON per record, with what was told about the request."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        told: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "told", {}),
        }
        if record.exc_info:
            told["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return msgspec.json.encode(told, enc_hook=str).decode()


def log_to(stream: Any, level: int = logging.INFO) -> None:
    """Write the log of the service, of the server and of warnings as lines of JSON."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    for name in ("likewise", "uvicorn", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(level if name == "likewise" else logging.WARNING)
    logging.captureWarnings(True)
