"""Rules that select pairs and triplets from a matrix of distances and two masks."""

from likewise.miners.by_rows import works_by_rows
from likewise.miners.pair_miners import (
    PairMiner,
    Pairs,
    all_pairs,
    balanced_positive_pairs,
    hard_negative_pairs,
    multi_similarity,
    pair_margin,
)
from likewise.miners.ranges import within_range
from likewise.miners.sets import (
    AllTriplets,
    TripletMiner,
    TripletRule,
    Triplets,
    all_semi_hard,
    all_triplets,
    angular,
)
from likewise.miners.triplet_miners import (
    batch_easy_hard,
    batch_hard,
    distance_weighted,
    hardest_negative,
    random_hard,
    random_semi_hard,
    semi_hard,
)

__all__ = [
    "AllTriplets",
    "PairMiner",
    "Pairs",
    "TripletMiner",
    "TripletRule",
    "Triplets",
    "all_pairs",
    "all_semi_hard",
    "all_triplets",
    "angular",
    "balanced_positive_pairs",
    "batch_easy_hard",
    "batch_hard",
    "distance_weighted",
    "hard_negative_pairs",
    "hardest_negative",
    "multi_similarity",
    "pair_margin",
    "random_hard",
    "random_semi_hard",
    "semi_hard",
    "within_range",
    "works_by_rows",
]
