"""Where a result store keeps its files: a folder of this machine, or a URL that fsspec can open."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import fsspec

from absynth.errors import AbsynthError, UnwritableError, first_line
from absynth.files import file_in_the_way, write_bytes

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
"""Where writing a file is one request, after which all of it is there and before which none is."""


@runtime_checkable
class Folder(Protocol):
    """Named files, each written at once or not at all; names have "/" in them."""

    @property
    def location(self) -> str:
        """Where it is, from wherever it is looked at."""

    def path(self, name: str) -> str:
        """What to call a file in a message."""

    def has(self, name: str) -> bool:
        """Whether there is such a file."""

    def read(self, name: str) -> bytes:
        """All of a file.

        Raises:
            OSError: If it cannot be read; :class:`FileNotFoundError` if there is none.
        """

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, in the place of an earlier one of that name.

        Raises:
            UnwritableError: If it cannot be written.
        """


class LocalFolder:
    """A folder of a mounted file system; a file is written under another name and renamed.

    Args:
        folder: Made when the first file is written.

    Raises:
        AbsynthError: If it is a file or lies in one.
    """

    def __init__(self, folder: Path) -> None:
        if (file := file_in_the_way(folder)) is not None:
            raise AbsynthError(f"{file} is a file; results need a folder.")
        self._folder = folder

    @property
    def location(self) -> str:
        """The absolute path."""
        return str(self._folder.resolve())

    def path(self, name: str) -> str:
        """The path of a file."""
        return str(self._folder / name)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self._folder / name).exists()

    def read(self, name: str) -> bytes:
        """All of a file."""
        return (self._folder / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Writes a file."""
        write_bytes(self._folder / name, content)


class RemoteFolder:
    """A folder behind a URL. An object store gets a file by one put; elsewhere it is written and renamed.

    Args:
        url: Such as "s3://bucket/results".

    Raises:
        AbsynthError: If fsspec does not know the protocol, lacks a package for it, or cannot reach the place.
    """

    def __init__(self, url: str) -> None:
        try:
            # a listing that was cached would hide what other runs have written since
            self._files: Any
            self._files, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
            self._files.exists(self._root)
        except Exception as error:
            raise AbsynthError(
                f"Results cannot be kept at {url} ({first_line(error)}); give a folder, or a URL that fsspec "
                "can open."
            ) from None
        self._url = url.rstrip("/")
        self._puts = url.partition("://")[0] in OBJECT_STORES

    @property
    def location(self) -> str:
        """The URL."""
        return self._url

    def path(self, name: str) -> str:
        """The URL of a file."""
        return f"{self._url}/{name}"

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return bool(self._files.exists(f"{self._root}/{name}"))

    def read(self, name: str) -> bytes:
        """All of a file."""
        try:
            return bytes(self._files.cat_file(f"{self._root}/{name}"))
        except OSError:
            raise
        except Exception as error:  # whose kind depends on what is behind the URL
            raise OSError(first_line(error)) from None

    def write(self, name: str, content: bytes) -> None:
        """Writes a file."""
        try:
            self._write(f"{self._root}/{name}", content)
        except Exception as error:
            raise UnwritableError(
                f"{self.path(name)} cannot be written ({first_line(error)}); make room there, or see that "
                "you may write there."
            ) from None

    def _write(self, path: str, content: bytes) -> None:
        if self._puts:
            self._files.pipe_file(path, content)
            return
        parent, _, last = path.rpartition("/")
        temporary = f"{parent}/.{uuid.uuid4().hex}-{last}"
        self._files.makedirs(parent, exist_ok=True)
        try:
            self._files.pipe_file(temporary, content)
            self._files.mv(temporary, path)
        except BaseException:
            if self._files.exists(temporary):
                self._files.rm_file(temporary)
            raise


def open_folder(place: Path | str) -> Folder:
    """The folder at a path, or at a URL with "://" in it.

    Raises:
        AbsynthError: If nothing is named, it is a file, or its URL cannot be used.
    """
    if not str(place).strip():
        raise AbsynthError("The folder of the results has no name; give one, or '.' for the working folder.")
    return RemoteFolder(place) if isinstance(place, str) and "://" in place else LocalFolder(Path(place))
