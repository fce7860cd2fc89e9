"""What a caller says that an index which lasts is made for, against what it was made for."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from likewise._checks import check_choice, check_count, check_rate
from likewise.distances import Distance
from likewise.errors import GalleryError, InputError, InputTypeError
from likewise.index._given import check_class_names, utf8
from likewise.index._searching.inside import KINDS
from likewise.index._searching.storage import STORAGES
from likewise.index._store import About

_LONGEST_NAME = 500  # of an encoder; it has to fit beside the other facts


def check_encoder(encoder: object) -> None:
    """Refuse what no gallery can name its encoder by.

    Raises:
        InputTypeError: it is no text.
        InputError: it is too long, or cannot be stored.
    """
    if not isinstance(encoder, str):
        raise InputTypeError(
            f"encoder must be text, got {encoder!r}. Use the encoder's fingerprint."
        )
    if len(encoder) > _LONGEST_NAME:
        raise InputError(
            f"encoder must have at most {_LONGEST_NAME} characters, got {len(encoder)}. "
            "Use a fingerprint."
        )
    utf8(encoder)


@dataclass(frozen=True)
class Asked:
    """What an index is, or shall be, made for; None where the caller leaves it open."""

    distance: Distance | None = None
    encoder: str | None = None
    dimension: int | None = None
    class_names: Sequence[str] = ()
    storage: str | None = None
    recall: float | None = None
    approximate: str = "IVF"

    def check(self, known: Collection[Distance], error: InputError) -> None:
        """Refuse what no index can be made for.

        Args:
            known: the distances it may have.
            error: says so of any other.
        """
        if self.distance is not None and self.distance not in known:
            raise error
        if self.encoder is not None:
            check_encoder(self.encoder)
        if self.dimension is not None:
            check_count("dimension", self.dimension)
        if self.storage is not None:
            check_choice("storage", self.storage, STORAGES)
        if self.recall is not None:
            check_rate("recall", self.recall)
        check_choice("approximate", self.approximate, KINDS)
        check_class_names(self.class_names)

    def check_is(self, facts: About, class_names: Sequence[str], place: str) -> None:
        """Refuse an index that was made for something else.

        Args:
            facts: Facts of the index.
            class_names: likewise.
            place: where it is.

        Raises:
            GalleryError: it was.
        """
        names = list(self.class_names)
        pairs: list[tuple[str, object, object]] = [
            ("distance", facts.distance, self.distance and self.distance.name),
            ("encoder", facts.encoder, self.encoder),
            ("dimension", facts.dimension, self.dimension if facts.dimension else None),
            ("storage", facts.storage, self.storage),
            ("class_names", list(class_names[: len(names)]), names or None),
        ]
        for name, made, given in pairs:
            if given is not None and given != made:
                is_encoder = name == "encoder"  # which a model gives, not its caller
                remedy = "Use the model that made it, or" if is_encoder else "Leave it out, or make"
                raise GalleryError(
                    f"{name} must be {made!r}, as the gallery {place!r} was made with, got "
                    f"{given!r}. {remedy} another gallery."
                )
