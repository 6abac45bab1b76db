"""Files arrive whole, in one sitting or in many."""

import hashlib
from pathlib import Path

import pytest

from data.prepare.download import Refused, Unreachable, download, get

CONTENT = bytes(range(256)) * 4000


def fetch(url: str, target: Path, **more: object) -> Path:
    return download(url, target, progress=False, **more)  # type: ignore[arg-type]


def test_a_file_arrives_byte_for_byte(web, tmp_path: Path) -> None:
    assert fetch(web.add("a.zip", CONTENT), tmp_path / "raw/a.zip").read_bytes() == CONTENT


def test_a_cut_connection_is_taken_up_where_it_broke(web, tmp_path: Path) -> None:
    url = web.add("a.zip", CONTENT)
    web.cuts = [300_000, 400_000]
    assert fetch(url, tmp_path / "a.zip").read_bytes() == CONTENT
    assert [asked for _, asked in web.asked] == [None, "bytes=300000-", "bytes=700000-"]


def test_another_call_goes_on_with_what_an_interrupted_one_left(web, tmp_path: Path) -> None:
    url = web.add("a.zip", CONTENT)
    (tmp_path / "a.zip.partial").write_bytes(CONTENT[:1000])
    assert fetch(url, tmp_path / "a.zip").read_bytes() == CONTENT
    assert web.asked == [("/a.zip", "bytes=1000-")]


def test_nothing_but_the_file_is_left(web, tmp_path: Path) -> None:
    url = web.add("a.zip", CONTENT)
    web.cuts = [300_000]
    fetch(url, tmp_path / "a.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_halves_of_two_versions_are_never_joined(web, tmp_path: Path) -> None:
    url = web.add("a.zip", CONTENT)
    web.cuts, web.statuses = [300_000], [200, 404]
    with pytest.raises(Refused):
        fetch(url, tmp_path / "a.zip")
    web.add("a.zip", CONTENT[::-1])
    assert fetch(url, tmp_path / "a.zip").read_bytes() == CONTENT[::-1]


def test_a_server_that_cannot_go_on_sends_all_of_it_again(web, tmp_path: Path) -> None:
    url = web.add("a.zip", CONTENT)
    web.cuts, web.ranges = [300_000], False
    assert fetch(url, tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_whole_partial_file_is_not_fetched_again(web, tmp_path: Path) -> None:
    url = web.add("a.zip", CONTENT)
    (tmp_path / "a.zip.partial").write_bytes(CONTENT)
    assert fetch(url, tmp_path / "a.zip").read_bytes() == CONTENT
    assert len(web.asked) == 1


def test_too_many_requests_are_waited_out(web, tmp_path: Path) -> None:
    url = web.add("a.zip", CONTENT)
    web.statuses = [429, 503, 200]
    assert fetch(url, tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_missing_file_is_not_asked_for_twice_and_the_remedy_is_named(web, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"answers 404; .*--from DIR"):
        fetch(f"{web.address}/gone.zip", tmp_path / "gone.zip")
    assert len(web.asked) == 1


def test_a_refusal_names_account_and_folder(web, tmp_path: Path) -> None:
    web.statuses = [403]
    with pytest.raises(Refused, match=r"access denied \(403\); .*account.*--from DIR"):
        fetch(web.add("a.zip", CONTENT), tmp_path / "a.zip")


def test_a_broken_network_keeps_the_work_and_says_so(web, tmp_path: Path) -> None:
    url = web.add("a.zip", CONTENT)
    web.cuts = [300_000, 0, 0, 0, 0]
    with pytest.raises(Unreachable, match=r"300,000 bytes are kept in .*a.zip.partial; the same command goes on"):
        fetch(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip.partial").read_bytes() == CONTENT[:300_000]
    assert not (tmp_path / "a.zip").exists()


def test_a_small_file_that_breaks_off_is_fetched_again(web) -> None:
    url = web.add("a.jpg", CONTENT)
    web.cuts = [10]
    assert hashlib.sha256(get(url)).digest() == hashlib.sha256(CONTENT).digest()


def test_no_file_of_this_machine_is_read_for_an_address(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s", encoding="utf-8")
    with pytest.raises(Refused, match="no web address"):
        get((tmp_path / "secret").as_uri())
