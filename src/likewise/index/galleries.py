"""Indexes whose items last: in a folder, and in Milvus."""

from collections.abc import Sequence
from pathlib import Path

from likewise.distances import Distance
from likewise.errors import GalleryError
from likewise.index._asked import Asked, check_encoder
from likewise.index._durable.copies import backup, merge
from likewise.index._durable.folder import InFolder, is_gallery, open_folder
from likewise.index._milvus.collection import open_collection
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
            always exact. Not kept with the gallery.
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
        storage: str | None = None,
        read_only: bool = False,
    ) -> None:
        asked = Asked(distance, encoder, dimension, class_names, storage, recall)
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

    The answers are those of every index: Milvus proposes candidates by a flat search, and
    `distance.paired` ranks them, equals in the order of insertion. Only where more than 16,384
    items are as near as the k-th, which of them come first is left to Milvus.

    Every verb sees what was written before it, by whatever process. One process at a time may
    write; several may where each gives ids and class names of its own. A verb that writes stores
    its items in messages of 16 MB: where the connection breaks between two of them, `add` takes
    back what it stored, as far as it can, and `upsert` and `relabel` are to be called again.

    Args:
        uri: Address of a server or cluster, `http://host:19530`; or a file ending in .db, which
            Milvus Lite keeps and serves on loopback as long as this process lives.
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

    Raises:
        GalleryError: nothing answers at `uri`, or the gallery was made for another encoder,
            distance or dimension.
        MissingExtra: pymilvus is not installed.
    """

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
    ) -> None:
        asked = Asked(distance, encoder, dimension, class_names)
        self._start(open_collection(str(uri), collection, token, asked))
