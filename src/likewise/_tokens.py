"""Texts to tokens, by `tokenizers` and NumPy alone: cut, padded, and those of like length together.

Whatever tokenizes a text does it here, so that a model and what it is exported to see the same.
"""

import importlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from likewise.errors import InputError, InputTypeError, MissingExtra

TOGETHER = 32  # texts that are padded to one length


class Tokenizing(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How texts become tokens.

    Args:
        max_length: Tokens that are read of a text; None for all.
        lower_case: Whether texts are made lower case first.
        prompt: Put before each text.
        uses_types: Whether the network is given token types.
        pad: Id of the padding token.
        side: The side that it is put on.
    """

    max_length: Annotated[int, msgspec.Meta(ge=1, le=1 << 31)] | None
    lower_case: bool
    prompt: str
    uses_types: bool
    pad: Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
    side: Literal["left", "right"]


def as_texts(texts: Iterable[Any]) -> list[str]:
    """Texts as a list, refusing anything else.

    Raises:
        InputTypeError: something that is no string.
        InputError: one is empty.
    """
    found = [str(text) if isinstance(text, str) else text for text in texts]
    for row, text in enumerate(found):
        if not isinstance(text, str):
            raise InputTypeError(
                f"texts must be strings, got {type(text).__name__} as text {row}. Use str(text)."
            )
        if not text.strip():
            raise InputError(f"texts must not be empty, got {text!r} as text {row}. Leave it out.")
    return found


def opened_tokenizer(description: bytes, max_length: int | None) -> Any:
    """The tokenizer of a description, a tokenizer.json, which cuts texts at `max_length`.

    Raises:
        InputError: The description is none.
        MissingExtra: tokenizers is not installed.
    """
    try:
        tokenizers = importlib.import_module("tokenizers")
    except ImportError as error:
        raise MissingExtra(
            "tokenizers must be installed for texts, got no such module. "
            'Use pip install "likewise[text]".'
        ) from error
    try:
        made = tokenizers.Tokenizer.from_str(description.decode())
    except Exception as error:  # tokenizers raises no class of its own
        raise InputError(
            "encoder must have a whole tokenizer, got one that cannot be read. Make it with "
            "sentence_encoder, or load a whole model."
        ) from error
    made.no_padding()
    made.no_truncation()
    if max_length is not None:
        made.enable_truncation(max_length)
    return made


def token_batches(
    tokenizer: Any, texts: Sequence[str], how: Tokenizing
) -> Iterator[tuple[list[int], dict[str, npt.NDArray[np.int64]]]]:
    """Texts in batches of like length: which rows, and the network's inputs (n, length) by name."""
    given = [how.prompt + text for text in texts]
    if how.lower_case:
        given = [text.lower() for text in given]
    tokens = tokenizer.encode_batch(given)
    order = sorted(range(len(tokens)), key=lambda row: -len(tokens[row].ids))
    for start in range(0, len(order), TOGETHER):
        rows = order[start : start + TOGETHER]
        some = [tokens[row] for row in rows]
        longest = max(1, len(some[0].ids))
        inputs = {
            "input_ids": _padded([each.ids for each in some], longest, how.pad, how.side),
            "attention_mask": _padded([each.attention_mask for each in some], longest, 0, how.side),
        }
        if how.uses_types:
            types = [each.type_ids for each in some]
            inputs["token_type_ids"] = _padded(types, longest, 0, how.side)
        yield rows, inputs


def _padded(
    rows: Sequence[Sequence[int]], longest: int, fill: int, side: str
) -> npt.NDArray[np.int64]:
    whole = np.full((len(rows), longest), fill, dtype=np.int64)
    for place, row in zip(whole, rows, strict=True):
        place[longest - len(row) if side == "left" else 0 :][: len(row)] = row
    return whole
