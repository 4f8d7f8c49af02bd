"""The front door to labelled images, by name or by path."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from importlib import resources
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from absynth.data.adapt import scale
from absynth.data.catalog import CATALOG, MNIST, SPLITS, CatalogEntry, Split, find_entry, parse_split
from absynth.data.domain import Size, check_size, fit_size
from absynth.data.emnist import is_emnist, set_upright
from absynth.data.fetch import read_cached
from absynth.data.folders import read_image_folder, subfolders
from absynth.data.readers import (
    Dataset,
    parse_idx,
    read_idx,
    read_npz,
    unpack,
)
from absynth.errors import AbsynthError
from absynth.shapes import Labels

_PREFIXES: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("t10k", "test")}


def load_dataset(name: str | Path, split: str) -> tuple[Float[Tensor, "batch 1 height width"], Labels]:
    """The images and labels of a data set.

    Args:
        name: What :func:`read_dataset` takes.
        split: train or test.

    Returns:
        float32 images in [0, 1] of shape (n, 1, height, width), and int64 labels of shape (n,).

    Raises:
        AbsynthError: As in :func:`read_dataset`.

    >>> images, labels = load_dataset("mnist", "test")
    >>> images.shape, labels[:3].tolist()
    (torch.Size([10000, 1, 28, 28]), [7, 2, 1])
    """
    dataset = read_dataset(name, split)
    return dataset.images, dataset.labels


def read_dataset(name: str | Path, split: str, *, size: Size | None = None, strict: bool = False) -> Dataset:
    """A data set with the names of its classes.

    MNIST comes with this package and needs no network; fashion-mnist and kmnist must have been fetched.

    Args:
        name: mnist, fashion-mnist or kmnist, or the path of

            - an .npz file with the arrays ``images`` and ``labels``, whatever the split;
            - a folder with IDX files under their usual names (``train-images-idx3-ubyte`` or
              ``t10k-images-idx3-ubyte``, perhaps with ``.gz``, and the same for the labels), also after the
              name of a data set, as ``emnist-letters-train-images-idx3-ubyte``;
            - a folder with one sub-folder of pictures for each class, or with such folders called
              ``train`` and ``test``, which have the same classes.

            A name wins over a path of the same spelling, unless it is given as a ``Path``.
        split: train or test.
        size: Rows and columns to scale the images to; by default they stay as they are, except that sides
            below 16 or above 64 pixels are brought into that range, and pictures of several sizes to one.
        strict: A picture that cannot be read is an error; by default it is left out, with a remark.

    Raises:
        AbsynthError: If there is no such data set, split or size, it is broken, or it has not been fetched
            yet.
    """
    parsed = parse_split(split)
    if size is not None:
        check_size(size)
    dataset = _read(name, parsed, size, strict)
    height, width = dataset.images.shape[2:]
    return scale(dataset, size or fit_size((height, width)), str(name))


def _read(name: str | Path, split: Split, size: Size | None, strict: bool) -> Dataset:
    if isinstance(name, str) and name.strip().lower() in CATALOG:
        return _read_named(find_entry(name), split)
    path = Path(name).expanduser()
    if not path.exists():
        raise AbsynthError(
            f"There is no data set '{name}'; choose one of {', '.join(CATALOG)}, or give the path of an .npz "
            "file, a folder of IDX files or a folder of pictures."
        )
    return _read_path(path, split, size, strict)


def _read_named(entry: CatalogEntry, split: Split) -> Dataset:
    files = entry.splits[split]
    images, labels = _read_shipped(split) if entry is MNIST else read_cached(entry, split)
    dataset = parse_idx(images, labels, entry.class_names, names=(files.images, files.labels))
    return replace(dataset, digits=entry is MNIST)


def _read_shipped(split: Split) -> tuple[bytes, bytes]:
    """The two IDX files of an MNIST split that lie in the package, unpacked and verified."""
    folder = resources.files("absynth.data") / "files"
    contents = []
    for name, digest in MNIST.splits[split].hashes().items():
        try:
            content = unpack((folder / f"{name}.xz").read_bytes(), name)
        except OSError:
            content = b""
        if hashlib.sha256(content).hexdigest() != digest:
            raise AbsynthError(
                f"The file {name}.xz of this installation is missing or damaged; install absynth anew."
            )
        contents.append(content)
    return contents[0], contents[1]


def _read_path(path: Path, split: Split, size: Size | None, strict: bool) -> Dataset:
    if path.is_file():
        if path.suffix.lower() != ".npz":
            raise AbsynthError(
                f"{path} is not a data set; give an .npz file, a folder of IDX files or a folder of pictures."
            )
        return read_npz(path)
    return _read_folder(path, split, size, strict)


def _read_folder(path: Path, split: Split, size: Size | None, strict: bool) -> Dataset:
    images, labels = _find_idx(path, split, "images"), _find_idx(path, split, "labels")
    if images or labels:
        if not (images and labels):
            there, missing = ("images", "labels") if images else ("labels", "images")
            raise AbsynthError(
                f"{path} holds the {there} of the {split} split but not its {missing}; put both there."
            )
        dataset = read_idx(images, labels)
        return set_upright(dataset, images.name) if is_emnist(images.name) else dataset
    if any(path.glob("*-idx?-ubyte*")):
        raise AbsynthError(
            f"{path} holds no {split} split; its files are called {_PREFIXES[split][0]}-images-idx3-ubyte "
            f"and {_PREFIXES[split][0]}-labels-idx1-ubyte."
        )
    if not (path / split).is_dir():
        return read_image_folder(path, size=size, strict=strict)
    # A class without pictures in one split must not renumber the others.
    splits = [path / one for one in SPLITS if (path / one).is_dir()]
    names = sorted({name for folder in splits for name in subfolders(folder)})
    return read_image_folder(path / split, class_names=names, size=size, strict=strict)


def _find_idx(folder: Path, split: Split, kind: str) -> Path | None:
    """The IDX file of a split, in any of its usual spellings."""
    for prefix in _PREFIXES[split]:
        for begin in ("", "*[-_]"):
            found = sorted(folder.glob(f"{begin}{prefix}-{kind}[-.]idx[13]-ubyte*"))
            found = [one for one in found if one.name.endswith(("-ubyte", "-ubyte.gz", "-ubyte.xz"))]
            sets = {one.name.partition(f"{prefix}-{kind}")[0].rstrip("-_") for one in found}
            if len(sets) > 1:
                raise AbsynthError(
                    f"{folder} holds several data sets ({', '.join(sorted(sets))}); put the files of the one "
                    "that is meant into a folder of its own."
                )
            if found:
                return found[0]
    return None
