"""A model that can be kept: encoder, preprocessing, distance, index, calibrations in one folder."""

from likewise.artifacts.model import SimilarityModel, load
from likewise.artifacts.results import Evaluation, Verified
from likewise.errors import ArtifactError

__all__ = ["ArtifactError", "Evaluation", "SimilarityModel", "Verified", "load"]
