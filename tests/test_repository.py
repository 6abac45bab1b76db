"""The laws of the house: what no review should have to look for."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from train.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGES = ("train", "model", "data")
TOP_LEVEL = {
    *("train", "model", "data", "scripts", "tests", "zero_configs", "docs"),
    *("pyproject.toml", "requirements.lock", "README.md", "LICENSE", "Makefile", "CHANGELOG.md"),
}
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_RECIPE = 400, 60, 40
HEAVY = {"torch", "torchvision", "transformers", "deepspeed", "accelerate", "peft", "datasets", "matplotlib", "numpy", "PIL"}
IMPORT_NAMES = {"pillow": "PIL", "pyyaml": "yaml", "open-clip-torch": "open_clip", "scikit-learn": "sklearn"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@cache
def files() -> tuple[Path, ...]:
    """Every file that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    return tuple(ROOT / name for name in listed if name and (ROOT / name).is_file())


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def modules() -> list[Path]:
    return [path for path in files() if path.suffix == ".py" and name(path).split("/")[0] in PACKAGES]


def texts() -> list[tuple[Path, str]]:
    """Text files with their content, but for this one, which spells out what it forbids."""
    found = []
    for path in files():
        content = path.read_bytes()
        if b"\0" not in content and path != Path(__file__) and path.suffix not in {".png", ".safetensors"}:
            found.append((path, content.decode("utf-8")))
    return found


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs Python as launchers do: nothing importable only because of the folder that one stands in."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PYTHONSAFEPATH": "1"}
    return subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def requirements() -> dict[str, Requirement]:
    parsed = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]
    return {requirement.name: requirement for requirement in parsed}


def pins() -> dict[str, list[Version]]:
    """Name to pinned versions; markers may choose among several."""
    found: dict[str, list[Version]] = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        requirement = Requirement(line)
        found.setdefault(requirement.name, []).append(Version(str(requirement.specifier).removeprefix("==")))
    return found


def imported(command: str, cwd: Path, code: int) -> set[str]:
    """Top-level packages that `python -m train COMMAND` imports; its exit code must be `code`."""
    done = run("-X", "importtime", "-m", "train", *command.split(), cwd=cwd)
    assert done.returncode == code, done.stdout + done.stderr[-2000:]
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_packages_are_imported_from_this_repository_wherever_one_stands(tmp_path: Path) -> None:
    done = run("-c", "import train, model, data; print(train.__file__, model.__file__, data.__file__, sep='\\n')", cwd=tmp_path)
    assert done.returncode == 0, f"{done.stderr}\nthe project is not installed here; run: make install"
    assert done.stdout.split("\n")[:3] == [str(ROOT / package / "__init__.py") for package in PACKAGES]


def test_top_level_holds_only_what_the_design_names() -> None:
    entries = {name(path).split("/")[0] for path in files()}
    assert {entry for entry in entries if not entry.startswith(".")} <= TOP_LEVEL


def test_packages_hold_one_init_docstring_and_tests_hold_no_init() -> None:
    for path in modules():
        if path.name == "__init__.py":
            body = ast.parse(path.read_text(encoding="utf-8")).body
            assert len(body) == 1, f"{name(path)} holds more than its docstring"
        assert (path.parent / "__init__.py").is_file(), f"{name(path.parent)} has no __init__.py"
    assert not [name(path) for path in files() if name(path).startswith("tests/") and path.name == "__init__.py"]


def test_every_module_opens_with_a_docstring_of_one_sentence() -> None:
    wrong = []
    for path in modules():
        first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
        if not first.endswith(".") or re.search(r"[.!?] [A-Z]", first):
            wrong.append(f"{name(path)}: {first!r}")
    assert not wrong


def test_files_and_functions_stay_short() -> None:
    long = []
    for path in modules():
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > LONGEST_FILE:
            long.append(f"{name(path)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long.append(f"{name(path)}:{node.lineno} {node.name}: {lines} lines")
    assert not long


def test_no_module_is_named_after_nothing() -> None:
    assert not [name(path) for path in files() if path.stem in {"utils", "util", "helpers", "misc", "common"}]


def test_no_file_names_a_machine_or_a_package_registry() -> None:
    machine = re.compile(r"(?<![\w.}$-])/(?:work|farm|root|home|Users|mnt|workspace)/\w")
    registry = re.compile(
        r"https?://\S*(?:pypi|pythonhosted|/simple\b|/whl\b)|(?<!no-emit)-{1,2}(?:extra-)?(?:index-url|find-links)\b", re.I
    )
    wrong = [f"{name(path)}: {match[0]}" for path, text in texts() for law in (machine, registry) for match in law.finditer(text)]
    assert not wrong


def test_lock_pins_every_requirement_within_its_floor_and_holds_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"://|^\s*[-#@]| @ |--", text, re.MULTILINE)
    pinned = pins()
    for requirement in requirements().values():
        assert requirement.name in pinned, f"{requirement.name} is not in requirements.lock; run: make lock"
        for version in pinned[requirement.name]:
            assert version in requirement.specifier, f"{requirement} is not met by {version} in requirements.lock; run: make lock"


def test_packages_import_only_what_pyproject_declares() -> None:
    known = {IMPORT_NAMES.get(one, one.replace("-", "_")) for one in (Requirement(line).name for line in PROJECT["dependencies"])}
    known |= {IMPORT_NAMES.get(one, one.replace("-", "_")) for one in PROJECT["optional-dependencies"] if one != "dev"}
    wrong = set()
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            tops = {one.split(".")[0] for one in names} - known - set(PACKAGES) - sys.stdlib_module_names
            wrong |= {f"{name(path)}: {top}" for top in tops}
    assert not wrong


def test_dependency_law_holds() -> None:
    linter = [str(Path(sys.executable).with_name("lint-imports")), "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    done = subprocess.run(linter, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    assert not imported("--help", tmp_path, code=0) & (HEAVY | {"pydantic", "yaml"})


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_imports_nothing_heavy(command: str, tmp_path: Path) -> None:
    assert not imported(f"{command} --help", tmp_path, code=0) & HEAVY


def test_wrong_recipe_is_refused_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: {base: terrarium, presett: full}\n", encoding="utf-8")
    assert not imported("train recipe.yaml", tmp_path, code=2) & HEAVY


def test_version_is_written_once() -> None:
    version = re.compile(rf"(?<![\w.=>~<\[]){re.escape(PROJECT['version'])}(?![\w.\]])")
    others = [name(path) for path, text in texts() if path.suffix in {".py", ".md", ".sh", ".cfg", ""} and version.search(text)]
    assert [one for one in others if one != "CHANGELOG.md"] == []


def test_license_is_apache_in_full() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "9. Accepting Warranty or Additional Liability" in text
    assert "Copyright The Perennial authors" in text


def recipes() -> list[Path]:
    return [path for path in files() if name(path).startswith("train/recipes/") and path.suffix == ".yaml"]


@pytest.mark.parametrize("path", recipes(), ids=lambda path: path.stem)
def test_recipe_is_valid_and_short_with_a_header_that_says_how_to_run_it(path: Path) -> None:
    from train.config import Recipe

    text = path.read_text(encoding="utf-8")
    header = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    assert text.startswith("# ")
    assert "Hardware:" in header
    assert "Command:" in header
    assert text.count("\n") <= LONGEST_RECIPE
    Recipe.model_validate(yaml.safe_load(text))


def test_every_zero_setting_a_recipe_may_name_is_a_file_of_json() -> None:
    from typing import get_args

    from train.config import TrainConfig

    settings = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "zero_configs").glob("*.json")}
    assert set(settings) == set(get_args(TrainConfig.model_fields["zero"].annotation))
    assert all(settings[one]["zero_optimization"]["stage"] == int(one.removeprefix("zero")[0]) for one in settings)


def test_files_named_in_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w/<])((?:train|model|data|scripts|tests|zero_configs|docs)/[\w./-]*\w)", text)
    named += re.findall(r"\]\((?!https?:|#|mailto:)([^)\s#]+)", text)
    known = {name(path) for path in files()} | {name(parent) for path in files() for parent in path.parents if parent.is_relative_to(ROOT)}
    assert not {one for one in named if one.rstrip("/") not in known}


def test_make_targets_named_in_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z-]+)", "\n".join(re.findall(r"`[^`]*`", (ROOT / "README.md").read_text(encoding="utf-8")))))
    assert named <= targets
