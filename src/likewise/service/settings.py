"""What a service allows: sizes, numbers, times."""

from dataclasses import dataclass, fields

from likewise._arguments import check_count, check_number
from likewise.errors import InputError

MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """Limits of a service. What is beyond them is refused, and never waits without bound.

    Attributes:
        most_bytes: Bytes of one request's body.
        most_bytes_waiting: Bytes of all bodies that are in memory at once.
        most_pixels: Pixels of one image.
        most_characters: Characters of one text.
        most_items: Items of one request.
        most_neighbors: Neighbors of one item.
        most_concurrent: Requests that are worked on at once.
        most_connections: Open connections.
        most_per_second: Requests per second of one client, on average; None for no limit.
        batch: Items that are encoded together.
        wait_ms: Milliseconds that a batch waits for images that are being decoded.
        body_seconds: Seconds in which a body must have come.
        stop_seconds: Seconds in which requests are finished once the service is told to stop.
        keep_most: Unknown items that are kept.
        keep_days: Days for which they are kept.

    Raises:
        InputError: A limit is not above 0.

    Example:
        >>> Settings(most_items=8).most_items
        8
    """

    most_bytes: int = 20 * MIB
    most_bytes_waiting: int = 256 * MIB
    most_pixels: int = 25_000_000
    most_characters: int = 10_000
    most_items: int = 256
    most_neighbors: int = 100
    most_concurrent: int = 64
    most_connections: int = 1000
    most_per_second: float | None = None
    batch: int = 32
    wait_ms: float = 2.0
    body_seconds: float = 10.0
    stop_seconds: float = 10.0
    keep_most: int = 1000
    keep_days: float = 7.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int:
                check_count(field.name, value)
            elif value is not None:
                check_number(field.name, value)
                if value < 0 or (value == 0 and field.name != "wait_ms"):
                    raise InputError(f"must be above 0, got {value!r}.", argument=field.name)
