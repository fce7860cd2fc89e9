"""Encoders from items (n, ...) to embeddings (n, d), their heads, and `encode`."""

from likewise.encoders.backbones import Backbone, backbone
from likewise.encoders.encoding import encode, takes_texts
from likewise.encoders.ensembles import OverViews, SideBySide
from likewise.encoders.face_encoder import FaceEncoder
from likewise.encoders.features import WithFeatures, condensed
from likewise.encoders.heads import (
    GeneralizedMeanPool1d,
    GeneralizedMeanPool2d,
    Normalize,
    SelectOutput,
    Truncate,
)
from likewise.encoders.naming import by_name, preprocess_of
from likewise.encoders.networks import ConvEncoder, MLPEncoder
from likewise.encoders.principal_components import PrincipalComponents
from likewise.encoders.raw_input import BesideRawInput, RawInput, tf_idf
from likewise.encoders.sentences import SentenceEncoder, sentence_encoder
from likewise.encoders.towers import SiameseNet, TripletNet, TwoTowers
from likewise.encoders.whitening import Whitening

__all__ = [
    "Backbone",
    "BesideRawInput",
    "ConvEncoder",
    "FaceEncoder",
    "GeneralizedMeanPool1d",
    "GeneralizedMeanPool2d",
    "MLPEncoder",
    "Normalize",
    "OverViews",
    "PrincipalComponents",
    "RawInput",
    "SelectOutput",
    "SentenceEncoder",
    "SiameseNet",
    "SideBySide",
    "TripletNet",
    "Truncate",
    "TwoTowers",
    "Whitening",
    "WithFeatures",
    "backbone",
    "by_name",
    "condensed",
    "encode",
    "preprocess_of",
    "sentence_encoder",
    "takes_texts",
    "tf_idf",
]
