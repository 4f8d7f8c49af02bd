import stat
from pathlib import Path

import pytest

from absynth.files import atomic_path, write_text


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, error: type[BaseException]
) -> None:
    destination = tmp_path / "model.txt"
    destination.write_text("old")
    with pytest.raises(error), atomic_path(destination) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert destination.read_text() == "old"
    assert list(tmp_path.iterdir()) == [destination]


def test_success_replaces_the_old_file(tmp_path: Path) -> None:
    destination = tmp_path / "model.txt"
    destination.write_text("old")
    with atomic_path(destination) as temporary:
        temporary.write_text("new")
        assert destination.read_text() == "old"
    assert destination.read_text() == "new"
    assert list(tmp_path.iterdir()) == [destination]


def test_the_temporary_path_has_the_suffix_that_writers_look_at(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "picture.png") as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == tmp_path


def test_the_folder_is_made_and_others_may_read_the_file(tmp_path: Path) -> None:
    destination = tmp_path / "a" / "b" / "text"
    write_text(destination, "‖x‖² ≤ ½")
    assert destination.read_text(encoding="utf-8") == "‖x‖² ≤ ½"
    assert stat.S_IMODE(destination.stat().st_mode) == 0o644
