"""Bodies as they come: read within limits, and told apart by their type."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import msgspec

from likewise.service.refusals import Refusal
from likewise.service.settings import Settings

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_T = TypeVar("_T")
DRAINED = 4  # times the limit that are read and thrown away, so that a sender hears the refusal
DRAIN_SECONDS = 2.0
MOST_PARTS = 1000
MOST_HEADER = 4096  # bytes of the headers of a part
_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))(?=\s*(?:;|$))', re.I)
_NAME = re.compile(rb';\s*name=(?:"([^"]*)"|([^\s;"]+))', re.I)
_FILE = re.compile(rb";\s*filename\*?=", re.I)


class Gone(Exception):
    """The client left before its request had come."""


class Budget:
    """The bytes of bodies that may be in memory at once."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0

    def take(self, count: int) -> None:
        """Reserve bytes.

        Raises:
            Refusal: There are not as many left.
        """
        if self.taken + count > self.most:
            raise Refusal(
                "busy",
                f"bodies in memory must have at most {self.most:,} bytes in all. Try again.",
                headers={"Retry-After": "1"},
            )
        self.taken += count

    def give_back(self, count: int) -> None:
        """Free bytes that were reserved."""
        self.taken -= count


@dataclass
class Held:
    """A body in memory, and its bytes in the budget."""

    budget: Budget
    content: bytes = b""
    taken: int = 0

    def release(self) -> None:
        """Give the bytes back."""
        self.content = b""
        self.budget.give_back(self.taken)
        self.taken = 0


async def receive_body(
    receive: Receive, declared: str | None, settings: Settings, budget: Budget, held: Held
) -> bytes:
    """The whole body, at most as long as allowed.

    Args:
        receive: The `receive` of the ASGI call.
        declared: The header Content-Length.
        settings: Say what is allowed.
        budget: Budget of bytes in memory.
        held: Gets the body; whoever asked must release it.

    Raises:
        Refusal: It is too long or too slow, or there is no room for it.
        Gone: The client left.
    """
    most = settings.most_bytes
    if declared is not None and declared.isdecimal() and int(declared) > most:
        await _drain(receive, DRAINED * most)
        raise _too_long(most)
    parts: list[bytes] = []
    more = True
    try:
        async with asyncio.timeout(settings.body_seconds):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                part, more = message.get("body", b""), message.get("more_body", False)
                if part:
                    budget.take(len(part))
                    held.taken += len(part)
                    if held.taken > most:
                        break
                    parts.append(part)
    except TimeoutError:
        raise Refusal(
            "too_slow",
            f"body must come within {settings.body_seconds:g} seconds.",
            headers={"Connection": "close"},
        ) from None
    if held.taken > most:
        parts.clear()
        held.release()
        if more:
            await _drain(receive, DRAINED * most)
        raise _too_long(most)
    held.content = parts[0] if len(parts) == 1 else b"".join(parts)
    return held.content


async def _drain(receive: Receive, most: int) -> None:
    # Who still sends does not listen yet, and would only see a broken connection.
    left = most
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while left > 0:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))
    except TimeoutError:
        return


def _too_long(most: int) -> Refusal:
    return Refusal(
        "too_large",
        f"body must have at most {most:,} bytes, got more. Send fewer items, or smaller ones.",
        headers={"Connection": "close"},
    )


class Part(NamedTuple):
    """One part of a form."""

    name: str
    content: bytes
    is_file: bool


def parts_of(content_type: str, content: bytes) -> list[Part]:
    """The parts of a multipart/form-data body, by RFC 7578.

    Raises:
        Refusal: It is none.

    Example:
        >>> lines = (b"--b", b'Content-Disposition: form-data; name="k"', b"", b"5", b"--b--", b"")
        >>> parts_of("multipart/form-data; boundary=b", bytes([13, 10]).join(lines))
        [Part(name='k', content=b'5', is_file=False)]
    """
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise Refusal("invalid", "form must have a boundary of 1 to 70 characters.")
    delimiter = b"\r\n--" + (found[1] or found[2]).encode("latin-1")
    # What comes before the first delimiter and behind the last one is no part.
    pieces = (b"\r\n" + content).split(delimiter, MOST_PARTS + 1)
    if len(pieces) > MOST_PARTS + 1:
        raise Refusal("too_large", f"form must have at most {MOST_PARTS:,} parts, got more.")
    if len(pieces) < 2 or pieces[-1].rstrip(b"\r\n\t ") != b"--":
        raise Refusal("invalid", "form must end with its boundary, got one that is cut off.")
    return [_part(piece) for piece in pieces[1:-1]]


def _part(piece: bytes) -> Part:
    head, found, content = piece.partition(b"\r\n\r\n")
    if len(head) > MOST_HEADER:
        raise Refusal("too_large", "part of the form must have short headers, got long ones.")
    first, *lines = head.split(b"\r\n")
    headers = {}
    for line in lines:
        field, _, value = line.partition(b":")
        headers[field.strip().lower()] = value.strip()
    told = headers.get(b"content-disposition", b"")
    name = _NAME.search(told)
    if first.strip() or not found or name is None or not told.lower().startswith(b"form-data"):
        raise Refusal("invalid", "part of the form must have a name, got one without.")
    plain = (name[1] if name[1] is not None else name[2]).decode("utf-8", "replace")
    is_image = headers.get(b"content-type", b"").lower().startswith(b"image/")
    return Part(plain, content, is_image or _FILE.search(told) is not None)


def decoded(content: bytes, kind: type[_T]) -> _T:
    """A JSON body as a struct.

    Raises:
        Refusal: It is no JSON, or does not fit.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal("invalid", f"body must be as /openapi.json says, got: {error}.") from None
    except RecursionError:
        raise Refusal("invalid", "body must not be nested as deeply as it is.") from None


def converted(fields: Mapping[str, Any], kind: type[_T]) -> _T:
    """The fields of a form, or of an address, as a struct; texts are read as numbers.

    Raises:
        Refusal: They do not fit.
    """
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Refusal("invalid", f"request must be as /openapi.json says, got: {error}.") from None
