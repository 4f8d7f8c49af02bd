"""What docs/tools measures for the page on the fast search, where the answer is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def tool(load_tool: Callable[[str, str], ModuleType]) -> Any:
    """The module that measures and writes."""
    return load_tool("fast_search", "fast_search")


class Brightness(nn.Module):
    """Class 1 from a mean of ``limit`` on."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(1)
        return torch.stack([torch.zeros_like(mean), mean - self.limit], dim=1)


def test_the_judge_finds_the_boundary_of_its_own_model(tool: Any) -> None:
    clean, labels = torch.zeros(1, 1, 4, 4), torch.tensor([0])
    adversarial = torch.full_like(clean, 0.4)
    for limit, place in ((0.38, 0.95), (0.42, 1.05), (0.6, 1.5)):
        found = float(tool.judged_scale(Brightness(limit), clean, adversarial, labels))
        assert place - 1e-6 <= found <= place + (0.03 if place > 1.1 else 0.007)
    assert tool.judged_scale(Brightness(0.1), clean, adversarial, labels) == pytest.approx(0.9, abs=0.007)
    assert tool.judged_scale(Brightness(0.9), clean, adversarial, labels).isinf()


def test_every_image_is_judged_by_itself(tool: Any) -> None:
    clean, labels = torch.zeros(3, 1, 2, 2), torch.tensor([0, 0, 0])
    adversarials = torch.tensor([0.1, 0.3, 0.45])[:, None, None, None].expand(3, 1, 2, 2)
    found = tool.judged_scale(Brightness(0.44), clean, adversarials, labels)
    assert found[0].isinf()
    assert found[1] == pytest.approx(0.44 / 0.3, abs=0.03)
    assert found[2] == pytest.approx(0.44 / 0.45, abs=0.007)


def test_finished_pieces_are_not_computed_again(tool: Any, tmp_path: Path) -> None:
    asked: list[slice] = []

    def compute(rows: slice) -> dict[str, Tensor]:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(rows)
        return {"row": torch.arange(rows.start, rows.stop)}

    count = 2 * tool.PIECE + 3
    with pytest.raises(KeyboardInterrupt):
        tool.piece_by_piece(tmp_path, "rows", count, compute)
    before = asked.copy()
    asked.clear()
    found = tool.piece_by_piece(tmp_path, "rows", count, compute)
    assert torch.equal(found["row"], torch.arange(count))
    assert asked == [slice(2 * tool.PIECE, count)]
    assert before == [slice(0, tool.PIECE), slice(tool.PIECE, 2 * tool.PIECE)]


def test_the_page_has_the_figures_of_the_record(tool: Any, tmp_path: Path) -> None:
    search = {"clean": 0.9876, "predicted loss": 11.25, "runner-up loss": 26.5}
    losses = {"images": 10_000, "fast": search, "paper": search | {"clean": 0.9875}, "same class": 0.9991}
    figures = {"images": 200, "seed": 0, "settings": "{}", "fast": 1.5, "judged": 1.515, "paper": 1.5}
    (tmp_path / "record.json").write_text(
        tool.json.dumps({"losses": losses, "attacks": {"ddn": figures}}), encoding="utf-8"
    )
    tool.main(["page", "--record", str(tmp_path / "record.json"), "--page", str(tmp_path / "page.md")])
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| fast, the default | 98.76% | 11.250 | 26.500 |" in text
    assert "| the paper's, the yardstick | 98.75% | 11.250 | 26.500 |" in text
    assert "the same class for 99.91% of" in text
    assert "| ddn (200) | 1.500 | 1.515 | 1.500 | 1.010 |" in text


def test_losses_are_those_of_the_two_best_classes(tool: Any, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    tool.main(["losses", "--images", "2", "--work", str(tmp_path), "--record", str(record), "--threads", "1"])
    losses = tool.json.loads(record.read_text())["losses"]
    assert losses["images"] == 2
    assert losses["same class"] == 1
    for search in ("fast", "paper"):
        assert losses[search]["clean"] == 1
        assert 0 < losses[search]["predicted loss"] < losses[search]["runner-up loss"]
    with pytest.raises(SystemExit, match="2"):
        tool.main(["attacks", "--record", str(record)])


def test_the_page_is_made_from_the_record_that_is_kept(tool: Any, tmp_path: Path) -> None:
    record = json.loads((DOCS / "results" / "fast-search.json").read_text(encoding="utf-8"))
    tool.write_page(record, tmp_path / "page.md")
    kept = (DOCS / "fast-search.md").read_text(encoding="utf-8")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == kept
