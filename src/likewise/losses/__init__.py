"""Losses: modules called as loss(embeddings, labels), over pure functions on distances."""

from likewise.losses.contrastive import ContrastiveLoss, contrastive_loss
from likewise.losses.multi_similarity import MultiSimilarityLoss, multi_similarity_loss
from likewise.losses.softmax import SoftmaxLoss
from likewise.losses.triplet import TripletLoss, all_triplets_hinge, triplet_loss

__all__ = [
    "ContrastiveLoss",
    "MultiSimilarityLoss",
    "SoftmaxLoss",
    "TripletLoss",
    "all_triplets_hinge",
    "contrastive_loss",
    "multi_similarity_loss",
    "triplet_loss",
]
