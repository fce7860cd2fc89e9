"""Which miners look at one row at a time, so that rows may be mined apart."""

from functools import partial
from typing import Any

from likewise.miners import pair_miners, ranges, sets, triplet_miners

_BY_ROWS = (
    pair_miners.all_pairs,
    pair_miners._multi_similarity,
    pair_miners._pair_margin,
    sets.all_triplets,
    sets._all_semi_hard,
    triplet_miners.batch_hard,
    triplet_miners._batch_easy_hard,
    triplet_miners.hardest_negative,
    triplet_miners.semi_hard,
)


def works_by_rows(miner: Any) -> bool:
    """Whether a miner selects from a row whatever the other rows hold, without chance.

    Of a miner that is none of this package nothing is known: False.

    Example:
        >>> works_by_rows(triplet_miners.batch_hard), works_by_rows(pair_miners.hard_negative_pairs)
        (True, False)
    """
    while isinstance(miner, partial):
        inner = miner.func is ranges._within_range
        miner = miner.keywords["miner"] if inner else miner.func
    return any(miner is each for each in _BY_ROWS)
