"""What the tests of attacks share."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest


@pytest.fixture
def short_auto_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    """A twentieth of the steps and queries, for what does not depend on how well each part does."""
    if find_spec("pyautoattack") is None:
        return
    import pyautoattack as package

    class Short(package.AutoAttack):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            for part in (self.apgd, self.apgd_targeted, self.fab):
                part.n_iter = 5
            self.square.n_queries = 250

    monkeypatch.setattr(package, "AutoAttack", Short)
