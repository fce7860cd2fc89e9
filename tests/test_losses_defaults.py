"""What a caller gets who names no setting: defaults that others rely on, and bounds of settings."""

import inspect
import math

import pytest
import torch

from likewise import losses, miners
from likewise.distances import EUCLIDEAN

LOSSES = {
    "AngularLoss": {"degrees": 40.0},
    "ArcFaceLoss": {
        "margin": 0.5,
        "scale": 64.0,
        "easy_margin": False,
        "centers_per_class": 1,
        "class_share": 1.0,
    },
    "BarlowTwinsLoss": {"weight": 0.005},
    "CircleLoss": {
        "margin": 0.4,
        "gamma": 80.0,
        "average": "active",
        "constant_weights": True,
        "coupled": True,
    },
    "ContrastiveLoss": {
        "margin": 1.0,
        "squared": True,
        "positive_margin": 0.0,
        "halved": False,
        "average": "pairs",
    },
    "CosFaceLoss": {"margin": 0.35, "scale": 64.0, "centers_per_class": 1, "class_share": 1.0},
    "CrossBatchMemory": {
        "size": 1024,
        "warm_up": 0,
        "weight": 1.0,
        "copies": False,
        "together": False,
    },
    "FastAPLoss": {"bins": 10, "farthest": 2.0},
    "DistillationLoss": {"temperature": 0.05},
    "GeneralizedLiftedLoss": {"margin": 1.0},
    "GradedPairsLoss": {"scale": 20.0},
    "IntraPairVarianceLoss": {"positive_slack": 0.01, "negative_slack": 0.01},
    "LearnedThreshold": {"threshold": 0.5, "scale": 2.0, "learn_scale": False},
    "LiftedStructureLoss": {"margin": 1.0, "squared": True},
    "MarginLoss": {"margin": 0.2, "beta": 1.2, "learn_beta": True, "nu": 0.0},
    "MatryoshkaLoss": {"normalize": True},
    "MultiSimilarityLoss": {"alpha": 2.0, "beta": 50.0},
    "MultipleNegativesLoss": {"temperature": 0.05, "symmetric": False},
    "NPairsLoss": {"length_weight": 0.0},
    "NTXentLoss": {"temperature": 0.07},
    "NormalizedSoftmaxLoss": {"temperature": 0.05, "class_share": 1.0},
    "ProxyAnchorLoss": {"alpha": 32.0, "margin": 0.1, "class_share": 1.0},
    "ProxyNCALoss": {"temperature": 1 / 9, "own_below": True, "class_share": 1.0},
    "RankedListLoss": {
        "margin": 0.4,
        "boundary": 1.2,
        "balance": 0.5,
        "positive_temperature": 0.0,
        "negative_temperature": 10.0,
    },
    "RecallAtKLoss": {"ks": (1, 2, 4, 8, 16), "temperature": 0.01, "rank_temperature": 1.0},
    "SNRContrastiveLoss": {
        "margin": 1.0,
        "positive_margin": 0.0,
        "mean_weight": 0.0,
        "average": "active",
    },
    "SigmoidPairsLoss": {"scale": 10.0, "bias": -10.0, "center": 1.0},
    "SimCLRLoss": {"temperature": 0.5},
    "SmoothAPLoss": {"temperature": 0.01},
    "SoftNearestNeighborLoss": {"temperature": 1.0, "average": "active"},
    "SoftTripleLoss": {
        "centers_per_class": 10,
        "scale": 20.0,
        "gamma": 0.1,
        "margin": 0.01,
        "regularizer": 0.2,
        "class_share": 1.0,
    },
    "SphereFaceLoss": {"margin": 4, "scale": 1.0, "blend": 0.0, "class_share": 1.0},
    "SupervisedContrastiveLoss": {"temperature": 0.1, "average": "active"},
    "ThresholdConsistencyLoss": {
        "positive_margin": 0.1,
        "negative_margin": 0.5,
        "positive_weight": 1.0,
        "negative_weight": 1.0,
    },
    "TripletLoss": {"margin": 0.2, "average": "active", "swap": False},
    "TupletMarginLoss": {"margin": 0.1, "scale": 64.0},
    "VICRegLoss": {"invariance": 25.0, "variance": 25.0, "covariance": 1.0, "epsilon": 0.0001},
    "arcface_distance": {"easy_margin": False},
    "circle_loss": {"constant_weights": True, "coupled": True},
    "contrastive_loss": {"squared": True, "positive_margin": 0.0, "halved": False},
    "threshold_consistency_loss": {"positive_weight": 1.0, "negative_weight": 1.0},
    "threshold_logits": {"scale": 1.0},
    "threshold_loss": {"scale": 1.0},
    "vicreg_terms": {"epsilon": 0.0001},
}
MINERS = {
    "angular": {"degrees": 20.0},
    "batch_easy_hard": {"positive": "hard", "negative": "hard"},
    "distance_weighted": {"nearest": 0.5, "farthest": 1.4},
    "multi_similarity": {"epsilon": 0.1},
    "pair_margin": {"positive_margin": 0.2, "negative_margin": 0.8},
    "within_range": {
        "positive": (-math.inf, math.inf),
        "negative": (-math.inf, math.inf),
    },
}
PLAIN = (bool, int, float, str, tuple)


def defaults(named):
    parameters = inspect.signature(named).parameters.values()
    return {
        each.name: each.default
        for each in parameters
        if isinstance(each.default, PLAIN) and each.name != "seed"
    }


@pytest.mark.parametrize(
    ("module", "expected"), [(losses, LOSSES), (miners, MINERS)], ids=["losses", "miners"]
)
def test_defaults_are_those_that_are_documented_and_no_others(module, expected):
    found = {}
    for name in module.__all__:
        named = getattr(module, name)
        if (inspect.isfunction(named) or inspect.isclass(named)) and (told := defaults(named)):
            found[name] = told
    assert found == expected


@pytest.mark.parametrize("setting", ["alpha", "beta"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_of_multi_similarity_lie_above_0(setting, value):
    with pytest.raises(ValueError, match=f"{setting} must be a finite number above 0"):
        losses.MultiSimilarityLoss(**{setting: value})


def test_facts_of_given_pairs_and_triplets_are_shares_and_means():
    a = torch.tensor([[0.0], [0.0], [0.0], [0.0]])
    b = torch.tensor([[0.5], [1.5], [0.25], [3.0]])
    pairs = losses.GivenPairsLoss(distance=EUCLIDEAN)
    pairs(a, b, torch.tensor([True, True, False, False]))
    assert float(pairs.facts["active"]) == 3 / 4  # a different pair at 3 costs nothing
    assert float(pairs.facts["positive_distance"]) == 1.0
    assert float(pairs.facts["negative_distance"]) == 1.625
    triplets = losses.GivenTripletsLoss(distance=EUCLIDEAN)
    triplets(a, b, torch.tensor([[0.6], [1.5], [2.0], [9.0]]))
    assert float(triplets.facts["active"]) == 2 / 4
    assert float(triplets.facts["positive_distance"]) == pytest.approx(5.25 / 4)
    assert float(triplets.facts["negative_distance"]) == pytest.approx(13.1 / 4)
    triplets(a[:0], b[:0], b[:0])
    assert float(triplets.facts["active"]) == 0.0
