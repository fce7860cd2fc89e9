"""Saved models on the Hugging Face hub: `push_to_hub` and `from_pretrained`."""

import contextlib
import importlib
import tempfile
from pathlib import Path
from typing import Any

from likewise.errors import ArtifactError, InputError, MissingExtra
from likewise.journeys.card import CARD, EVALUATION, write_card
from likewise.model import SimilarityModel, load
from likewise.model.folders import MANIFEST
from likewise.model.switching import copy_model, described_in

FILES = (MANIFEST, "*.safetensors", "index-*.json", CARD, EVALUATION)
FRONT = "---\nlibrary_name: likewise\ntags:\n- similarity\n- metric-learning\n---\n\n"


def push_to_hub(
    folder: str | Path,
    name: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    message: str = "A model of likewise",
) -> str:
    """Put a saved model on the Hugging Face hub, with its card as the page; the address there.

    Known items that are kept in the folder go along, with their metadata: look at what they tell
    of people before. The repository is made if it is not there. Files of a model that was there
    before are removed in the same commit.

    Args:
        folder: The folder of the model.
        name: OWNER/NAME on the hub.
        private: Whether a new repository is private; None for the owner's default.
        token: A token that may write; None for that of `hf auth login`.
        message: Message of the commit.

    Raises:
        InputError: The known items are in a gallery, or the hub refuses.
        ArtifactError: There is no model in the folder, or it is damaged.
        MissingExtra: huggingface_hub is not installed.

    Example:
        >>> push_to_hub("faces-model", "someone/faces")  # doctest: +SKIP
        'https://huggingface.co/someone/faces'
    """
    hub = _hub()
    place = Path(folder)
    if _names_gallery(place):
        raise InputError(
            "model must hold its known items itself to be pushed, got them in a gallery, which "
            "stays here. Save a copy of the model without a gallery, and push that."
        )
    api = hub.HfApi(token=token, library_name="likewise")
    with tempfile.TemporaryDirectory() as staged:
        copy_model(place, Path(staged))
        if (place / EVALUATION).exists():
            (Path(staged) / EVALUATION).write_bytes((place / EVALUATION).read_bytes())
        card = write_card(staged).read_text()
        title = card.splitlines()[0]
        card = card.replace(title, f"# {name.partition('/')[2] or name}", 1)
        card = card.replace(repr(Path(staged).resolve().name), repr(name))
        (Path(staged) / CARD).write_text(card)
        (Path(staged) / "README.md").write_text(FRONT + card)
        try:
            api.create_repo(name, private=private, exist_ok=True)
            told = api.upload_folder(
                repo_id=name,
                folder_path=staged,
                commit_message=message,
                allow_patterns=[*FILES, "README.md"],
                delete_patterns=["*.safetensors", "index-*.json", EVALUATION],
            )
        except _refusals(hub) as error:
            raise _refused(name, error, "takes no model") from error
    return str(getattr(told, "repo_url", None) or f"https://huggingface.co/{name}")


def from_pretrained(
    name: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache: str | Path | None = None,
    **options: Any,
) -> SimilarityModel:
    """The model of a folder, or of a name on the Hugging Face hub.

    What is on the hub is fetched once, and found in the cache of huggingface_hub from then on.
    Loading runs no code that came with it.

    Args:
        name: A folder, or OWNER/NAME on the hub. A folder comes first.
        revision: A branch, a tag or a commit. A commit stays the same model for good.
        token: A token for a private repository; None for that of `hf auth login`.
        cache: A folder for what is fetched; None for that of huggingface_hub.
        options: Arguments of `likewise.load`, such as `encoder`.

    Raises:
        InputError: There is neither such a folder nor such a repository, or the hub is not
            reached.
        ArtifactError: What is there is no model of this version, or is damaged.
        MissingExtra: huggingface_hub is not installed.

    Example:
        >>> import tempfile
        >>> import likewise as lw
        >>> with tempfile.TemporaryDirectory() as place:
        ...     saved = lw.SimilarityModel(None).save(f"{place}/vectors")
        ...     print(from_pretrained(saved).distance.name)
        cosine
    """
    if Path(name).is_dir():
        return load(name, **options)
    hub = _hub()
    try:
        folder = hub.snapshot_download(
            str(name),
            revision=revision,
            token=token,
            cache_dir=cache,
            allow_patterns=list(FILES),
            library_name="likewise",
        )
    except _refusals(hub) as error:
        raise _refused(str(name), error, "is not there or cannot be fetched") from error
    if not (Path(folder) / MANIFEST).exists():
        raise ArtifactError(
            f"name must be a model of likewise on the hub, got {str(name)!r}, which holds no "
            f"{MANIFEST}. Look at its page."
        )
    if options.get("gallery") is None and _names_gallery(Path(folder)):
        raise ArtifactError(
            f"name must be a model that holds its known items itself, got {str(name)!r}, which "
            "names a gallery or a server elsewhere. Give gallery=, one of your own."
        )
    return load(folder, **options)


def _names_gallery(folder: Path) -> bool:
    return described_in(folder).manifest.get("gallery") is not None


def _hub() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise MissingExtra(
            "huggingface_hub must be installed for the hub, got no such module. Use pip install "
            '"likewise[hub]".'
        ) from error


def _refusals(hub: Any) -> tuple[type[Exception], ...]:
    """What huggingface_hub raises where a name, a token or the network is at fault."""
    errors = importlib.import_module("huggingface_hub.errors")
    names = ("HfHubHTTPError", "LocalEntryNotFoundError", "LocalTokenNotFoundError")
    found = [getattr(errors, name) for name in (*names, "HFValidationError")]
    for speaks in ("httpx", "httpx2"):  # HTTP, from version 1 of huggingface_hub on
        with contextlib.suppress(ImportError):
            found.append(importlib.import_module(speaks).HTTPError)
    return (*found, OSError)


def _refused(name: str, error: Exception, what: str) -> InputError:
    first = (str(error).strip().splitlines() or [""])[0]
    return InputError(
        f"must be OWNER/NAME on the hub, or a folder, got {name!r}, which {what} "
        f"({type(error).__name__}: {first[:160]}).",
        argument="name",
        remedy="Check the name, the token and the network.",
    )
