"""Losses: modules called as loss(embeddings, labels), over pure functions on distances."""

from likewise.losses.angular import AngularLoss, angular_loss
from likewise.losses.circle import CircleLoss, circle_loss
from likewise.losses.class_weights import ClassWeighted
from likewise.losses.combination import Sum
from likewise.losses.contrastive import ContrastiveLoss, SNRContrastiveLoss, contrastive_loss
from likewise.losses.distillation import DistillationLoss, distillation_loss
from likewise.losses.fast_ap import FastAPLoss, fast_ap_loss
from likewise.losses.graded_pairs import GradedPairsLoss, graded_pairs_loss
from likewise.losses.lifted import (
    GeneralizedLiftedLoss,
    LiftedStructureLoss,
    generalized_lifted_loss,
    lifted_structure_loss,
)
from likewise.losses.margin import MarginLoss, margin_loss
from likewise.losses.margin_softmax import (
    ArcFaceLoss,
    CosFaceLoss,
    SphereFaceLoss,
    arcface_distance,
    sphereface_distance,
)
from likewise.losses.matryoshka import MatryoshkaLoss
from likewise.losses.memory import CrossBatchMemory
from likewise.losses.multi_similarity import (
    CENTERS,
    MultiSimilarityLoss,
    fitting_center,
    multi_similarity_loss,
)
from likewise.losses.multiple_negatives import MultipleNegativesLoss
from likewise.losses.n_pairs import NPairsLoss, first_of_each_class, n_pairs_loss
from likewise.losses.nt_xent import NTXentLoss, nt_xent_loss
from likewise.losses.proxy import (
    ProxyAnchorLoss,
    ProxyNCALoss,
    SoftTripleLoss,
    centers_apart,
    proxy_anchor_loss,
    soft_triple_distance,
)
from likewise.losses.ranked_list import RankedListLoss, ranked_list_loss
from likewise.losses.sides import GivenPairsLoss, GivenTripletsLoss
from likewise.losses.sigmoid_pairs import SigmoidPairsLoss, sigmoid_pairs_loss
from likewise.losses.smooth_ranking import RecallAtKLoss, SmoothAPLoss, smooth_ranks
from likewise.losses.soft_nearest_neighbor import (
    SoftNearestNeighborLoss,
    soft_nearest_neighbor_loss,
)
from likewise.losses.softmax import NormalizedSoftmaxLoss, SoftmaxLoss
from likewise.losses.supervised_contrastive import (
    SupervisedContrastiveLoss,
    supervised_contrastive_loss,
)
from likewise.losses.threshold_consistency import (
    ThresholdConsistencyLoss,
    threshold_consistency_loss,
)
from likewise.losses.threshold_logits import (
    LearnedThreshold,
    ThresholdLoss,
    threshold_logits,
    threshold_loss,
)
from likewise.losses.triplet import TripletLoss, all_triplets_hinge, triplet_loss
from likewise.losses.tuplet_margin import (
    IntraPairVarianceLoss,
    TupletMarginLoss,
    intra_pair_variance_loss,
    tuplet_margin_loss,
)
from likewise.losses.two_views import (
    BarlowTwinsLoss,
    OnViews,
    SimCLRLoss,
    SimSiamLoss,
    VICRegLoss,
    barlow_twins_loss,
    simsiam_loss,
    vicreg_terms,
)

__all__ = [
    "CENTERS",
    "AngularLoss",
    "ArcFaceLoss",
    "BarlowTwinsLoss",
    "CircleLoss",
    "ClassWeighted",
    "ContrastiveLoss",
    "CosFaceLoss",
    "CrossBatchMemory",
    "DistillationLoss",
    "FastAPLoss",
    "GeneralizedLiftedLoss",
    "GivenPairsLoss",
    "GivenTripletsLoss",
    "GradedPairsLoss",
    "IntraPairVarianceLoss",
    "LearnedThreshold",
    "LiftedStructureLoss",
    "MarginLoss",
    "MatryoshkaLoss",
    "MultiSimilarityLoss",
    "MultipleNegativesLoss",
    "NPairsLoss",
    "NTXentLoss",
    "NormalizedSoftmaxLoss",
    "OnViews",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "RankedListLoss",
    "RecallAtKLoss",
    "SNRContrastiveLoss",
    "SigmoidPairsLoss",
    "SimCLRLoss",
    "SimSiamLoss",
    "SmoothAPLoss",
    "SoftNearestNeighborLoss",
    "SoftTripleLoss",
    "SoftmaxLoss",
    "SphereFaceLoss",
    "Sum",
    "SupervisedContrastiveLoss",
    "ThresholdConsistencyLoss",
    "ThresholdLoss",
    "TripletLoss",
    "TupletMarginLoss",
    "VICRegLoss",
    "all_triplets_hinge",
    "angular_loss",
    "arcface_distance",
    "barlow_twins_loss",
    "centers_apart",
    "circle_loss",
    "contrastive_loss",
    "distillation_loss",
    "fast_ap_loss",
    "first_of_each_class",
    "fitting_center",
    "generalized_lifted_loss",
    "graded_pairs_loss",
    "intra_pair_variance_loss",
    "lifted_structure_loss",
    "margin_loss",
    "multi_similarity_loss",
    "n_pairs_loss",
    "nt_xent_loss",
    "proxy_anchor_loss",
    "ranked_list_loss",
    "sigmoid_pairs_loss",
    "simsiam_loss",
    "smooth_ranks",
    "soft_nearest_neighbor_loss",
    "soft_triple_distance",
    "sphereface_distance",
    "supervised_contrastive_loss",
    "threshold_consistency_loss",
    "threshold_logits",
    "threshold_loss",
    "triplet_loss",
    "tuplet_margin_loss",
    "vicreg_terms",
]
