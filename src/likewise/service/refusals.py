"""Refusals: one envelope for whatever a request is not answered for."""

import msgspec

from likewise.errors import GalleryError, InputError, TooFewItems

# What each code means, for the documents; the status is that of the answer.
CODES: dict[str, tuple[int, str]] = {
    "malformed": (400, "What came is no HTTP."),
    "unauthorized": (401, "No key was given, or one that the service does not know."),
    "forbidden": (403, "The key may not do this, or a page from elsewhere asked."),
    "not_found": (404, "There is no such address, item or unknown."),
    "method_not_allowed": (405, "The address does not take this method."),
    "too_slow": (408, "The body did not come in time."),
    "read_only": (409, "The service was started without a place to keep items."),
    "not_kept": (409, "The service was started without a place to keep unknowns."),
    "not_exported": (409, "An exported model answers, which cannot do this."),
    "two_towers": (409, "The model has two towers, and an item is of the other side."),
    "not_calibrated": (409, "The model has no operating point for this."),
    "too_few_items": (
        409,
        "There are fewer known items, or fewer calibrated on, than the answer needs.",
    ),
    "id_taken": (409, "An item has this id already."),
    "key_reused": (409, "The idempotency key was used for another request."),
    "too_large": (413, "The body, an image or a text is larger than allowed, or there are more."),
    "unsupported_media_type": (415, "The body is neither JSON nor multipart/form-data."),
    "invalid": (422, "The request cannot be understood, or what it holds cannot be read."),
    "too_many_requests": (429, "This client asks more often than allowed."),
    "internal": (500, "A fault of ours; the log has more under the request's id."),
    "busy": (503, "As many requests as allowed are being answered. Try again."),
    "stopping": (503, "The service is about to stop."),
    "storage_failed": (503, "The disk is full, or the gallery cannot be read or written."),
}


class Envelope(msgspec.Struct):
    """What every refusal looks like.

    Attributes:
        code: What kind of refusal, for programs.
        sentence: What must hold, what came, and what to do, for people.
        request_id: By which the log knows the request.
    """

    code: str
    sentence: str
    request_id: str


class Refusal(InputError):
    """A request that is not answered.

    Args:
        code: One of `CODES`.
        sentence: What must hold, what came, and what to do.
        headers: Headers of the answer.
    """

    def __init__(self, code: str, sentence: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.code = code
        self.status = CODES[code][0]
        self.headers = headers or {}


def not_exported(what: str) -> Refusal:
    """What is told to a client that asks an exported model for what it cannot do.

    Example:
        >>> not_exported("/v1/drift").code
        'not_exported'
    """
    return Refusal(
        "not_exported",
        f"model must be served from its own folder for {what}, got an exported one. Serve the "
        "folder that it was exported from.",
    )


def refusal_of(error: Exception) -> Refusal | None:
    """What is told to a client whose request ended so; None for a fault of ours.

    Example:
        >>> refusal_of(InputError("k must be at least 1, got 0.")).status
        422
        >>> refusal_of(KeyError("k")) is None
        True
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, (GalleryError, OSError)):
        return Refusal("storage_failed", "Known items must be readable and writable. Try again.")
    if isinstance(error, MemoryError):
        return Refusal("busy", "Memory must be enough for the request. Send less, or try later.")
    if isinstance(error, TooFewItems):
        return Refusal("too_few_items", error.whole)
    if isinstance(error, InputError):
        return Refusal("invalid", error.whole)
    return None
