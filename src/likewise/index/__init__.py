"""Labeled embeddings by stable ids, and the nearest of them to any query."""

from likewise.errors import GalleryError
from likewise.index._answers import Items, Neighbors, SearchedBy, Summary, name_of
from likewise.index._given import WrittenMetadata
from likewise.index.arrow import (
    Columns,
    from_table,
    read_parquet,
    read_parquet_batches,
    to_frame,
    to_table,
    write_parquet,
)
from likewise.index.changes import changed_decisions
from likewise.index.conflicts import Conflicts, find_conflicts
from likewise.index.galleries import Gallery, MilvusGallery
from likewise.index.index import Index
from likewise.index.repair import GalleryReport, check_gallery, repair_gallery
from likewise.index.representatives import KeepingLoss, loss_of_keeping, representatives

__all__ = [
    "Columns",
    "Conflicts",
    "Gallery",
    "GalleryError",
    "GalleryReport",
    "Index",
    "Items",
    "KeepingLoss",
    "MilvusGallery",
    "Neighbors",
    "SearchedBy",
    "Summary",
    "WrittenMetadata",
    "changed_decisions",
    "check_gallery",
    "find_conflicts",
    "from_table",
    "loss_of_keeping",
    "name_of",
    "read_parquet",
    "read_parquet_batches",
    "repair_gallery",
    "representatives",
    "to_frame",
    "to_table",
    "write_parquet",
]
