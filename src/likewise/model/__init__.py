"""A model that can be kept: encoder, preprocessing, distance, index, calibrations in one folder."""

from likewise.errors import ArtifactError
from likewise.model.batch_embedder import BatchEmbedder
from likewise.model.embedding import embed
from likewise.model.results import Evaluation, Verified
from likewise.model.similarity_model import SimilarityModel, load

__all__ = [
    "ArtifactError",
    "BatchEmbedder",
    "Evaluation",
    "SimilarityModel",
    "Verified",
    "embed",
    "load",
]
