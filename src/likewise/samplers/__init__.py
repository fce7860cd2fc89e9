"""Batches drawn as losses need them: several items of several classes, seeded and resumable."""

from likewise.samplers.balanced import BalancedBatchSampler as BalancedBatchSampler
from likewise.samplers.hierarchical import HierarchicalBatchSampler as HierarchicalBatchSampler
from likewise.samplers.shuffled import ShuffledBatchSampler as ShuffledBatchSampler
from likewise.samplers.similar_lengths import (
    SimilarLengthBatchSampler as SimilarLengthBatchSampler,
)
