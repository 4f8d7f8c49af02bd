"""A folder that Ray cannot work in is told by its name, with what to set."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from absynth.engine.cluster import connect
from absynth.errors import AbsynthError


@pytest.mark.parametrize(
    ("error", "variables", "folder"),
    [
        (OSError("AF_UNIX path length cannot exceed 107 bytes: /x"), {"TMPDIR": "/long"}, "/long/ray"),
        (PermissionError(13, "Permission denied", "/tmp/ray"), {}, "/ray "),
        (PermissionError(13, "Permission denied"), {"TMPDIR": "/a", "RAY_TMPDIR": "/b"}, "/b/ray"),
        (ConnectionError("no cluster at 10.0.0.1"), {"TMPDIR": "/long"}, None),
        (ValueError("an address is needed"), {}, None),
    ],
)
def test_a_folder_that_ray_cannot_use_is_named(
    error: Exception, variables: dict[str, str], folder: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise error

    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(AbsynthError) as told, connect():
        pass
    sentence = str(told.value)
    assert ("set RAY_TMPDIR to a folder of your own with a short path" in sentence) == (folder is not None)
    assert (folder or "No Ray cluster can be reached") in sentence
