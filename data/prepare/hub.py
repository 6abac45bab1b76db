"""Files of data set repositories on the Hugging Face Hub."""

import fnmatch
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """One file of a repository.

    Attributes:
        name: Its path in the repository.
        revision: The commit that it is taken from.
        size: Bytes; None where the Hub does not say.
        checksum: "sha256:..." where the Hub keeps it as a large file, else "".
    """

    name: str
    revision: str
    size: int | None
    checksum: str


def look_up(repository: str, pattern: str) -> list[HubFile]:
    """The files of a repository whose path fits a pattern, in order.

    Raises:
        RuntimeError: The Hub cannot be asked, or has no such file.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(repository, files_metadata=True)
    except Exception as error:  # the Hub's client raises errors of whichever HTTP library it uses
        raise RuntimeError(_advice(repository, pattern, error)) from error
    files = [
        HubFile(
            name=one.rfilename,
            revision=info.sha or "main",
            size=one.size,
            checksum=f"sha256:{one.lfs.sha256}" if one.lfs else "",
        )
        for one in info.siblings or []
        if fnmatch.fnmatchcase(one.rfilename, pattern)
    ]
    if not files:
        raise RuntimeError(f"the Hub's data set {repository} has no file {pattern}; get it elsewhere and pass its folder: --from DIR")
    return sorted(files, key=lambda file: file.name)


def fetch(repository: str, file: HubFile, folder: Path) -> Path:
    """Fetches one file to its own path below `folder`; goes on with what an interrupted call left.

    Raises:
        RuntimeError: It cannot be fetched.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, file.name, repo_type="dataset", revision=file.revision, local_dir=folder))
    except Exception as error:
        raise RuntimeError(_advice(repository, file.name, error)) from error


def _advice(repository: str, name: str, error: Exception) -> str:
    told = str(error).strip().split("\n")[0]
    return (
        f"{name} of the Hub's data set {repository} could not be fetched: {type(error).__name__}: {told}. Check the network; log in with "
        "`hf auth login` if the data set asks for it; the same command goes on. Without a network pass the files' folder: --from DIR"
    )
