"""Checksums of stored rows, so that no flipped byte goes unnoticed."""

import hashlib
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

ABSENT = -1  # the checksum of metadata or a payload that is not there
_HEAD = 7  # numbers of 64 bits before the embedding; see `row_checksums`
_LABEL = 2  # which of them is the label


def row_checksums(
    positions: Integers,
    keys: Integers,
    labels: Integers,
    metadata: Integers,
    payloads: Integers,
    prints: Integers,
    embeddings: npt.NDArray[Any],
) -> Integers:
    """One number of 64 bits per row, over everything that is stored of it.

    The sum of all its words of 32 bits, each times an odd number of its own, modulo 2^64. A word
    that changes always changes the sum, as an odd number times less than 2^32 is never 0 there.

    Args:
        positions: (n,).
        keys: ids as numbers, (n,).
        labels: (n,).
        metadata: checksums of the metadata, (n,).
        payloads: checksums of the payloads, (n,).
        prints: fingerprints, and 1 where there is one, (n, 2).
        embeddings: Embeddings as they are stored, (n, w) of any type.
    """
    head = np.column_stack([positions, keys, labels, metadata, payloads, prints])
    content = np.ascontiguousarray(embeddings).view(np.uint8)
    if missing := -content.shape[1] % 4:
        content = np.pad(content, ((0, 0), (0, missing)))
    bits = content.view(np.uint32).astype(np.uint64)
    factors = _factors(2 * _HEAD + bits.shape[1])
    words = np.ascontiguousarray(head).view(np.uint32).astype(np.uint64) @ factors[: 2 * _HEAD]
    checksums: Integers = (words + bits @ factors[2 * _HEAD :]).view(np.int64)
    return checksums


def relabeled(checksums: Integers, before: Integers, after: Integers) -> Integers:
    """The checksums of rows of which only the label changes, from `before` to `after`."""
    factors = _factors(2 * _HEAD)[2 * _LABEL : 2 * _LABEL + 2]
    old, new = (
        np.ascontiguousarray(labels[:, None]).view(np.uint32).astype(np.uint64) @ factors
        for labels in (before, after)
    )
    changed: Integers = (checksums.view(np.uint64) - old + new).view(np.int64)
    return changed


def total(checksums: Integers) -> int:
    """Their sum, modulo 2^64; 0 of none."""
    return int(checksums.view(np.uint64).sum(dtype=np.uint64))


def part_checksum(part: bytes | None) -> int:
    """The checksum of the metadata or payload of one row."""
    return ABSENT if part is None else zlib.crc32(part)


def part_checksums(parts: Sequence[bytes | None]) -> Integers:
    """`part_checksum` of each."""
    return np.fromiter(map(part_checksum, parts), dtype=np.int64, count=len(parts))


def keys_of(ids: Sequence[Any]) -> Integers:
    """Ids as numbers of 64 bits: integers as they are, strings (UTF-8) by a hash."""
    if ids and isinstance(ids[0], bytes):
        digests = b"".join([hashlib.blake2b(text, digest_size=8).digest() for text in ids])
        return np.frombuffer(digests, dtype="<i8").astype(np.int64)
    return np.array(ids, dtype=np.int64)


def _factors(count: int) -> npt.NDArray[np.uint64]:
    # splitmix64, a fixed sequence: the numbers are part of the format. Made odd.
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (state ^ (state >> np.uint64(31))) | np.uint64(1)
