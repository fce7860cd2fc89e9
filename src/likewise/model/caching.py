"""Embeddings kept in a folder from one command to the next, found again by content."""

import errno
import hashlib
import json
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import PIL
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

import likewise
from likewise import data as sources
from likewise._files import read_regular, write_whole
from likewise.errors import InputError
from likewise.model.rebuilding import encoder_fingerprint, packed, unpacked

_DIGEST = 32  # bytes of a sha256
_FULL = {errno.ENOSPC, errno.EDQUOT}
_told: set[Path] = set()  # folders that were said to be full or not writable


def content_of(item: str | Tensor) -> bytes:
    """The sha256 of a file's bytes, or of an item's numbers with their type."""
    if isinstance(item, Tensor):
        numbers = item.detach().cpu().contiguous().flatten()
        made = hashlib.sha256(str(item.dtype).encode())
        made.update(numbers.view(torch.uint8).numpy().tobytes())
        return made.digest()
    return hashlib.sha256(read_regular(item)).digest()


def content_of_text(text: str) -> bytes:
    """The sha256 of a text, which is that of no number."""
    return hashlib.sha256(b"text" + text.encode("utf-8", "surrogatepass")).digest()


class Cache:
    """What is kept of one encoder, with its preprocessing and one shape of items.

    Each call that encoded something adds a file, whose name is the checksum of its bytes. A file
    that is damaged is ignored and removed; what it held is encoded and written again. Two commands
    that write at once keep both files. Where none can be written, as on a full disk, a warning says
    so once for each folder, and nothing is kept.

    Args:
        folder: Folder of all caches; made if it is not there.
        encoder: What makes the embeddings.
        preprocess: What is done to items first.
        source: The items, which tell their shape.

    Raises:
        InputError: The preprocess has no fingerprint.
        OSError: The folder cannot be made, for another reason than a full disk.
    """

    def __init__(
        self,
        folder: str | Path,
        encoder: nn.Module,
        preprocess: Any,
        source: Any,
    ) -> None:
        if not (preprocess is None or isinstance(preprocess, sources.Preprocess)):
            raise InputError(
                "preprocess must be a data.Preprocess for a cache, got "
                f"{type(preprocess).__name__}, which has no fingerprint. Leave cache out."
            )
        shape = source.shape[1:] if isinstance(source, Tensor) else source.item_shape
        made_by = [
            likewise.__version__,
            PIL.__version__,
            encoder_fingerprint(encoder),
            str(next(encoder.parameters(), torch.empty(0)).dtype),
            None if preprocess is None else preprocess.to_dict(),
            list(shape),
        ]
        key = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:_DIGEST]
        self._folder = Path(folder) / key
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._tell(error)
        self._prints: dict[bytes, int] = {}
        self._row: dict[bytes, int] = {}
        parts: list[Tensor] = []
        start = 0
        for path in sorted(self._folder.glob("*.safetensors")):
            if (found := _read(path)) is None:
                with suppress(OSError):
                    path.unlink()
                continue
            contents, prints, rows, embeddings = found
            for content, print_, row in zip(contents, prints, rows, strict=True):
                self._prints[content] = print_
                if row >= 0:
                    self._row[content] = start + row
            parts.append(embeddings)
            start += len(embeddings)
        widths = {part.shape[1] for part in parts if len(part)}
        self._embeddings = torch.empty(0, 0)
        if len(widths) == 1:
            self._embeddings = torch.cat([part for part in parts if len(part)])
        else:
            self._row = {}

    def fingerprints(self, contents: Sequence[bytes]) -> tuple[Bool[Tensor, " n"], Tensor]:
        """Which items are known, and their fingerprints; 0 for the others."""
        found = [self._prints.get(content) for content in contents]
        known = torch.tensor([each is not None for each in found], dtype=torch.bool)
        return known, torch.tensor([each or 0 for each in found], dtype=torch.int64)

    def has_embeddings(self, contents: Sequence[bytes]) -> Bool[Tensor, " n"]:
        """Which items have an embedding here."""
        return torch.tensor([content in self._row for content in contents], dtype=torch.bool)

    def completed(
        self,
        contents: Sequence[bytes],
        prints: Int[Tensor, " n"],
        kept: Int[Tensor, " k"],
        is_fresh: Bool[Tensor, " n"],
        made: Float[Tensor, "f d"],
    ) -> Float[Tensor, "k d"]:
        """The embeddings of the kept items, from here and from those made; the latter are added.

        Args:
            contents: Contents of all items.
            prints: Their fingerprints.
            kept: Positions of the items whose embeddings are asked for.
            is_fresh: Which items were encoded now.
            made: Their embeddings, in order.
        """
        self._add(contents, prints, is_fresh, made)
        width = max(made.shape[1], self._embeddings.shape[1])
        embeddings = torch.empty(len(kept), width)
        fresh = is_fresh[kept]
        if bool(fresh.any()):
            embeddings[fresh] = made
        old = [self._row[contents[row]] for row in kept[~fresh].tolist()]
        if old:
            embeddings[~fresh] = self._embeddings[old]
        return embeddings

    def _add(
        self,
        contents: Sequence[bytes],
        prints: Int[Tensor, " n"],
        is_fresh: Bool[Tensor, " n"],
        made: Float[Tensor, "f d"],
    ) -> None:
        place = torch.full((len(contents),), -1)
        place[is_fresh] = torch.arange(len(made))
        new = {
            content: row
            for row, content in enumerate(contents)
            if is_fresh[row] or content not in self._prints
        }
        if not new:
            return
        rows = torch.tensor(list(new.values()))
        content = packed(
            {
                "contents": torch.frombuffer(bytearray(b"".join(new)), dtype=torch.uint8).view(
                    -1, _DIGEST
                ),
                "fingerprints": prints[rows],
                "rows": place[rows],
                "embeddings": made,
            }
        )
        name = hashlib.sha256(content).hexdigest()
        try:
            write_whole(self._folder / f"{name}.safetensors", content)
        except OSError as error:
            self._tell(error)

    def _tell(self, error: OSError) -> None:
        folder = self._folder.parent
        if folder in _told:
            return
        _told.add(folder)
        reason = error.__cause__ if isinstance(error.__cause__, OSError) else error
        warnings.warn(
            f"The cache {str(folder)!r} cannot be written ({reason.strerror or reason}), so these "
            "embeddings are not kept for the next time.",
            stacklevel=2,
        )


def _read(path: Path) -> tuple[list[bytes], list[int], list[int], Tensor] | None:
    """Contents, fingerprints, rows (-1 for none) and embeddings; None if the file is damaged."""
    try:
        content = read_regular(path)
        if hashlib.sha256(content).hexdigest() != path.stem:
            return None
        found = unpacked(content)
    except (InputError, OSError):
        return None
    shapes = {"contents": 2, "fingerprints": 1, "rows": 1, "embeddings": 2}
    if {name: value.ndim for name, value in found.items()} != shapes:
        return None
    contents, rows, embeddings = found["contents"], found["rows"], found["embeddings"]
    if contents.dtype != torch.uint8 or contents.shape[1] != _DIGEST:
        return None
    if found["fingerprints"].dtype != torch.int64 or rows.dtype != torch.int64:
        return None
    if not len(contents) == len(found["fingerprints"]) == len(rows):
        return None
    if embeddings.dtype != torch.float32 or not bool(embeddings.isfinite().all()):
        return None
    if len(rows) and not -1 <= int(rows.min()) <= int(rows.max()) < len(embeddings):
        return None
    whole = contents.numpy().tobytes()
    parts = [whole[at : at + _DIGEST] for at in range(0, len(whole), _DIGEST)]
    return parts, found["fingerprints"].tolist(), rows.tolist(), embeddings
