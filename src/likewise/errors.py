"""The errors of likewise: one class tells a caller's mistake from a fault of ours.

    InputError(ValueError)          an argument, a file or a state that cannot work
    ├── InputTypeError(TypeError)   an argument of the wrong type
    ├── MissingFileError            a file or folder that is not there; a FileNotFoundError as well
    ├── ArtifactError               a saved model that cannot be read or written
    └── GalleryError                a gallery that is damaged, in use, full or unreachable
    MissingExtra(ImportError)       an optional package that is not installed

Every sentence reads `<argument> must <rule>, got <value>. <remedy>.` At the command line these end
in that sentence with status 2, and so do `OSError` and `MemoryError`. Any other exception is a
fault of ours and keeps its traceback.
"""


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
        super().__init__(" ".join(part for part in (argument, sentence, remedy) if part))
        self.argument = argument
        self.sentence = sentence
        self.remedy = remedy
        self.command = command


class InputTypeError(InputError, TypeError):
    """An argument of the wrong type."""


class MissingFileError(InputError, FileNotFoundError):
    """A file or a folder that is not there."""


class ArtifactError(InputError):
    """A saved folder that cannot be read, or a folder that cannot be written."""


class GalleryError(InputError):
    """A gallery that is damaged, in use, full, or cannot be read or written."""


class MissingExtra(ImportError):
    """An optional package that is not installed; the sentence names the extra to install."""
