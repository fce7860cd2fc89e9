"""The errors of likewise: one class tells a caller's mistake from a fault of ours.

    InputError(ValueError)          an argument, a file or a state that cannot work
    ├── InputTypeError(TypeError)   an argument of the wrong type
    ├── ArtifactError               a saved model that cannot be read or written
    └── GalleryError                a gallery that is damaged, in use, full or unreachable
    MissingExtra(ImportError)       an optional package that is not installed

Every sentence reads `<argument> must <rule>, got <value>. <remedy>.` At the command line these end
in that sentence with status 2, and so do `OSError` and `MemoryError`. Any other exception is a
fault of ours and keeps its traceback.
"""


class InputError(ValueError):
    """An argument, a file or a state that cannot work; the sentence says what must hold.

    Example:
        >>> import torch
        >>> import likewise as lw
        >>> index = lw.Index()
        >>> _ = index.add(torch.eye(2))
        >>> try:
        ...     index.lookup(torch.eye(2), k=0)
        ... except lw.InputError as error:
        ...     print(error)
        k must be at least 1, got 0.
    """


class InputTypeError(InputError, TypeError):
    """An argument of the wrong type."""


class ArtifactError(InputError):
    """A saved folder that cannot be read, or a folder that cannot be written."""


class GalleryError(InputError):
    """A gallery that is damaged, in use, full, or cannot be read or written."""


class MissingExtra(ImportError):
    """An optional package that is not installed; the sentence names the extra to install."""
