"""Labeled embeddings by stable ids, and the nearest of them to any query."""

from likewise.errors import GalleryError
from likewise.index._answers import name_of
from likewise.index._summary import Summary
from likewise.index.conflicts import Conflicts, find_conflicts
from likewise.index.gallery import Gallery
from likewise.index.memory import Index, Items, Neighbors
from likewise.index.milvus import MilvusGallery
from likewise.index.repair import GalleryReport, check_gallery, repair_gallery
from likewise.index.representatives import KeepingLoss, loss_of_keeping, representatives
from likewise.index.tables import (
    Columns,
    from_table,
    read_parquet,
    read_parquet_batches,
    to_frame,
    to_table,
    write_parquet,
)

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
    "Summary",
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
