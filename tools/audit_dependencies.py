"""Asks PyPI's database for known vulnerabilities of the versions that ``constraints.txt`` pins.

Run it as ``make audit-dependencies``. The exit status is 0 if there are none, 1 if there are, and 2 if that
cannot be found out.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
UNKNOWN = "What is known of vulnerabilities could not be found out; run this where the network is open."


def audit() -> list[dict[str, Any]]:
    """What pip-audit, in an environment of its own, says of each pinned package.

    Raises:
        OSError: If it cannot be installed or does not answer.
        ValueError: The same.
    """
    with tempfile.TemporaryDirectory(prefix="absynth-audit-") as folder:
        venv.create(folder, with_pip=True)
        programs = Path(folder) / "bin"
        install = [programs / "python", "-m", "pip", "install", "--quiet", "pip-audit"]
        if subprocess.run(install, check=False).returncode:
            raise OSError("pip-audit could not be installed")
        options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
        command = [programs / "pip-audit", "--requirement", ROOT / "constraints.txt", *options]
        answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
        found: list[dict[str, Any]] = json.loads(answer.stdout)["dependencies"]
        return found


def main() -> int:
    """Prints what is known, and how surely."""
    try:
        found = audit()
    except (OSError, ValueError, LookupError):
        print(UNKNOWN, file=sys.stderr)
        return 2
    for package in found:
        for hole in package.get("vulns", ()):
            print(f"{package['name']} {package['version']}: {hole['id']}, fixed in {hole['fix_versions']}")
    if any(package.get("vulns") for package in found):
        return 1
    skipped = [package["name"] for package in found if "skip_reason" in package]
    if len(skipped) == len(found):
        print(UNKNOWN, file=sys.stderr)
        return 2
    print(f"No known vulnerability in {len(found) - len(skipped)} packages.")
    if skipped:
        print(f"Nothing is known of {', '.join(skipped)}.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
