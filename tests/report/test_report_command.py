"""The commands ``report`` and ``distal`` as a user meets them."""

import subprocess
import sys

from absynth.evaluate.distal import read_distal


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "absynth.cli", *arguments], capture_output=True, text=True, check=False
    )


def test_report_writes_a_page_and_says_what_is_missing(small_results, tmp_path):
    out = tmp_path / "report"
    result = run("report", str(small_results.folder), "--out", str(out), "--records-only", "--quiet")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[-1] == str(out / "index.html")
    assert any("Certified accuracy is left out" in line for line in lines)
    assert (out / "index.html").stat().st_size > 10_000


def test_distal_writes_images_and_a_table(tmp_path):
    result = run("distal", "--model", "cnn", "-n", "1", "--steps", "2", "--out", str(tmp_path), "--quiet")
    assert result.returncode == 0, result.stderr
    assert "cnn" in result.stdout
    (entry,) = read_distal(tmp_path)
    assert entry.images.shape == (1, 1, 28, 28)


def test_mistakes_end_with_one_line(small_results, tmp_path, fails):
    folder, out = str(small_results.folder), str(tmp_path / "report")
    for arguments, message in (
        (("report", str(tmp_path), "--out", out), "holds no records"),
        (("report", folder, "--out", out, "--certificates", "radii.parquet"), "names no certificates"),
        (("report", folder, "--out", out, "--reference", str(tmp_path / "none")), "accuracy-distortion"),
        (("report", folder, "--out", out, "--data", "other"), "no records of 'other'"),
        (("distal", "--model", "cnn", "--target", "11", "--out", out), "There is no class 11"),
    ):
        assert message in fails(*arguments, "--quiet")
    assert not (tmp_path / "report").exists()
