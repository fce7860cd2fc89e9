"""A saved model, opened to be served."""

from pathlib import Path
from typing import TYPE_CHECKING

from likewise.errors import InputError, MissingExtra
from likewise.runtime.exported import is_exported
from likewise.service.settings import Settings

if TYPE_CHECKING:
    from likewise.model import SimilarityModel
    from likewise.service.application import Application
    from likewise.service.exported_routes import ExportedRoutes
    from likewise.service.routes import Routes


def open_service(
    path: str | Path,
    *,
    gallery: str | Path | None = None,
    keep: str | Path | None = None,
    keys: str | Path | None = None,
    read_only: bool = False,
    device: str = "cpu",
    settings: Settings | None = None,
) -> "Application":
    """An ASGI application that answers questions to a saved model, or to an exported one.

    Known items can be changed over HTTP if they are in a gallery, where what is acknowledged is on
    disk. With `gallery` they are moved into one: the items of the model are copied into the new
    folder, and the model remembers it. Without any the service answers and changes nothing.

    An exported model, see `likewise.export`, is served without torch. It answers match, verify,
    lookup and embed, and can keep and change nothing.

    Args:
        path: The folder of the model.
        gallery: A folder for known items, made if it is not there.
        keep: A folder for items that were matched as unknown; without it none is kept.
        keys: A file of keys that `make_key` made; without it everybody on this machine may ask.
        read_only: Open a gallery that another process may write; nothing can be changed.
        device: Where the encoder computes.
        settings: Limits.

    Raises:
        InputError: The model, the gallery or the file of keys cannot be used.
        MissingExtra: Starlette, uvicorn or another package of the extra is not installed.
    """
    try:
        from likewise.service.application import Application
    except ImportError as error:
        raise MissingExtra(
            f"{error.name} must be installed to serve a model, got none. Install likewise[serve]."
        ) from error
    from likewise.service.keys import Keys

    known = None if keys is None else Keys(keys)
    limits = settings or Settings()
    if is_exported(path):
        _check_plain(gallery=gallery, keep=keep, device=None if device == "cpu" else device)
        return Application(_of_exported(Path(path), limits), known)
    return Application(_of_model(Path(path), limits, gallery, keep, read_only, device), known)


def _check_plain(**given: object) -> None:
    """Refuse what an exported model has no use for."""
    for name, value in given.items():
        if value is not None:
            raise InputError(
                f"must be left out for an exported model, which answers and keeps nothing, got "
                f"{str(value)!r}.",
                argument=name,
            )


def _of_exported(path: Path, settings: Settings) -> "ExportedRoutes":
    from likewise.runtime import load as load_exported
    from likewise.service.exported_routes import ExportedRoutes

    return ExportedRoutes(load_exported(path), settings, folder=path)


def _of_model(
    path: Path,
    settings: Settings,
    gallery: str | Path | None,
    keep: str | Path | None,
    read_only: bool,
    device: str,
) -> "Routes":
    from likewise.model import load
    from likewise.service.routes import Routes

    model = load(path, gallery=_there(gallery), read_only=True if read_only else None)
    writes = False
    if not read_only:
        writes = _open_for_writing(model, path, gallery)
    for encoder in (model.encoder, model.query_encoder):
        if encoder is not None:
            encoder.to(device)
    return Routes(
        model,
        settings,
        folder=path,
        keep=None if keep is None else Path(keep),
        writes=writes,
        again=lambda: load(path, gallery=_there(gallery), read_only=True),
    )


def _there(gallery: str | Path | None) -> str | Path | None:
    from likewise.index import Gallery

    return gallery if gallery is not None and Gallery.is_at(gallery) else None


def _open_for_writing(model: "SimilarityModel", path: Path, gallery: str | Path | None) -> bool:
    """Have the known items in a gallery that can be written, if there is one; whether there is."""
    if model.collection is not None:
        return True
    if gallery is None or _there(gallery) is not None:
        if model.gallery is None:
            return False
        model.use_gallery(model.gallery)
        return True
    if model.gallery is not None:
        raise InputError(
            f"gallery must be that of the model, {model.gallery!r}, got {str(gallery)!r}, which "
            "is not there. Leave it out, or copy the gallery there first."
        )
    _move(model, gallery)
    model.save(path)
    return True


def _move(model: "SimilarityModel", gallery: str | Path) -> None:
    """Put a copy of the known items into a new gallery; thresholds stay, as the items do."""
    before = model.index
    kept = [
        dict(each) for each in (model.calibrations, model.class_thresholds, model.probabilities)
    ]
    model.use_gallery(gallery)
    state = before.state()
    model.index.name_classes(before.class_names)
    if len(before):
        model.index.add(
            state["embeddings"],
            labels=state["labels"],
            ids=state["ids"],
            metadata=state["metadata"],
            payloads=before.payloads(before.ids),
        )
    model.calibrations.update(kept[0])  # type: ignore[arg-type]
    model.class_thresholds.update(kept[1])  # type: ignore[arg-type]
    model.probabilities.update(kept[2])  # type: ignore[arg-type]
