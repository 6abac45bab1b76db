"""What stands beside a source."""

import json
from pathlib import Path

import pytest

from data.provenance import provenance


@pytest.mark.parametrize("name", ["manifest.json", "prepare.json"])
def test_what_made_a_source_is_told_by_the_file_beside_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(json.dumps({"identity": {"plan": 1}, "licence": "CC0", "layers": [1, 2]}))
    (tmp_path / "dialogues.json").write_text("[]")
    expected = {"file": name, "identity": {"plan": 1}, "licence": "CC0"}
    assert provenance(str(tmp_path)) == provenance(str(tmp_path / "dialogues.json")) == expected


def test_a_file_without_a_history_has_none(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[]")
    assert provenance(str(tmp_path / "a.json")) is None
