"""Archives stay inside their folder."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from data.prepare.spec import Unpack
from data.prepare.unpack import unpack


def tarred(path: Path, files: dict[str, bytes], link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        if link:
            member = tarfile.TarInfo(link)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc"
            archive.addfile(member)
    return path


def below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_zip_lands_in_its_folder(tmp_path: Path, zip_of) -> None:
    archive = zip_of(tmp_path / "a.zip", {"00/1.jpg": b"one", "01/2.jpg": b"two"})
    assert unpack(archive, tmp_path / "out", Unpack(folder="images"), progress=False) == 2
    assert below(tmp_path / "out") == {"images/00/1.jpg": b"one", "images/01/2.jpg": b"two"}


def test_a_tar_gives_only_what_is_wanted_without_its_outer_folder(tmp_path: Path) -> None:
    archive = tarred(tmp_path / "a.tgz", {"CUB/images/1.jpg": b"one", "CUB/parts/p.txt": b"p", "CUB/images.txt": b"t", "other.txt": b"o"})
    unpack(archive, tmp_path / "out", Unpack(folder="", inside="CUB", only=("images/", "images.txt")), progress=False)
    assert below(tmp_path / "out") == {"images/1.jpg": b"one", "images.txt": b"t"}


def test_flat_pictures_lie_straight_in_the_folder_whatever_the_archive_calls_its_own(tmp_path: Path, zip_of) -> None:
    archive = zip_of(tmp_path / "a.zip", {"x/y/1.jpg": b"one", "__MACOSX/x/y/._1.jpg": b"-", "x/read.me": b"-"})
    unpack(archive, tmp_path / "out", Unpack(folder="ocr_vqa/images", flat=True), progress=False)
    assert below(tmp_path / "out") == {"ocr_vqa/images/1.jpg": b"one"}


def test_two_flat_pictures_of_one_name_are_refused(tmp_path: Path, zip_of) -> None:
    archive = zip_of(tmp_path / "a.zip", {"x/1.jpg": b"one", "y/1.jpg": b"two"})
    with pytest.raises(ValueError, match="two files are called '1.jpg'"):
        unpack(archive, tmp_path / "out", Unpack(folder="", flat=True), progress=False)


@pytest.mark.parametrize("name", ["../evil.jpg", "/evil.jpg", "a/../../evil.jpg", "..\\evil.jpg"])
def test_a_zip_that_leads_out_of_its_folder_writes_nothing(tmp_path: Path, zip_of, name: str) -> None:
    archive = zip_of(tmp_path / "in/a.zip", {"1.jpg": b"one", name: b"evil"})
    with pytest.raises(ValueError, match=r"a.zip: the name .*evil.jpg' leads out of the folder"):
        unpack(archive, tmp_path / "deep/out", Unpack(folder=""), progress=False)
    assert not (tmp_path / "deep").exists()
    assert not list(tmp_path.rglob("evil*"))


def test_a_tar_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    archive = tarred(tmp_path / "a.tgz", {"../evil.jpg": b"evil"})
    with pytest.raises(ValueError, match="leads out of the folder"):
        unpack(archive, tmp_path / "out", Unpack(folder=""), progress=False)
    assert not (tmp_path / "evil.jpg").exists()


def test_links_in_a_tar_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a link"):
        unpack(tarred(tmp_path / "a.tgz", {}, link="images"), tmp_path / "out", Unpack(folder=""), progress=False)


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        one = zipfile.ZipInfo("images")
        one.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(one, "/etc")
    with pytest.raises(ValueError, match="is a link"):
        unpack(tmp_path / "a.zip", tmp_path / "out", Unpack(folder=""), progress=False)


def test_files_of_the_right_size_stay_and_others_are_written_again(tmp_path: Path, zip_of) -> None:
    archive = zip_of(tmp_path / "a.zip", {"1.jpg": b"one", "2.jpg": b"two"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out/1.jpg").write_bytes(b"ONE")
    (tmp_path / "out/2.jpg").write_bytes(b"t")
    unpack(archive, tmp_path / "out", Unpack(folder=""), progress=False)
    assert below(tmp_path / "out") == {"1.jpg": b"ONE", "2.jpg": b"two"}


def test_a_damaged_archive_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"<html>not found</html>")
    with pytest.raises(RuntimeError, match=r"a.zip is damaged .*delete it"):
        unpack(tmp_path / "a.zip", tmp_path / "out", Unpack(folder=""), progress=False)


def test_an_archive_without_what_is_wanted_is_an_error(tmp_path: Path, zip_of) -> None:
    archive = zip_of(tmp_path / "a.zip", {"other/1.jpg": b"one"})
    with pytest.raises(ValueError, match="holds nothing in CUB that is wanted"):
        unpack(archive, tmp_path / "out", Unpack(folder="", inside="CUB"), progress=False)
