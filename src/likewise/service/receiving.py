"""Bodies as they come: read within limits, and told apart by their type."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import msgspec
from python_multipart.multipart import MultipartParser, parse_options_header

from likewise.service.refusals import Refusal
from likewise.service.settings import Settings

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_T = TypeVar("_T")
DRAINED = 4  # times the limit that are read and thrown away, so that a sender hears the refusal
DRAIN_SECONDS = 2.0
MOST_PARTS = 1000
MOST_HEADER = 4096  # bytes of the headers of a part


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
        receive: Of the ASGI call.
        declared: The header Content-Length.
        settings: Say what is allowed.
        budget: Of bytes in memory.
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
    """The parts of a multipart/form-data body.

    Raises:
        Refusal: It is none.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 200:
        raise Refusal("invalid", "form must have a boundary of 1 to 200 characters.")
    parser = _Form(boundary)
    return parser.parts_in(content)


class _Form:
    """Collects the parts that the parser of python-multipart meets."""

    def __init__(self, boundary: bytes) -> None:
        self.parts: list[Part] = []
        self._headers: dict[str, bytes] = {}
        self._field, self._value, self._header_bytes = bytearray(), bytearray(), 0
        self._content = bytearray()
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_field,
                "on_header_value": self._on_value,
                "on_header_end": self._on_header,
                "on_part_data": self._on_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def parts_in(self, content: bytes) -> list[Part]:
        try:
            self._parser.write(content)
            self._parser.finalize()
        except ValueError as error:  # of the parser, about what the client sent
            if isinstance(error, Refusal):
                raise
            raise Refusal("invalid", f"form must be multipart/form-data, got: {error}.") from None
        if not self._ended:
            raise Refusal("invalid", "form must end with its boundary, got one that is cut off.")
        return self.parts

    def _begin(self) -> None:
        self._headers, self._header_bytes = {}, 0
        self._content = bytearray()
        if len(self.parts) >= MOST_PARTS:
            raise Refusal("too_large", f"form must have at most {MOST_PARTS:,} parts, got more.")

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]
        self._count(end - start)

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._count(end - start)

    def _count(self, more: int) -> None:
        self._header_bytes += more
        if self._header_bytes > MOST_HEADER:
            raise Refusal("too_large", "part of the form must have short headers, got long ones.")

    def _on_header(self) -> None:
        self._headers[self._field.decode("latin-1").lower()] = bytes(self._value)
        self._field, self._value = bytearray(), bytearray()

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def _end_part(self) -> None:
        kind, options = parse_options_header(self._headers.get("content-disposition", b""))
        name = options.get(b"name")
        if kind != b"form-data" or name is None:
            raise Refusal("invalid", "part of the form must have a name, got one without.")
        typed = self._headers.get("content-type", b"").lower()
        is_file = b"filename" in options or typed.startswith(b"image/")
        self.parts.append(Part(name.decode("utf-8", "replace"), bytes(self._content), is_file))

    def _end(self) -> None:
        self._ended = True


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
