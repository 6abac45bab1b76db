"""Archives are unpacked here, file by file, never outside their folder."""

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO

from data.atomic import whole_file
from data.prepare.spec import Unpack

PICTURES = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"}
Member = tuple[str, int, Callable[[], IO[bytes]] | None]  # name, bytes, how to open it; None: a link or a device


def unpack(archive: Path, root: Path, how: Unpack, *, progress: bool = True) -> int:
    """Unpacks a zip or tar archive below `root`; files that are there with the right size stay.

    Returns:
        Number of files that belong to the archive.

    Raises:
        ValueError: A name leads out of the folder, a link stands for a file, or flattening joins two files.
        RuntimeError: The archive is damaged.
    """
    from tqdm import tqdm

    folder, taken = root / how.folder, set()
    try:
        with ExitStack() as stack:
            members = _zip(stack, archive) if zipfile.is_zipfile(archive) else _tar(stack, archive)
            for name, size, opened in tqdm(members, desc=f"unpack {archive.name}", unit=" files", disable=not progress):
                inner = _inner(archive, name, how)
                if inner is None:
                    continue
                if opened is None:
                    raise ValueError(f"{archive.name}: {name!r} is a link or a device, expected a file; do not trust this archive")
                if inner in taken:
                    raise ValueError(f"{archive.name}: two files are called {inner!r}; unpack it by hand and pass the folder: --from DIR")
                taken.add(inner)
                _write(folder / inner, size, opened)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        told = str(error).split("\n")[0].rstrip(":")
        raise RuntimeError(f"{archive} is damaged ({told}); delete it and run the same command again") from error
    if not taken:
        raise ValueError(
            f"{archive.name} holds nothing in {how.inside or 'it'} that is wanted; its layout has changed, or it is another file"
        )
    return len(taken)


def _zip(stack: ExitStack, archive: Path) -> Iterator[Member]:
    file = stack.enter_context(zipfile.ZipFile(archive))
    for one in file.infolist():
        _check(archive, one.filename)  # all of them before the first is written
    for one in file.infolist():
        if not one.is_dir():
            link = stat.S_ISLNK(one.external_attr >> 16)
            yield one.filename, one.file_size, None if link else lambda one=one: file.open(one)  # type: ignore[misc]


def _tar(stack: ExitStack, archive: Path) -> Iterator[Member]:
    file = stack.enter_context(tarfile.open(archive))  # noqa: SIM115 - the stack closes it
    for one in file:
        _check(archive, one.name)
        if not one.isdir():
            yield one.name, one.size, (lambda one=one: file.extractfile(one)) if one.isfile() else None  # type: ignore[misc]


def _check(archive: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise ValueError(f"{archive.name}: the name {name!r} leads out of the folder; nothing of it is written: do not trust this archive")


def _inner(archive: Path, name: str, how: Unpack) -> str | None:
    """A member's path below the folder; None for one that is not wanted."""
    path = PurePosixPath(name)
    if path.name.startswith("._"):  # what macOS adds to archives
        return None
    if how.inside:
        if not path.is_relative_to(how.inside):
            return None
        path = path.relative_to(how.inside)
    if how.only and not str(path).startswith(how.only):
        return None
    if how.flat:
        return path.name if path.suffix.lower() in PICTURES else None
    return str(path)


def _write(target: Path, size: int, opened: Callable[[], IO[bytes]]) -> None:
    if target.is_file() and target.stat().st_size == size:
        return
    with whole_file(target) as partial, opened() as source, open(partial, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
