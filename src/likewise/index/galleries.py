"""Indexes whose items last: in a folder, and in Milvus."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from likewise.distances import Distance
from likewise.errors import GalleryError
from likewise.index._asked import Asked, check_encoder
from likewise.index._durable.copies import backup, merge
from likewise.index._durable.folder import InFolder, is_gallery, open_folder
from likewise.index._milvus.collection import InMilvus, open_collection
from likewise.index._milvus.options import Connection, Layout, Searched, is_file
from likewise.index.index import Index


class Gallery(Index):
    """An `Index` in a folder that lasts.

    When a verb that writes returns, what it wrote is on disk; when it raises or the process is
    killed, all of it is there or nothing. A folder with an altered byte is opened with exactly
    what was written, or refused with one sentence.

    Any number of threads may read and write one gallery: each call reads the items as of one
    moment, and writers take turns. One process at a time may write, and others may read what it
    wrote. A fork of the process is refused; open the gallery in the child.

    Args:
        path: a folder, made if it is not there.
        distance: what "near" means, one of `likewise.distances`. For a new gallery COSINE by
            default; for one that is there, its own, and any other is refused.
        encoder: says which encoder the embeddings are from, e.g. its fingerprint. Kept with a
            new gallery; an older one refuses another.
        dimension: Dimension of the embeddings; without, that of the first.
        class_names: names of label codes 0, 1, … of a new gallery. Names seen for the first time
            in `add` go behind them.
        recall: the share of the true nearest that a lookup shall find, see `Index`. Without,
            always exact. Not kept with the gallery, but what was trained for it is: `close` and
            `wait` leave it in the folder, and the next opening trains nothing.
        approximate: What searches then, see `Index`. Not kept with the gallery.
        storage: Storage of a new one: "float32", by default, or "float16" or "int8", see `Index`.
        read_only: look things up in a gallery that another process may write.

    Raises:
        GalleryError: the folder holds something else, is damaged, is being written by another
            process, cannot be written, or was made for another encoder, distance or dimension.

    Example:
        >>> import tempfile, torch
        >>> folder = tempfile.TemporaryDirectory()
        >>> with Gallery(folder.name) as gallery:
        ...     gallery.add(torch.eye(3), labels=["cat", "dog", "cat"])
        array([0, 1, 2])
        >>> with Gallery(folder.name) as gallery:
        ...     found = gallery.lookup(torch.tensor([[1.0, 0.1, 0.0]]), k=2)
        ...     [gallery.class_names[label] for label in found.labels[0]]
        ['cat', 'dog']
        >>> folder.cleanup()
    """

    _store: InFolder

    def __init__(
        self,
        path: str | Path,
        *,
        distance: Distance | None = None,
        encoder: str | None = None,
        dimension: int | None = None,
        class_names: Sequence[str] = (),
        recall: float | None = None,
        approximate: str = "IVF",
        storage: str | None = None,
        read_only: bool = False,
    ) -> None:
        asked = Asked(distance, encoder, dimension, class_names, storage, recall, approximate)
        self._start(open_folder(Path(path), asked, read_only=read_only))

    @property
    def path(self) -> Path:
        """The folder."""
        return self._store.folder

    @staticmethod
    def is_at(path: str | Path) -> bool:
        """Whether there is a gallery, whole or not, in the folder at `path`."""
        return is_gallery(Path(path))

    def backup(self, path: str | Path) -> Path:
        """Copy the gallery as of now into a new folder, while it is in use; gives that back.

        Raises GalleryError where the folder is there already or cannot be written.
        """
        self._store.newest()
        return backup(self.path, Path(path))

    def adopt(self, encoder: str) -> None:
        """Say which encoder made embeddings that were stored without a word of it.

        It is not checked: only whoever made them knows.

        Args:
            encoder: its fingerprint, `SimilarityModel.fingerprint`.

        Raises:
            GalleryError: another encoder is told already, or it could not be written.
        """
        check_encoder(encoder)
        with self._store.writing() as now:
            told = now.facts.encoder
            if told not in (None, encoder):
                raise GalleryError(
                    f"gallery must be of no told encoder to be adopted, got {str(self.path)!r}, "
                    f"which is of {told!r}. Add its items anew, through the model."
                )
            if told is None:
                self._store.adopt(encoder)

    def compact(self) -> None:
        """Give space that removed items left back to the disk.

        Raises GalleryError where there is no room for the copy that this takes.
        """
        with self._store.writing():
            self._store.compact()

    def merge(self, other: "Gallery", *, on_conflict: str | None = None) -> int:
        """Take in the items of another gallery in one step, and give back how many came.

        Labels meet by class name; where neither gallery has names, by code.

        Args:
            other: A gallery of the same distance, dimension, encoder and kind of ids.
            on_conflict: where an id is in both, "keep" the item that is here or "replace" it;
                without, refuse.

        Raises:
            InputError: the galleries do not fit together, or an id is in both.
            GalleryError: it could not be written; then nothing came.
        """
        with self._store.writing() as here, other._store.reading() as there:
            return merge(self._store, here, other._store.database, there, on_conflict)


class MilvusGallery(Index):
    """An `Index` in Milvus, for when one machine is outgrown.

    Milvus proposes candidates, and `distance.paired` ranks them, equals in the order of insertion.
    With the index type FLAT the answers are those of every index. Only where more than 16,384
    items are as near as the k-th, which of them come first is left to Milvus. Any other type misses
    some; how hard it searches is chosen and measured by `wait`.

    Every verb sees what was written before it, by whatever process, unless another consistency is
    asked for. One process at a time may write; several may where each gives ids and class names of
    its own. A verb that writes stores its items in messages of 16 MB: where the connection breaks
    between two of them, `add` takes back what it stored, as far as it can, and `upsert` and
    `relabel` are to be called again. With `partition_by` on a server before Milvus 2.4 these two
    remove the items of a message and then add them: what breaks in between loses them.

    Args:
        uri: Address of a server or cluster, `http://host:19530`, or `https://` for one with TLS; or
            a file ending in .db, which Milvus Lite keeps and serves on loopback as long as this
            process lives.
        collection: name of the gallery there. A second collection, of that name and `_facts`,
            holds class names and what the gallery is made for.
        distance: COSINE, EUCLIDEAN, SQUARED_EUCLIDEAN or INNER_PRODUCT, which Milvus knows. For
            a new gallery COSINE by default; for one that is there, its own, and any other is
            refused.
        encoder: says which encoder the embeddings are from; as in `Gallery`.
        dimension: Dimension of the embeddings; without, that of the first.
        class_names: names of label codes 0, 1, … of a new gallery. Names seen for the first time
            in `add` go behind them.
        token: `user:password` or an API key, where the server asks for one.
        index_type: Index of a new gallery, by Milvus's name: "FLAT", by default, is exact; "HNSW",
            "IVF_FLAT" and any other that the server knows is faster and misses some.
        index_params: What that is built with, such as `{"M": 16, "efConstruction": 200}`.
        recall: The share of the true nearest that a lookup shall find with an approximate index,
            0.99 by default; see `wait`. Kept with the gallery.
        search_params: Search parameters of Milvus instead, such as `{"ef": 64}`: measured, not
            chosen.
        consistency: How new what a lookup sees is, in a new gallery: "Strong", by default, sees all
            that was written; "Bounded", "Session" and "Eventually" wait less and may see older
            items. Verbs that write always see all.
        shards: Number of channels that a new gallery is written through, from 1 to 16.
        partition_by: Metadata key of a new gallery, such as "tenant", by whose values Milvus keeps
            items in partitions. A lookup whose `where` asks for one or some of these values, such
            as `where={"tenant": "a"}`, searches only their partitions. All answers are the same as
            without, but lookups that name no value take longer.
        timeout: Seconds that a question may take. An insert may take longer, as to repeat it could
            store its items twice; so may building and loading an index.
        connection: What `pymilvus.MilvusClient` takes beside these, such as `db_name`,
            `server_pem_path` or `client_pem_path`.

    Raises:
        GalleryError: nothing answers at `uri`, or the gallery was made for another encoder,
            distance or dimension, or with another layout.
        MissingExtra: pymilvus is not installed.
    """

    _store: InMilvus

    def __init__(
        self,
        uri: str | Path,
        *,
        collection: str,
        distance: Distance | None = None,
        encoder: str | None = None,
        dimension: int | None = None,
        class_names: Sequence[str] = (),
        token: str | None = None,
        index_type: str | None = None,
        index_params: Mapping[str, Any] | None = None,
        recall: float | None = None,
        search_params: Mapping[str, Any] | None = None,
        consistency: str | None = None,
        shards: int | None = None,
        partition_by: str | None = None,
        timeout: float = 30.0,
        connection: Mapping[str, Any] | None = None,
    ) -> None:
        there = Connection(str(uri), token, timeout, {} if connection is None else connection)
        asked = Asked(distance, encoder, dimension, class_names)
        layout = Layout(index_type, index_params, consistency, shards, partition_by)
        searched = Searched(recall, search_params)
        self._start(open_collection(there, collection, asked, layout, searched))

    @staticmethod
    def is_file(uri: str | Path) -> bool:
        """Whether a `uri` names a file that Milvus Lite keeps, not a server."""
        return is_file(str(uri))

    def wait(self) -> None:
        """Until all items are in the index; then measure how an approximate one is searched.

        Up to 500 stored items are looked up with growing effort (`ef` of a graph, `nprobe` of
        lists) until `recall` is reached, or there is no more. What they should find, a pass over
        all items says, which reads each once. The effort and the recall measured are kept with the
        gallery; they are measured again once the items have doubled. Before, lookups search hard.

        Raises:
            GalleryError: Milvus does not answer, or is not done in time.
        """
        super().wait()

    def reindex(
        self, index_type: str = "FLAT", index_params: Mapping[str, Any] | None = None
    ) -> None:
        """Build another index of the same items, in place of the one that is there.

        While it is built nothing can be looked up.

        Args:
            index_type: see `MilvusGallery`.
            index_params: likewise.

        Raises:
            GalleryError: the server refuses it; then the one that was there is built again.
        """
        layout = Layout(index_type, index_params)
        layout.check()
        self._store.reindex(layout)
