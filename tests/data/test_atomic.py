"""Files appear whole or not at all."""

import pytest

from data.atomic import write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = write_text(tmp_path / "deep" / "numbers.json", "old")
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"loss": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \ud800")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
