"""Batches of any items, each as often as any other."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Sampler

from likewise._checks import check_count
from likewise.errors import InputError
from likewise.samplers._decks import Deck, check_settings


class ShuffledBatchSampler(Sampler[list[int]]):
    """Batches of `batch_size` different items, whatever their class.

    Items are dealt without replacement until all were used, then shuffled anew; all batches are
    of one size. For pairs, triplets and single-shot training, where every item is a class of its
    own (`data.ViewDataset`).

    Iterating yields `batches` batches and goes on where the last iteration ended. The
    order depends on `seed` alone.

    Args:
        items: how many there are.
        batch_size: at most `items`.
        batches: length of one iteration; by default items // batch_size.
        seed: at least 0.

    Raises:
        InputError: a count is below 1, or `batch_size` is above `items`.

    Example:
        >>> sorted(sum(ShuffledBatchSampler(6, batch_size=2), []))
        [0, 1, 2, 3, 4, 5]
    """

    def __init__(
        self, items: int, *, batch_size: int, batches: int | None = None, seed: int = 0
    ) -> None:
        check_count("items", items)
        check_count("batch_size", batch_size)
        check_count("seed", seed, least=0)
        if batch_size > items:
            raise InputError(
                f"batch_size must be at most {items}, the number of items, got {batch_size}. "
                "Use smaller batches."
            )
        batches = items // batch_size if batches is None else batches
        check_count("batches", batches)
        self.items = items
        self.batch_size = batch_size
        self.batches = batches
        self.seed = seed
        self._deck = Deck(items, seed, 0)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.batches):
            yield self._deck.draw(self.batch_size).tolist()

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, JSON-able; take it between iterations."""
        return {"settings": self._settings(), "deck": self._deck.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the sampler stood that gave `state`.

        Raises:
            InputError: the state is of a sampler with other settings.
        """
        check_settings(state, self._settings())
        self._deck.load(state["deck"])

    def _settings(self) -> dict[str, Any]:
        return {"items": self.items, "batch_size": self.batch_size, "seed": self.seed}
