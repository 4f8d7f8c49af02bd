"""Labelled images by name or path, their verified download, and pictures of single digits."""

from absynth.data.catalog import CATALOG, CatalogEntry, Split, find_entry
from absynth.data.datasets import load_dataset, read_dataset
from absynth.data.digits import center_digit, read_digit
from absynth.data.domain import Domain
from absynth.data.fetch import cache_folder, fetch
from absynth.data.readers import Dataset

__all__ = [
    "CATALOG",
    "CatalogEntry",
    "Dataset",
    "Domain",
    "Split",
    "cache_folder",
    "center_digit",
    "fetch",
    "find_entry",
    "load_dataset",
    "read_dataset",
    "read_digit",
]
