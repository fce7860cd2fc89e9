"""Batches of texts that are similarly long, so that little padding is encoded."""

import itertools
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from likewise._checks import check_count
from likewise.errors import InputError, InputTypeError
from likewise.samplers._decks import check_settings


class SimilarLengthBatchSampler(Sampler[list[int]]):
    """The batches of another sampler, their items exchanged so that each holds similar lengths.

    Texts of one batch are padded to the longest. This sampler draws a few batches from the other,
    sorts their items by length, deals them out to batches of the same sizes, and gives these in
    random order. What is drawn stays the same, and so does how often. How many classes a single
    batch holds does not, so this suits losses with class centers, which need no pairs.

    Args:
        sampler: Draws the batches, such as a `BalancedBatchSampler`.
        lengths: The length of every item, (n,); characters of a text will do.
        together: Batches whose items are exchanged.
        seed: Seed for the order of the batches.

    Raises:
        InputTypeError: The sampler is none of this package.
        InputError: A count is below 1, or lengths are not one whole number per item.

    Example:
        >>> from likewise.samplers import ShuffledBatchSampler
        >>> lengths = [5, 50, 6, 60, 7, 70]
        >>> other = ShuffledBatchSampler(6, batch_size=3)
        >>> batches = SimilarLengthBatchSampler(other, lengths, together=2)
        >>> sorted(sorted(lengths[row] for row in batch) for batch in batches)
        [[5, 6, 7], [50, 60, 70]]
    """

    def __init__(
        self,
        sampler: Sampler[list[int]],
        lengths: Sequence[int] | np.ndarray,
        *,
        together: int = 8,
        seed: int = 0,
    ) -> None:
        if not all(hasattr(sampler, name) for name in ("state_dict", "load_state_dict", "__len__")):
            raise InputTypeError(
                f"sampler must be one of likewise.samplers, got {type(sampler).__name__}."
            )
        check_count("together", together)
        check_count("seed", seed, least=0)
        self._lengths = np.asarray(lengths)
        if self._lengths.ndim != 1 or self._lengths.dtype.kind not in "iu":
            raise InputError(
                f"lengths must be one whole number per item, got {self._lengths.dtype} of shape "
                f"{self._lengths.shape}. Use [len(text) for text in texts]."
            )
        self.sampler = sampler
        self.together = together
        self.seed = seed
        self._drawn = 0

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[int]]:
        batches = iter(self.sampler)
        while some := list(itertools.islice(batches, self.together)):
            rows = np.concatenate([np.asarray(batch, dtype=np.int64) for batch in some])
            if len(rows) and rows.max() >= len(self._lengths):
                raise InputError(
                    f"lengths must be one per item, got {len(self._lengths)} for a sampler that "
                    f"draws item {rows.max()}."
                )
            rows = rows[np.argsort(self._lengths[rows], kind="stable")]
            dealt = np.split(rows, np.cumsum([len(batch) for batch in some])[:-1])
            # The order depends on the number of draws before, and on no state besides.
            rng = np.random.default_rng((self.seed, self._drawn))
            self._drawn += 1
            for at in rng.permutation(len(dealt)):
                yield dealt[at].tolist()

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, JSON-able; take it between iterations."""
        inner = self.sampler.state_dict()  # type: ignore[attr-defined]
        return {"settings": self._settings(), "drawn": self._drawn, "sampler": inner}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the sampler stood that gave `state`.

        Raises:
            InputError: The state is of a sampler with other settings.
        """
        check_settings(state, self._settings())
        self.sampler.load_state_dict(state["sampler"])  # type: ignore[attr-defined]
        self._drawn = int(state["drawn"])

    def _settings(self) -> dict[str, Any]:
        return {
            "sampler": self.sampler.state_dict().get("settings"),  # type: ignore[attr-defined]
            "lengths": zlib.crc32(self._lengths.astype("<i8").tobytes()),
            "together": self.together,
            "seed": self.seed,
        }
