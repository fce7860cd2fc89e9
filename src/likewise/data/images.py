"""Image files: decoding of any mode and size, and the dataset that decodes when fetched."""

import copy
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from likewise._checks import check_count
from likewise._files import open_regular
from likewise._pixels import (
    FORMATS,
    SUFFIXES,
    is_gray,
    lies,
    plain,
    plain_pixels,
    reading,
    tells_no_exif,
    upright,
)
from likewise._pixels import KINDS as KINDS
from likewise.data.datasets import Batch
from likewise.data.framing import Framing, ImageSize
from likewise.data.labels import Labels, encode_labels
from likewise.data.limits import max_kept
from likewise.errors import InputError

LOOKED_AT = 1000  # of the headers; of more files an even choice, so that opening stays quick
DEFAULT_SIZE = (64, 64)
_TOLD = 20  # of the files passed over


class _Seen(NamedTuple):
    """What headers tell: the sizes (height, width) of some images, and whether all are gray."""

    sizes: list[tuple[int, int]]
    gray: bool


class ImageFiles(TorchDataset[tuple[Tensor, int]]):
    """Images on disk, decoded when first fetched, several at a time.

    Reads PNG, JPEG, WebP, TIFF, GIF, BMP, PGM and what else Pillow knows by its first bytes, of
    any mode with 8 or 16 bits; of several pictures in a file the first. An image lies as its EXIF
    orientation says, transparent pixels are white, 16-bit gray keeps its precision, and values
    lie in 0..1. A JPEG that is made smaller is decoded at a scale near its new size, which is
    several times quicker than decoding all of it.

    Where neither size nor channels are told, the headers of the files say: of all, or of more
    than 1,000 files 1,000 spread evenly. Any image in color makes all of them color. Images of one
    size keep it; of several sizes, all become 64 × 64, with a warning.

    A batch is decoded by as many threads as torch computes with (`torch.set_num_threads`), which
    is one in a worker process. What is decoded is kept as bytes, up to a limit on memory, so that
    a second pass decodes nothing; the rest is decoded again at each pass, so that a source may be
    larger than memory.
    An image of more pixels than allowed is refused undecoded. `likewise.data.limits` has both
    limits.

    Args:
        paths: one file per item.
        labels: strings or integers, shape (n,); codes where `class_names` is given.
        class_names: the name of every code; by default the sorted labels.
        image_size: (height, width), or one number for both; every image is resized to it,
            antialiased. A `Framing` also says how. By default the size that all have, or else 64.
        channels: 1 for gray, 3 for color; by default 3 if any image is in color.
        skip_unreadable: decode every file at once, and leave out those that cannot be read, with
            a warning that counts and names them. Otherwise such a file is refused.

    Attributes:
        skipped: the files left out by `skip_unreadable`.

    Raises:
        InputError: no paths, labels of another number, or a header that cannot be read. When
            fetched: an image that cannot be read.
        FileNotFoundError: a file is not there when it is looked at.
    """

    ids: list[Any] | InputError | None = None  # as `ids_of` tells them

    def __init__(
        self,
        paths: Sequence[str | Path],
        labels: Labels,
        class_names: Sequence[str] | None = None,
        image_size: ImageSize | None = None,
        channels: int | None = None,
        *,
        skip_unreadable: bool = False,
    ) -> None:
        self.paths = [os.fspath(path) for path in paths]
        self.labels, self.class_names = encode_labels(labels, class_names)
        if len(self.labels) != len(self.paths) or not self.paths:
            raise InputError(
                f"labels must be one per path and at least one, got {len(self.labels)} for "
                f"{len(self.paths)} paths. Check that both come from the same source."
            )
        check_channels(channels)
        self.framing = check_image_size(image_size)
        self.skipped: list[str] = []
        size = None if self.framing is None else self.framing.size
        if size is None or channels is None:
            seen = _survey(self.paths, skip_unreadable=skip_unreadable)
            channels = channels or (1 if seen.gray else 3)
            if size is None:
                size = _common(seen.sizes)
                if len(seen.sizes) != len(self.paths) or set(seen.sizes) != {size}:
                    self.framing = Framing(*size)
        self.item_shape: tuple[int, ...] = (channels, *size)
        self._kept: dict[int, Tensor] = {}
        self._keeps = True
        self._room = max_kept()
        if skip_unreadable:
            self._skip_unreadable()

    def __getstate__(self) -> dict[str, Any]:
        """All but the decoded images, which a worker process decodes again."""
        return {**self.__dict__, "_kept": {}, "_room": max_kept() if self._keeps else 0}

    def unkept(self) -> "ImageFiles":
        """The same files, decoded each time they are fetched, for who goes through them once."""
        same = copy.copy(self)
        same._keeps, same._room = False, 0
        return same

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = range(len(self))[index]
        return _scaled(self._pixels([row])[0]), int(self.labels[row])

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        rows = torch.as_tensor(indices, dtype=torch.int64)
        items = torch.empty((len(rows), *self.item_shape), dtype=torch.float32)
        for i, pixels in enumerate(self._pixels(rows.tolist())):
            items[i] = _scaled(pixels)
        return [Batch(items, self.labels[rows])]

    def _pixels(self, rows: Sequence[int]) -> list[Tensor]:
        missing = list(dict.fromkeys(row for row in rows if row not in self._kept))
        found = dict(zip(missing, _together(self._decoded, missing), strict=True))
        pixels = [self._kept[row] if row in self._kept else found[row] for row in rows]
        for row, decoded in found.items():
            self._keep(row, decoded)
        return pixels

    def _keep(self, row: int, pixels: Tensor) -> None:
        if pixels.nbytes <= self._room:
            self._room -= pixels.nbytes
            self._kept[row] = pixels

    def _decoded(self, row: int) -> Tensor:
        path, channels = self.paths[row], self.item_shape[0]
        pixels = _pixels(_open(path, channels, self.framing), channels, self.framing)
        if pixels.shape != self.item_shape:
            _, height, width = self.item_shape
            raise InputError(
                f"{path!r} must have the size it had when the data were opened, {height}x{width}, "
                f"got {pixels.shape[1]}x{pixels.shape[2]}. Open them again."
            )
        return pixels

    def _skip_unreadable(self) -> None:
        rows: list[int] = []
        reasons: list[str] = []

        def decoded(row: int) -> Tensor | str:
            try:
                return self._decoded(row)
            except (InputError, OSError) as error:
                return str(error)

        for row, pixels in zip(range(len(self)), _together(decoded, range(len(self))), strict=True):
            if isinstance(pixels, str):
                self.skipped.append(self.paths[row])
                reasons.append(pixels)
            else:
                self._keep(len(rows), pixels)
                rows.append(row)
        if not rows:
            raise InputError(
                f"files must hold an image that can be read, got {len(self)} that cannot: "
                f"{reasons[0]}"
            )
        if reasons:
            named = ", ".join(map(repr, self.skipped[:_TOLD]))
            more = f" and {len(reasons) - _TOLD} more" if len(reasons) > _TOLD else ""
            warnings.warn(
                f"left out {len(reasons)} of {len(self)} files that cannot be read as images: "
                f"{named}{more}.",
                stacklevel=4,
            )
            self.paths = [self.paths[row] for row in rows]
            self.labels = self.labels[torch.tensor(rows)]


def framing_of(dataset: Any) -> Framing | None:
    """How a dataset of image files, or a part of one, brings them to one size; None of others."""
    while not isinstance(dataset, ImageFiles) and hasattr(dataset, "data"):
        dataset = dataset.data
    return dataset.framing if isinstance(dataset, ImageFiles) else None


def read_image(
    path: str | Path, *, channels: int, image_size: ImageSize | None = None
) -> Float[Tensor, "c h w"]:
    """One image file as numbers in 0..1, by the rules of `ImageFiles`.

    Args:
        path: the file.
        channels: 1 or 3.
        image_size: what to resize to, as in `ImageFiles`; by default the size it has.

    Raises:
        InputError: the file cannot be read as an image.
        FileNotFoundError: there is no such file.
    """
    framing = check_image_size(image_size)
    return _scaled(_pixels(_open(path, channels, framing), channels, framing))


def color_sides(path: str | Path) -> tuple[bool, int]:
    """Whether an image file has color, and its shorter side in pixels, without decoding it.

    (False, 0) of a file that cannot be read; whoever fetches it is told why.
    """
    try:
        with open_regular(path) as file, Image.open(file, formats=tuple(FORMATS)) as image:
            return not is_gray(image), min(image.size)
    except Exception:  # decoders raise whatever their parsers meet
        return False, 0


def pixels_of(
    image: Image.Image, *, channels: int | None = None, image_size: ImageSize | None = None
) -> Float[Tensor, "c h w"]:
    """A Pillow image as numbers in 0..1, by the rules of `ImageFiles`.

    Args:
        image: Image of any mode with 8 or 16 bits.
        channels: 1 or 3; by default as the image is.
        image_size: what to resize to, as in `ImageFiles`; by default the size it has.

    Raises:
        InputError: its pixels are floats or of 32 bits.
    """
    upright_image = plain(image)
    channels = channels or (1 if is_gray(upright_image) else 3)
    return _scaled(_pixels(upright_image, channels, check_image_size(image_size)))


def image_in(content: bytes, name: str) -> Image.Image:
    """The image that a file in memory holds: upright, gray or color, by the rules of `ImageFiles`.

    Raises:
        InputError: it cannot be read as an image.
    """
    with reading(name, io.BytesIO(content)) as image:
        return plain(image, repr(name))


def decode_image(
    content: bytes,
    name: str,
    *,
    channels: int,
    image_size: ImageSize | None = None,
    formats: tuple[str, ...] | None = None,
    check: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "c h w"]:
    """The image that a file in memory holds, as `read_image` gives it.

    Args:
        content: The bytes of the file.
        name: What a sentence about it calls it.
        channels: 1 or 3.
        image_size: What to resize to, as in `ImageFiles`; by default the size it has.
        formats: Pillow's names of the formats to read; by default all that `ImageFiles` reads.
        check: Called with width and height before anything is decoded; may refuse.

    Raises:
        InputError: It cannot be read as an image.
    """
    framing = check_image_size(image_size)
    with reading(name, io.BytesIO(content), formats, name) as image:
        if check is not None:
            check(*image.size)
        return _scaled(_pixels(upright(image, name, channels, framing), channels, framing))


def fit_images(
    items: Tensor, image_size: ImageSize | None, channels: int | None
) -> Float[Tensor, "n c h w"]:
    """Images in memory with the size and the channels asked for; None leaves them as they are.

    Resized as image files are: bilinear and antialiased. Gray is repeated to make color;
    color becomes gray by its luma (0.299 R + 0.587 G + 0.114 B).

    Raises:
        InputError: the items are no images of 1 or 3 channels.
    """
    if image_size is None and channels is None:
        return items
    if items.ndim != 4 or items.shape[1] not in (1, 3):
        raise InputError(
            "image_size and channels must be left out unless items are gray or color images, "
            f"got items of shape {tuple(items.shape[1:])}. Leave both out."
        )
    channels = channels or items.shape[1]
    framing = check_image_size(image_size)
    size = (items.shape[2], items.shape[3]) if framing is None else framing.size
    fitted = torch.empty((len(items), channels, *size), dtype=items.dtype)
    for start in range(0, len(items), 1024):  # floats of all items at once might not fit
        part = items[start : start + 1024].float()
        if framing is not None:
            part = framing.tensor(part)
        if channels == 1 and part.shape[1] == 3:
            part = torch.einsum("nchw,c->nhw", part, torch.tensor([0.299, 0.587, 0.114]))[:, None]
        if items.dtype == torch.uint8:
            part = part.round().clamp(0, 255)
        fitted[start : start + 1024] = part
    return fitted


def is_image_name(path: str | Path) -> bool:
    """Whether a file's suffix is that of an image format read here."""
    return os.path.splitext(path)[1].lower() in SUFFIXES


def check_image_size(image_size: ImageSize | None) -> Framing | None:
    """The Framing that an `image_size` argument stands for, refusing sizes below 1."""
    if image_size is None or isinstance(image_size, Framing):
        return image_size
    sides = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    if len(sides) != 2:
        raise InputError(
            f"image_size must be one number or (height, width), got {image_size!r}. "
            "Use image_size=64 for square images."
        )
    for side in sides:
        check_count("image_size", side)
    return Framing(sides[0], sides[1])


def check_channels(channels: int | None) -> None:
    """Refuse anything but 1, 3 and None."""
    if channels not in (None, 1, 3):
        raise InputError(
            f"must be 1 (gray) or 3 (color), got {channels!r}. "
            "Leave it out to take what the first image has.",
            argument="channels",
        )


def _survey(paths: Sequence[str], *, skip_unreadable: bool) -> _Seen:
    """What the headers of files tell: of all, or of more than `LOOKED_AT` of an even choice."""
    chosen = sorted({len(paths) * i // LOOKED_AT for i in range(LOOKED_AT)})
    sizes, gray = [], True
    for row in chosen if len(paths) > LOOKED_AT else range(len(paths)):
        try:
            size, is_gray = _header(paths[row])
        except (InputError, OSError):
            if not skip_unreadable:
                raise
            continue
        sizes.append(size)
        gray = gray and is_gray
    return _Seen(sizes, gray and bool(sizes))


def _common(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The size that all have, or else the default one, with a warning."""
    if len(set(sizes)) == 1:
        return sizes[0]
    if sizes:
        height, width = DEFAULT_SIZE
        (low, high) = (min(sizes, key=lambda s: s[0] * s[1]), max(sizes, key=lambda s: s[0] * s[1]))
        warnings.warn(
            f"images have several sizes, from {low[0]}x{low[1]} to {high[0]}x{high[1]}: all are "
            f"resized to {height}x{width}. Another image size can be asked for.",
            stacklevel=4,
        )
    return DEFAULT_SIZE


def _together(function: Callable[[int], Any], rows: Sequence[int]) -> Iterator[Any]:
    """The function of each row, in order, by threads: decoders let others compute meanwhile."""
    threads = min(torch.get_num_threads(), len(rows))
    if threads < 2:
        yield from map(function, rows)
        return
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(rows), 16 * threads):  # so that no more is decoded than is taken
            yield from pool.map(function, rows[start : start + 16 * threads])


def _open(
    path: str | Path, channels: int | None = None, framing: Framing | None = None
) -> Image.Image:
    """The whole image upright: gray or color of 8 bits, or mode F in 0..255 for 16-bit gray.

    A JPEG that will be resized is decoded at the smallest scale that is large enough.
    """
    with reading(path) as image:
        return upright(image, repr(os.fspath(path)), channels, framing)


def _header(path: str | Path) -> tuple[tuple[int, int], bool]:
    """The size (height, width) that an image has upright, and whether it is gray."""
    with reading(path) as image:
        if image.mode == "P":  # where the palette stands differs by format
            image.load()
        # Pillow tells the upright size of a TIFF already.
        turned = image.format != "TIFF" and not tells_no_exif(image) and lies(image)
        size = image.size if turned else image.size[::-1]
        return (size[0], size[1]), is_gray(image)


def _pixels(
    image: Image.Image, channels: int, framing: Framing | None
) -> UInt8[Tensor, "c h w"] | Float[Tensor, "c h w"]:
    """A plain image as bytes, or as floats in 0..255 where it has 16 bits."""
    return torch.from_numpy(plain_pixels(image, channels, framing))


def _scaled(pixels: Tensor) -> Float[Tensor, "c h w"]:
    return pixels.float() / 255
