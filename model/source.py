"""Where a model's files come from: a folder, or a repository on the Hugging Face hub."""

import re
from pathlib import Path

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_name(name: str) -> bool:
    """Whether a name can be a repository's on the hub ("Qwen/Qwen2.5-7B-Instruct") rather than a path; what exists on disk is a path."""
    return bool(_HUB_NAME.fullmatch(name)) and not Path(name).exists() and name.split("/")[0] not in (".", "..")


def folder_of(name: str | Path) -> Path:
    """The local folder of a model; what is on the hub is fetched into its cache once, without pickled weights where safetensors exist.

    Raises:
        FileNotFoundError: There is no such folder, nor (as far as the network lets us see) such a repository; or it holds no config.json.
    """
    folder = Path(name)
    if is_hub_name(str(name)):
        folder = _fetched(str(name))
    if not (folder / "config.json").is_file():
        what = "holds no config.json" if folder.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"model folder {folder} {what}; give the folder of a model saved in transformers' format, or its name on the hub"
        )
    return folder


def _fetched(name: str) -> Path:
    from huggingface_hub import list_repo_files, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    wanted = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors"]
    try:
        try:
            files = list_repo_files(name)
        except (OfflineModeIsEnabled, ConnectionError, OSError):
            files = ["cached.safetensors"]  # without a network, what an earlier fetch left in the cache
        if not any(file.endswith(".safetensors") for file in files):
            wanted.append("*.bin")
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{name} is no folder here, and could not be fetched from the hub ({' '.join(str(error).split())[:200]}); "
            "check the name, the network, HF_TOKEN and HF_HUB_OFFLINE"
        ) from None
