"""A model that can be kept: encoder, preprocessing, distance, index, calibrations in one folder."""

from likewise.artifacts.folders import ArtifactError
from likewise.artifacts.model import SimilarityModel
from likewise.artifacts.results import Evaluation, Verified
from likewise.artifacts.saving import load

__all__ = ["ArtifactError", "Evaluation", "SimilarityModel", "Verified", "load"]
