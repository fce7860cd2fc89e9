"""Folders of photographs to folders of aligned faces, of which nothing is made twice."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch.utils.data import Dataset as TorchDataset

from likewise import _tables, _workers
from likewise._checks import check_count, check_exists, check_folder_target
from likewise._files import Lock, read_regular, write_whole
from likewise.data.attempts import sentence_of
from likewise.data.faces import DlibFaces, FaceDetector, check_size, largest
from likewise.data.image_folders import files_by_class
from likewise.data.images import image_in, is_image_name
from likewise.errors import InputError, InputTypeError

FAILURES = "failures.csv"
NO_FACE = "no face was found"
PATIENCE = 60.0  # seconds to wait for another process that writes the list
_KEY = "likewise-face"  # of the text in a PNG that says what it was made of
_METHOD = 1  # of aligning; another number makes all anew
_COLUMNS = ("path", "reason", "key")


class Failure(NamedTuple):
    """A photograph without an aligned face, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class AlignedFaces:
    """What `align_faces` made.

    Attributes:
        folder: The folder of the aligned faces, as `load` takes it.
        made: Number of faces that were cut out now.
        kept: Number of those that were there already, of the same photograph and settings.
        failures: Photographs in which no face was found, or that cannot be read.
    """

    folder: Path
    made: int
    kept: int
    failures: list[Failure]

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def _table(self) -> _tables.Table:
        rows = [
            ("made", f"{self.made:,}"),
            ("there before", f"{self.kept:,}"),
            ("failures", f"{len(self.failures):,}"),
        ]
        return _tables.Table(f"Aligned faces in {self.folder}", rows)

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "folder": str(self.folder),
            "made": self.made,
            "kept": self.kept,
            "failures": [each._asdict() for each in self.failures],
        }


def align_faces(
    source: str | Path,
    out: str | Path,
    *,
    size: int = 112,
    padding: float = 0.0,
    detector: FaceDetector | None = None,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> AlignedFaces:
    """Cut the largest face out of each photograph, upright and with the eyes always in one place.

    `out` gets the folders of `source`, so that `load(out)` has the same classes, and for each
    photograph a PNG of its name: the face of `anna/1.jpg` is `anna/1.jpg.png`. Photographs without
    a face, or that cannot be read, have a row in `failures.csv` there and stop nothing.

    A face stays as it is while the bytes of its photograph, the settings and the detector are the
    same; otherwise it is made anew. Each file appears whole or not at all, so that a run may be
    stopped at any moment, and several processes may work on one folder. Faces of photographs that
    are gone stay.

    Args:
        source: Folder of photographs, mostly one folder for each person; or one photograph.
        out: Folder for the faces; made if it is not there.
        size: Pixels of a side of a face.
        padding: Share of the side that is added around; see `Face.aligned`.
        detector: Finds the faces; `DlibFaces()` by default.
        workers: Processes that find faces; 0 does it in this one.
        progress: Called as progress(done, total) after each few photographs.

    Raises:
        InputError: `source` holds no images, `out` lies in it, or `out` holds another file at the
            place of a face.
        InputTypeError: `detector` cannot be called or has no name.
        FileNotFoundError: There is no `source`.
        MissingExtra: There is no detector, and the extra "faces" is not installed.

    Example:
        >>> found = align_faces("photos", "faces", size=112)  # doctest: +SKIP
        >>> people = lw.data.load("faces")  # doctest: +SKIP
    """
    source, out = Path(source), Path(out)
    check_size(size, padding)
    check_count("workers", workers, 0)
    check_exists("source", source)
    check_folder_target("out", out)
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise InputError(
            f"must lie outside of source, or its faces would be photographs next time, got "
            f"{str(out)!r}. Name another folder.",
            argument="out",
        )
    tasks = _tasks(source, out)
    detector = DlibFaces() if detector is None else detector
    if not callable(detector) or not isinstance(getattr(detector, "name", None), str):
        raise InputTypeError(
            f"detector must be a callable with a name, got {type(detector).__name__}. "
            "See FaceDetector."
        )
    settings = {
        "method": _METHOD,
        "detector": detector.name,
        "size": size,
        "padding": float(padding),
    }
    without_face = {row["key"] for row in _listed(out) if row["reason"] == NO_FACE}
    work = _Work(tasks, detector, settings, frozenset(without_face))
    loader = _workers.loader(
        work,
        workers=workers,
        batch_size=8,
        collate=list,
        generator=torch.Generator(),  # otherwise each loader draws from the global one
    )
    found: list[_Done] = []
    for batch in _workers.batches(loader):
        found += batch
        if progress is not None:
            progress(len(found), len(tasks))
    failed = [
        (task, done) for task, done in zip(tasks, found, strict=True) if done.what == "failed"
    ]
    _list(out, tasks, failed)
    return AlignedFaces(
        out,
        made=sum(done.what == "made" for done in found),
        kept=sum(done.what == "kept" for done in found),
        failures=[Failure(str(task.photograph), done.reason) for task, done in failed],
    )


class _Task(NamedTuple):
    photograph: Path
    target: Path


class _Done(NamedTuple):
    what: Literal["made", "kept", "failed"]
    key: str = ""
    reason: str = ""


class _Work(TorchDataset[list[_Done]]):
    """The photographs; to fetch one is to do it."""

    def __init__(
        self,
        tasks: Sequence[_Task],
        detector: FaceDetector,
        settings: dict[str, Any],
        without_face: frozenset[str],
    ) -> None:
        self.tasks, self.detector, self.settings = tasks, detector, settings
        self.without_face = without_face

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitems__(self, indices: Sequence[int]) -> list[_Done]:
        return [self._done(self.tasks[index]) for index in indices]

    def _done(self, task: _Task) -> _Done:
        try:
            content = read_regular(task.photograph)
            key = _key(content, self.settings)
            there = _key_of(task.target)
            if there == key:
                return _Done("kept", key)
            if key in self.without_face:
                return self._failed(task, key, NO_FACE)
            image = image_in(content, str(task.photograph))
        except (InputError, OSError) as error:
            if isinstance(error, _NotOurs):
                raise
            return self._failed(task, "", sentence_of(error))
        face = largest(self.detector(image))
        if face is None:
            return self._failed(task, key, NO_FACE)
        cut = face.aligned(image, size=self.settings["size"], padding=self.settings["padding"])
        task.target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(task.target, _png(cut, key))
        return _Done("made", key)

    def _failed(self, task: _Task, key: str, reason: str) -> _Done:
        if _key_of(task.target) is not None:  # of what the photograph was before
            task.target.unlink(missing_ok=True)
        return _Done("failed", key, reason)


class _NotOurs(InputError):
    """A file at the place of a face that was not made here."""


def _tasks(source: Path, out: Path) -> list[_Task]:
    if source.is_dir():
        files = [file for files in files_by_class(source).values() for file in files]
        names = [file.relative_to(source) for file in files]
    elif is_image_name(source):
        files, names = [source], [Path(source.name)]
    else:
        raise InputError(
            f"must be a folder of images or an image, got {str(source)!r}.", argument="source"
        )
    return [
        _Task(file, out / name.with_name(f"{name.name}.png"))
        for file, name in zip(files, names, strict=True)
    ]


def _key(content: bytes, settings: dict[str, Any]) -> str:
    told = json.dumps(settings, sort_keys=True).encode()
    return hashlib.sha256(hashlib.sha256(content).digest() + told).hexdigest()


def _key_of(target: Path) -> str | None:
    """What the face that is there was made of; None where there is none.

    Raises:
        InputError: It was not made here.
    """
    try:
        with Image.open(target, formats=("PNG",)) as image:
            key = image.info.get(_KEY)
    except FileNotFoundError:
        return None
    except (OSError, SyntaxError):
        key = None
    if not isinstance(key, str):
        raise _NotOurs(
            f"must hold faces that were made here, got {str(target)!r}, which was not. "
            "Name another folder.",
            argument="out",
        )
    return key


def _png(image: Image.Image, key: str) -> bytes:
    told = PngInfo()
    told.add_text(_KEY, key)
    content = io.BytesIO()
    image.convert("L" if image.mode == "F" else image.mode).save(content, "PNG", pnginfo=told)
    return content.getvalue()


def _listed(out: Path) -> list[dict[str, str]]:
    """The rows of the list of failures; none where there is no such list."""
    try:
        text = (out / FAILURES).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return []
    rows = list(csv.reader(io.StringIO(text, newline="")))
    if not rows or tuple(rows[0]) != _COLUMNS or any(len(row) != len(_COLUMNS) for row in rows):
        raise InputError(
            f"must have the columns {', '.join(_COLUMNS)} in its {FAILURES}, got others. "
            "Remove that file or name another folder.",
            argument="out",
        )
    return [dict(zip(_COLUMNS, row, strict=True)) for row in rows[1:]]


def _list(out: Path, tasks: Sequence[_Task], failed: Sequence[tuple[_Task, _Done]]) -> None:
    """Write the failures of these photographs, beside those of others that are listed."""
    out.mkdir(parents=True, exist_ok=True)
    here = {str(task.photograph) for task in tasks}
    with Lock(out / f".{FAILURES}.lock", patience=PATIENCE):
        rows = [row for row in _listed(out) if row["path"] not in here]
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows([tuple(row.values()) for row in rows])
        writer.writerows([(task.photograph, done.reason, done.key) for task, done in failed])
        write_whole(out / FAILURES, text.getvalue().encode(errors="surrogateescape"))
