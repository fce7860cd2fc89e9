"""Labelled data: sources, datasets, their parts, pairs, and the normalisation they ask for."""

from likewise.data.datasets import ArrayDataset as ArrayDataset
from likewise.data.datasets import Batch as Batch
from likewise.data.datasets import Dataset as Dataset
from likewise.data.datasets import fetch as fetch
from likewise.data.datasets import items as items
from likewise.data.fingerprints import fingerprints as fingerprints
from likewise.data.images import ImageFiles as ImageFiles
from likewise.data.loading import has_splits as has_splits
from likewise.data.loading import load as load
from likewise.data.pairs import PairBatch as PairBatch
from likewise.data.pairs import PairDataset as PairDataset
from likewise.data.parts import Subset as Subset
from likewise.data.parts import check_trainable as check_trainable
from likewise.data.parts import choose_classes as choose_classes
from likewise.data.parts import items_per_class as items_per_class
from likewise.data.parts import sample_items as sample_items
from likewise.data.parts import split_by_class as split_by_class
from likewise.data.parts import split_items as split_items
from likewise.data.preprocessing import Preprocess as Preprocess
from likewise.data.triplets import TripletBatch as TripletBatch
from likewise.data.triplets import TripletDataset as TripletDataset
from likewise.data.views import IdBatch as IdBatch
from likewise.data.views import ViewBatch as ViewBatch
from likewise.data.views import ViewDataset as ViewDataset
from likewise.data.views import WithIds as WithIds
