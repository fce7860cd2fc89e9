"""Data sets by name: found on this machine, or downloaded, checked and unpacked."""

import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from likewise.errors import InputError, MissingFileError

FASHION_CLASSES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]

IMAGENETTE_CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}

_FAST_AI = "https://s3.amazonaws.com/fast-ai-imageclas/"
HOMES = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion-mnist": "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "cifar-10": "https://www.cs.toronto.edu/~kriz/",
    "cifar-100": "https://www.cs.toronto.edu/~kriz/",
    "imagenette": _FAST_AI,
    "imagenette-320": _FAST_AI,
    "imagenette-160": _FAST_AI,
    "lfw": "https://ndownloader.figshare.com/files/",  # a mirror; the home at UMass is gone
    "omniglot": "https://github.com/brendenlake/omniglot/raw/master/python/",
    "cub-200-2011": "https://data.caltech.edu/records/65de6-vp158/files/",
    "stanford-online-products": "http://ftp.cs.stanford.edu/cs/cvgl/",
}

# Data sets that are not downloaded, because no checksum or no open address is known, each with what
# its folder must hold.
BY_HAND = {
    "cars196": "cars_annos.mat with car_ims/, or devkit/, cars_test_annos_withlabels.mat, "
    "cars_train/ and cars_test/",
    "in-shop": "Eval/list_eval_partition.txt and img/, of the In-shop Clothes Retrieval Benchmark "
    "of DeepFashion",
    "inaturalist-2018": "Inat_dataset_splits/ and train_val2018/",
}

# The folder that an archive holds, for those that are archives.
_INSIDE = {
    "cifar-10": "cifar-10-batches-bin",
    "cifar-100": "cifar-100-binary",
    "imagenette": "imagenette2",
    "imagenette-320": "imagenette2-320",
    "imagenette-160": "imagenette2-160",
    "lfw": "lfw_funneled",
    "cub-200-2011": "CUB_200_2011",
    "stanford-online-products": "Stanford_Online_Products",
}

# Where a file is under its home, if not by its name: some homes have numbers, some folders.
_PLACES = {
    "lfw-funneled.tgz": "5976015",
    "pairsDevTrain.txt": "5976012",
    "pairsDevTest.txt": "5976009",
    "pairs.txt": "5976006",
    "all_runs.zip": "one-shot-classification/all_runs.zip",
}

_CONTENTS = {
    "lfw": "a folder per person, pairs.txt, pairsDevTrain.txt and pairsDevTest.txt",
    **dict.fromkeys(("imagenette", "imagenette-320", "imagenette-160"), "its train/ and val/"),
    **dict.fromkeys(
        ("cifar-10", "cifar-100", "cub-200-2011", "stanford-online-products"),
        "what its archive holds",
    ),
}

SHA256 = {
    "mnist": {
        "train-images-idx3-ubyte.gz": (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
        ),
        "train-labels-idx1-ubyte.gz": (
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
        ),
        "t10k-images-idx3-ubyte.gz": (
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
        ),
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte.gz": (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
        ),
        "train-labels-idx1-ubyte.gz": (
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
        ),
        "t10k-images-idx3-ubyte.gz": (
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
        ),
    },
    # The binary versions as TensorFlow Datasets lists them; not fetched by us.
    "cifar-10": {
        "cifar-10-binary.tar.gz": (
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
        ),
    },
    "cifar-100": {
        "cifar-100-binary.tar.gz": (
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
        ),
    },
    # Of the archives of 2021, as TensorFlow Datasets lists them.
    "imagenette": {
        "imagenette2.tgz": "6cbfac238434d89fe99e651496f0812ebc7a10fa62bd42d6874042bf01de4efd",
    },
    "imagenette-320": {
        "imagenette2-320.tgz": "569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c",
    },
    "imagenette-160": {
        "imagenette2-160.tgz": "64d0c4859f35a461889e0147755a999a48b49bf38a7e0f9bd27003f10db02fe5",
    },
    # As scikit-learn lists them.
    "lfw": {
        "pairsDevTrain.txt": "1d454dada7dfeca0e7eab6f65dc4e97a6312d44cf142207be28d688be92aabfa",
        "pairsDevTest.txt": "7cb06600ea8b2814ac26e946201cdb304296262aad67d046a16a7ec85d0ff87c",
        "pairs.txt": "ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592",
        "lfw-funneled.tgz": "b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a",
    },
    # The images as TensorFlow Datasets lists them. These archives are read as they are.
    "omniglot": {
        "images_background.zip": "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
        "images_evaluation.zip": "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
        "all_runs.zip": "437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",
    },
    # As TensorFlow Datasets lists them, of mirrors; not fetched by us.
    "cub-200-2011": {
        "CUB_200_2011.tgz": "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
    },
    "stanford-online-products": {
        "Stanford_Online_Products.zip": (
            "b04fa78210e69fab050ce73939550e1cd0f96890bdd98ec9fee732c3b756ef48"
        ),
    },
}


def find_or_download(name: str) -> Path:
    """The folder with the files of a named data set.

    That is $LIKEWISE_DATA/<name> (by default ../shared/data/<name>) where it exists, else a
    folder in the user's cache, into which missing files are downloaded.

    Raises:
        FileNotFoundError: it is not there, and is one that is not downloaded.
    """
    local = Path(os.environ.get("LIKEWISE_DATA", "../shared/data")) / name
    if local.is_dir():
        return local
    if name in BY_HAND:
        raise MissingFileError(
            f"must be a folder for {name!r}, which is not downloaded, got none at "
            f"{str(local)!r}. Put there {BY_HAND[name]}; or give the folder where they are.",
            argument="source",
        )
    return download(name)


def unpacked(folder: Path, name: str) -> Path:
    """The folder with the items of a named data set: the one its archive holds if it is there."""
    inside = folder / _INSIDE.get(name, "")
    return inside if inside.is_dir() else folder


def download(name: str, *, base_url: str | None = None, cache: Path | None = None) -> Path:
    """The folder in the cache with the files of a named data set, each of the known hash.

    Archives of one folder are unpacked and not kept.

    Args:
        name: a key of `HOMES`.
        base_url: where the files are, ending in "/"; by default their public home.
        cache: parent of the folder; by default the user's cache folder for likewise.

    Raises:
        ConnectionError: a file cannot be downloaded.
        InputError: a downloaded file has another hash; it is not kept.
    """
    import pooch  # only this function needs it

    folder = (cache or Path(pooch.os_cache("likewise"))) / name
    base_url = base_url or HOMES[name]
    for file, sha256 in SHA256[name].items():
        archive = name in _INSIDE and file.endswith((".tgz", ".tar.gz", ".zip"))
        if archive and (folder / _INSIDE[name]).is_dir():
            continue
        url = base_url + _PLACES.get(file, file)
        remedy = f"or put {_CONTENTS.get(name, 'the files')} into $LIKEWISE_DATA/{name}."
        try:
            path = pooch.retrieve(url, f"sha256:{sha256}", fname=file, path=folder)
        except OSError as error:
            raise ConnectionError(
                f"{name!r} must be downloaded from {url}, got {type(error).__name__}. "
                f"Check the connection, {remedy}"
            ) from error
        except ValueError as error:
            raise InputError(
                f"{url} must have the sha256 {sha256[:12]}..., got a file with "
                f"another one, which was not kept. Try again, {remedy}"
            ) from error
        if archive:
            unpack(Path(path), folder, _INSIDE[name])
            Path(path).unlink()
    return folder


def unpack(archive: Path, folder: Path, inside: str) -> None:
    """Put the folder `inside` of a tar or zip archive into `folder`, whole or not at all.

    Only its regular files are written: no links, no devices, no file elsewhere.

    Raises:
        InputError: the archive holds a path that leads out of it, or has no such folder.
    """
    part = folder / f".{inside}.{os.getpid()}.part"
    try:
        for name, source in _members(archive):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise InputError(
                    f"{str(archive)!r} must hold paths within it, got {name!r}. "
                    "Fetch it from its home."
                )
            if source is None or path.parts[:1] != (inside,):
                continue
            target = part.joinpath(*path.parts[1:])
            target.parent.mkdir(parents=True, exist_ok=True)
            with source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
        if not part.is_dir():
            raise InputError(
                f"{str(archive)!r} must hold the folder {inside!r}, got an archive without. "
                "Fetch it from its home."
            )
        os.replace(part, folder / inside)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """The name of each member, and what reads it if it is a regular file."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                # Unix keeps the kind of a file in the upper half, where links have one as well.
                is_link = stat.S_ISLNK(entry.external_attr >> 16)
                plain = not entry.is_dir() and not is_link
                yield entry.filename, packed.open(entry) if plain else None
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            yield member.name, tar.extractfile(member) if member.isfile() else None
