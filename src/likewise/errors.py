"""The errors of likewise: one class tells a caller's mistake from a fault of ours.

    InputError(ValueError)          an argument, a file or a state that cannot work
    ├── InputTypeError(TypeError)   an argument of the wrong type
    ├── MissingFileError            a file or folder that is not there; a FileNotFoundError as well
    ├── TooFewItems                 fewer known items than what is asked rests on
    ├── ArtifactError               a saved model that cannot be read or written
    └── GalleryError                a gallery that is damaged, in use, full or unreachable
    MissingExtra(ImportError)       an optional package that is not installed

Every sentence reads `<argument> must <rule>, got <value>. <remedy>.` At the command line these end
in that sentence with status 2, and so do `OSError` and `MemoryError`. Any other exception is a
fault of ours and keeps its traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "ArtifactError",
    "GalleryError",
    "InputError",
    "InputTypeError",
    "MissingExtra",
    "MissingFileError",
    "TooFewItems",
]


class InputError(ValueError):
    """An argument, a file or a state that cannot work; the sentence says what must hold.

    The command line calls things by other names than Python does. Where a part of the sentence
    would differ there, it is given apart; without, the whole sentence is shown as it is.

    Args:
        sentence: what must hold, what came, and what to do.
        argument: the name of the argument, where the sentence is to begin with it.
        remedy: what to do in Python, at the end of the sentence.
        command: what to do at the command line instead of the remedy.

    Example:
        >>> import likewise as lw
        >>> try:
        ...     lw.Index(storage="int4")
        ... except lw.errors.InputError as error:
        ...     print(error)
        storage must be one of float16, float32, int8, got 'int4'.
    """

    def __init__(
        self,
        sentence: str = "",
        *,
        argument: str | None = None,
        remedy: str | None = None,
        command: str | None = None,
    ) -> None:
        self.argument = argument
        self.sentence = sentence
        self.remedy = remedy
        self.command = command
        super().__init__(self.whole)

    @property
    def whole(self) -> str:
        """All that is said to a caller in Python."""
        return " ".join(part for part in (self.argument, self.sentence, self.remedy) if part)


class InputTypeError(InputError, TypeError):
    """An argument of the wrong type."""


class MissingFileError(InputError, FileNotFoundError):
    """A file or a folder that is not there."""


class TooFewItems(InputError):
    """Fewer known items than what is asked rests on; more of them would do."""


class ArtifactError(InputError):
    """A saved folder that cannot be read, or a folder that cannot be written."""


class GalleryError(InputError):
    """A gallery that is damaged, in use, full, or cannot be read or written."""


class MissingExtra(ImportError):
    """An optional package that is not installed; the sentence names the extra to install."""


@contextmanager
def naming(**names: str) -> Iterator[None]:
    """Within, sentences about an argument name the one that the caller gave instead.

    Example:
        >>> with naming(by="keep_best"):
        ...     raise InputError("must be a number, got 'x'.", argument="by")
        Traceback (most recent call last):
        ...
        likewise.errors.InputError: keep_best must be a number, got 'x'.
    """
    try:
        yield
    except InputError as error:
        error.argument = names.get(error.argument or "", error.argument)
        error.args = (error.whole,)
        raise
