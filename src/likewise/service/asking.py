"""From a request to its body, and from an answer to its response, whatever answers."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from likewise.service import bodies
from likewise.service.jobs import Job
from likewise.service.receiving import Part, converted, decoded, parts_of
from likewise.service.refusals import Refusal
from likewise.service.settings import Settings

SMALL = 65_536  # bytes of a body that is decoded where it arrives
QUICK = 16_384  # bytes of images that are decoded on the way to their answer
Sides = tuple[str, str]  # what a query is, and a known item: "image", "text" or "vector"
Form = Callable[[list[Part], Sides], Mapping[str, Any]]
_T = TypeVar("_T")


def read_body(typed: str, content: bytes, kind: type[_T], form: Form | None, takes: Sides) -> _T:
    """A body as a struct.

    Args:
        typed: The header Content-Type.
        content: The body.
        kind: The struct.
        form: Makes the fields of the struct from the parts of a form; None where none is taken.
        takes: Kinds of a query and of a known item.

    Raises:
        Refusal: It is neither JSON nor a form, or does not fit.
    """
    plain = typed.partition(";")[0].strip().lower()
    if plain == "application/json":
        return decoded(content, kind)
    if plain == "multipart/form-data" and form is not None:
        return converted(form(parts_of(typed, content), takes), kind)
    expected = "application/json" + (" or multipart/form-data" if form is not None else "")
    raise Refusal("unsupported_media_type", f"Content-Type must be {expected}, got {typed[:80]!r}.")


def facts_of(item: bodies.NewItem) -> dict[str, Any]:
    """What is kept with an item; of a text also itself, as `likewise index` keeps it."""
    return {"text": item.text, **item.metadata} if isinstance(item.text, str) else item.metadata


def is_slow(job: Job) -> bool:
    """Whether a thread of its own should decode the images of a job."""
    sizes = (len(item.image) for item in job.items if isinstance(item.image, bytes))
    return sum(sizes) > QUICK


def with_items(parts: list[Part], takes: Sides) -> dict[str, Any]:
    """The fields of a form with items: files, or texts under the name "text"."""
    fields: dict[str, Any] = {"items": []}
    for part in parts:
        if part.is_file:
            fields["items"].append(_item_of(part))
        elif part.name == "text":
            fields["items"].append({"text": _text(part)})
        elif part.name in ("items", "a", "b") or part.name in fields:
            raise Refusal("invalid", f"form must have each field once, got {part.name[:40]!r}.")
        else:
            fields[part.name] = _text(part)
    for name in ("where", "metadata"):
        if name in fields:
            fields[name] = decoded(fields[name].encode(), dict)
    return fields


def with_new_items(parts: list[Part], takes: Sides) -> dict[str, Any]:
    """The fields of a form with items to be added, which share the fields beside them."""
    fields = with_items(parts, takes)
    shared = {name: fields.pop(name) for name in ("label", "id", "metadata") if name in fields}
    if "id" in shared and len(fields["items"]) > 1:
        raise Refusal(
            "invalid",
            f"form must hold one item for its id, got {len(fields['items'])}. Send each alone, or "
            "leave the id out.",
        )
    fields["items"] = [{**item, **shared} for item in fields["items"]]
    return fields


def with_pair(parts: list[Part], takes: Sides) -> dict[str, Any]:
    """The fields of a form with a pair."""
    sides: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    for part in parts:
        if part.name in sides or part.name in fields or part.name == "pairs":
            raise Refusal("invalid", f"form must have each field once, got {part.name[:40]!r}.")
        if part.name in ("a", "b"):
            is_text = takes["ab".index(part.name)] == "text" and not part.is_file
            sides[part.name] = {"text": _text(part)} if is_text else _item_of(part)
        else:
            fields[part.name] = _text(part)
    return {**fields, "pairs": [sides]}


def _item_of(part: Part) -> bodies.Item:
    return {"image": part.content}  # type: ignore[return-value]


def _text(part: Part) -> str:
    try:
        return part.content.decode()
    except UnicodeDecodeError:
        raise Refusal(
            "invalid", f"field {part.name[:40]!r} must be UTF-8, got other bytes."
        ) from None


def query_of(request: Request, kind: type[_T]) -> _T:
    """The parameters behind a path."""
    given = request.query_params.multi_items()
    if len({name for name, _ in given}) < len(given):
        raise Refusal("invalid", "parameters must be given once each, got one twice.")
    return converted(dict(given), kind)


def idempotency_of(request: Request) -> str | None:
    """The idempotency key of a request."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable() or " " in key:
        raise Refusal(
            "invalid", "Idempotency-Key must have 1 to 255 visible characters of ASCII, got others."
        )
    return key


def limits_of(settings: Settings) -> bodies.Limits:
    """What of the settings is told."""
    names = bodies.Limits.__struct_fields__
    return bodies.Limits(**{name: getattr(settings, name) for name in names})


def as_json(answer: object, status: int = 200) -> Response:
    """An answer as JSON."""
    return Response(msgspec.json.encode(answer), status, media_type="application/json")


def as_picture(content: bytes) -> Response:
    """A small picture."""
    kind = "image/png" if content.startswith(b"\x89PNG") else "image/jpeg"
    return Response(content, media_type=kind, headers={"Cache-Control": "private, max-age=300"})
