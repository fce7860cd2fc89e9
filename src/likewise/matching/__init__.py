"""Which known thing each query is, or none of them: neighbors and a threshold in, labels out."""

from likewise.matching.centers import class_centers
from likewise.matching.deciding import Matches, match
from likewise.matching.normalizing import normalize_neighbors
from likewise.matching.own_class import found_without_own_class, lookup_without_own_class
from likewise.matching.prediction_sets import (
    Candidates,
    candidates,
    classes_within,
    own_class_distances,
)
from likewise.matching.relative import relative_centers
from likewise.matching.rules import (
    OF_CENTERS,
    RULES,
    UNKNOWN,
    Rule,
    center,
    decide,
    majority,
    nearest,
    relative,
    rule_name,
    weighted,
)

__all__ = [
    "OF_CENTERS",
    "RULES",
    "UNKNOWN",
    "Candidates",
    "Matches",
    "Rule",
    "candidates",
    "center",
    "class_centers",
    "classes_within",
    "decide",
    "found_without_own_class",
    "lookup_without_own_class",
    "majority",
    "match",
    "nearest",
    "normalize_neighbors",
    "own_class_distances",
    "relative",
    "relative_centers",
    "rule_name",
    "weighted",
]
