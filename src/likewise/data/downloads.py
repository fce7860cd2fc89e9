"""MNIST and Fashion-MNIST by name: found on this machine, or downloaded and checked."""

import os
from pathlib import Path

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

HOMES = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion-mnist": ("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"),
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
}


def find_or_download(name: str) -> Path:
    """The folder with the idx files of a named data set.

    That is $LIKEWISE_DATA/<name> (by default ../shared/data/<name>) where it exists, else a
    folder in the user's cache, into which missing files are downloaded.
    """
    local = Path(os.environ.get("LIKEWISE_DATA", "../shared/data")) / name
    return local if local.is_dir() else download(name)


def download(name: str, *, base_url: str | None = None, cache: Path | None = None) -> Path:
    """The folder in the cache with the files of a named data set, each of the known hash.

    Args:
        name: a key of `HOMES`.
        base_url: where the files are, ending in "/"; by default their public home.
        cache: parent of the folder; by default the user's cache folder for likewise.

    Raises:
        ConnectionError: a file cannot be downloaded.
        ValueError: a downloaded file has another hash; it is not kept.
    """
    import pooch  # only this function needs it

    folder = (cache or Path(pooch.os_cache("likewise"))) / name
    base_url = base_url or HOMES[name]
    for file, sha256 in SHA256[name].items():
        try:
            pooch.retrieve(base_url + file, f"sha256:{sha256}", fname=file, path=folder)
        except OSError as error:
            raise ConnectionError(
                f"{name!r} must be downloaded from {base_url}{file}, got "
                f"{type(error).__name__}. Check the connection, or put the files into "
                f"$LIKEWISE_DATA/{name}."
            ) from error
        except ValueError as error:
            raise ValueError(
                f"{base_url}{file} must have the sha256 {sha256[:12]}..., got a file with "
                "another one, which was not kept. Try again, or put the files into "
                f"$LIKEWISE_DATA/{name}."
            ) from error
    return folder
