"""Labelled embeddings by stable ids, and the nearest of them to any query."""

from likewise.index.memory import Index, Items, Neighbors

__all__ = ["Index", "Items", "Neighbors"]
