"""Faces in photographs: where they are, and how one is turned upright and cut out."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from likewise import _dlib
from likewise._checks import check_count, check_number
from likewise.errors import InputError

# Where the eyes are in an aligned face, in shares of its side: as networks for faces mostly have
# them (InsightFace's template of 112 pixels), made symmetric.
EYES_APART = 0.315
EYES_DOWN = 0.46
LONGEST = 1024  # pixels of the longer side of what is searched
SHORTEST = 400  # to which smaller photographs are enlarged: faces below 80 pixels are not found


@dataclass(frozen=True)
class Face:
    """A face in an image, in pixels from the upper left corner.

    Args:
        box: Left, top, right and bottom edge.
        left_eye: Center (x, y) of the eye that is to the left in the image.
        right_eye: Center of the other one.

    Raises:
        InputError: A number is not finite, or both eyes are at one point.

    Example:
        >>> face = Face((10, 10, 90, 90), left_eye=(30, 40), right_eye=(70, 40))
        >>> face.area, face.aligned(Image.new("L", (100, 100)), size=64).size
        (6400, (64, 64))
    """

    box: tuple[float, float, float, float]
    left_eye: tuple[float, float]
    right_eye: tuple[float, float]

    def __post_init__(self) -> None:
        for name in ("box", "left_eye", "right_eye"):
            for value in getattr(self, name):
                check_number(name, value)
        if self.left_eye == self.right_eye:
            raise InputError(f"right_eye must be apart from left_eye, got {self.right_eye} twice.")

    @property
    def area(self) -> float:
        """Pixels within the box."""
        left, top, right, bottom = self.box
        return max(0.0, right - left) * max(0.0, bottom - top)

    def aligned(self, image: Image.Image, *, size: int = 112, padding: float = 0.0) -> Image.Image:
        """The face upright in a square, with both eyes always at the same two points.

        The image is turned, scaled and moved, and nothing else: proportions stay. Where the square
        reaches beyond the image, the border of the image is repeated.

        Args:
            image: The image that the face is in, gray or color.
            size: Pixels of a side of the square.
            padding: Share of the side that is added on each of the four sides before the square is
                brought to `size`: 0 goes from the forehead to the chin, 0.25 shows hair and
                shoulders as well.

        Raises:
            InputError: `size` is below 1 or `padding` is not in 0..2.
        """
        check_size(size, padding)
        if image.mode not in ("L", "RGB", "F"):
            image = image.convert("RGB")
        rows = self._to_image(size, padding)
        # Pillow's transform takes single pixels, so that what is made smaller is averaged before.
        factor = max(1, int(math.hypot(rows[0][0], rows[1][0])))
        image = image.reduce(factor) if factor > 1 else image
        (a, b, c), (d, e, f) = ([each / factor for each in row] for row in rows)
        across = [a * u + b * v + c for u in (0, size) for v in (0, size)]
        down = [d * u + e * v + f for u in (0, size) for v in (0, size)]
        rim = 4  # pixels that the interpolation looks at beyond
        left, top = math.floor(min(across)) - rim, math.floor(min(down)) - rim
        right, bottom = math.ceil(max(across)) + rim, math.ceil(max(down)) + rim
        return _with_border(image, left, top, right, bottom).transform(
            (size, size),
            Image.Transform.AFFINE,
            (a, b, c - left, d, e, f - top),
            Image.Resampling.BICUBIC,
        )

    def _to_image(self, size: int, padding: float) -> tuple[tuple[float, float, float], ...]:
        """The affine map from points of the square to points of the image, as two rows."""
        whole = 1 + 2 * padding
        apart, down = EYES_APART / whole * size, (EYES_DOWN + padding) / whole * size
        (x, y), (right_x, right_y) = self.left_eye, self.right_eye
        cos, sin = (right_x - x) / apart, (right_y - y) / apart
        from_x, from_y = (size - apart) / 2, down
        return (
            (cos, -sin, x - cos * from_x + sin * from_y),
            (sin, cos, y - sin * from_x - cos * from_y),
        )


class FaceDetector(Protocol):
    """What finds faces: called with an image, it gives those in it, in any order."""

    @property
    def name(self) -> str:
        """What stands for the detector and all its settings: another name, other faces."""

    def __call__(self, image: Image.Image) -> Sequence[Face]:
        """The faces of an image."""


class DlibFaces:
    """Faces that look at the camera, found by dlib; `pip install "likewise[faces]"`.

    Histograms of gradients find a face, and five landmarks its eyes. Photographs are searched at
    400 to 1,024 pixels on the longer side, where a face must have at least 80. The weights come
    with the packages; nothing is fetched.

    Raises:
        MissingExtra: A package of the extra is not installed.

    Example:
        >>> find = DlibFaces()  # doctest: +SKIP
        >>> [face.box for face in find(Image.open("portrait.jpg"))]  # doctest: +SKIP
        [(52.0, 61.0, 201.0, 210.0)]
    """

    def __init__(self) -> None:
        self._load()

    @property
    def name(self) -> str:
        """Detector, its settings and the version of dlib."""
        return f"dlib {self._load()[0].__version__}, frontal, {SHORTEST} to {LONGEST}"

    def __call__(self, image: Image.Image) -> list[Face]:
        """The faces of an image."""
        _, detect, landmarks = self._load()
        longer = max(image.size)
        scale = min(max(longer, SHORTEST), LONGEST) / longer
        shown = image.convert("L" if image.mode in ("1", "L", "I", "F") else "RGB")
        if scale != 1:
            wide, tall = (max(1, round(side * scale)) for side in image.size)
            shown = shown.resize((wide, tall), Image.Resampling.BICUBIC)
        pixels = np.ascontiguousarray(shown)
        across, down = image.width / shown.width, image.height / shown.height
        faces = []
        for box in detect(pixels):
            points = [(p.x + 0.5, p.y + 0.5) for p in landmarks(pixels, box).parts()]
            # Two corners of each eye, that at the right of the image first, and the nose.
            eyes = [
                (across * (x + other_x) / 2, down * (y + other_y) / 2)
                for (x, y), (other_x, other_y) in (points[2:4], points[:2])
            ]
            if eyes[0] != eyes[1]:
                edges = (box.left(), box.top(), box.right() + 1, box.bottom() + 1)
                scaled = zip(edges, (across, down, across, down), strict=True)
                left, top, right, bottom = (float(edge * by) for edge, by in scaled)
                faces.append(Face((left, top, right, bottom), *eyes))
        return faces

    def __reduce__(self) -> tuple[type["DlibFaces"], tuple[()]]:
        return DlibFaces, ()

    @staticmethod
    @functools.cache
    def _load() -> tuple[Any, Any, Any]:
        """The module, its detector and its landmarks; once for each process."""
        dlib = _dlib.dlib()
        landmarks = dlib.shape_predictor(str(_dlib.weights_at(_dlib.LANDMARKS)))
        return dlib, dlib.get_frontal_face_detector(), landmarks


def largest(faces: Sequence[Face]) -> Face | None:
    """The face with the largest box, the first of equal ones; None of none.

    Example:
        >>> small = Face((0, 0, 20, 20), (5, 8), (15, 8))
        >>> large = Face((30, 0, 90, 60), (45, 20), (75, 20))
        >>> largest([small, large]) is large, largest([])
        (True, None)
    """
    return max(faces, key=lambda face: face.area, default=None)


def check_size(size: int, padding: float) -> None:
    """Refuse a size or a padding that no aligned face can have."""
    check_count("size", size)
    check_number("padding", padding)
    if not 0 <= padding <= 2:
        raise InputError(f"must be between 0 and 2, got {padding}.", argument="padding")


def _with_border(image: Image.Image, left: int, top: int, right: int, bottom: int) -> Image.Image:
    """A part of an image that may reach beyond it, where its border is repeated."""
    rows = np.clip(np.arange(top, bottom), 0, image.height - 1)
    columns = np.clip(np.arange(left, right), 0, image.width - 1)
    first_row, first_column = int(rows[0]), int(columns[0])
    inner = image.crop((first_column, first_row, int(columns[-1]) + 1, int(rows[-1]) + 1))
    pixels = np.asarray(inner)[rows - first_row][:, columns - first_column]
    return Image.fromarray(pixels)
