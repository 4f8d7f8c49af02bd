"""What the tests on a Ray cluster share: the cluster, and the connection to it."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from absynth.evaluate.cluster import RayEngine

SCRIPT = Path(__file__).with_name("small_cluster.py")

TOKEN = secrets.token_hex(32)
"""One for all clusters, since Ray keeps the one that it found when it was imported."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster in a process of its own, so that this one can join and leave it by a token of their own.

    Ray looks for the token when it is imported, so no test may do that without this fixture.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with process:
            try:
                yield process.stdout.readline().strip()
            finally:
                process.stdin.close()


@pytest.fixture(scope="module")
def engine(address: str) -> Iterator[RayEngine]:
    """A connection that all tests share, and with it the workers; the command line makes use of it, too."""
    import ray

    from absynth.evaluate.cluster import connect

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    with connect() as engine:
        yield engine
    assert ray.is_initialized()
    ray.shutdown()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many as a worker has, because the last bits of a sum depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
