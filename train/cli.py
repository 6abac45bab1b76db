"""The `perennial` command line: a table of sub-commands, each imported only when it is called."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

DONE, FAILED, WRONG_REQUEST, RESUMABLE = 0, 1, 2, 75


@dataclass(frozen=True, kw_only=True)
class Command:
    """One sub-command; its module offers `<prefix>add_arguments(parser)` and `<prefix>run(arguments) -> exit code`."""

    help: str
    example: str
    module: str
    prefix: str = ""


COMMANDS = {
    "train": Command(
        help="tune a model as a recipe says",
        example="perennial train train/recipes/demo.yaml --model.preset sa_proj --train.learning_rate 3e-4",
        module="train.command",
    ),
    "sequence": Command(
        help="teach skill after skill, measure after each what was learned and what was lost",
        example="perennial sequence train/recipes/sequence.yaml",
        module="train.sequence_command",
    ),
    "assemble": Command(
        help="join a vision tower, a projector and a language model",
        example="perennial assemble RECIPE.yaml --output models/NAME",
        module="train.assemble",
    ),
    "import": Command(
        help="turn an original LLaVA checkpoint into a transformers model",
        example="perennial import llava-v1.5-7b --vision openai/clip-vit-large-patch14-336 --output models/llava-1.5-7b",
        module="train.assemble",
        prefix="import_",
    ),
    "validate": Command(
        help="read every record of a recipe's sources once, list what is wrong",
        example="perennial validate RECIPE.yaml --output runs/validated",
        module="train.validate",
    ),
    "preview": Command(
        help="show samples as training sees them, with what carries loss",
        example="perennial preview RECIPE.yaml --output runs/preview",
        module="train.preview",
    ),
    "prepare": Command(
        help="fetch a well-known data set, write it as LLaVA JSON",
        example="perennial prepare llava-665k --output data_sets/llava-665k",
        module="train.prepare",
    ),
    "presets": Command(
        help="show what each preset trains in a model, and the memory that takes",
        example="perennial presets qwen2.5-vl-7b --gpus 8",
        module="train.presets",
    ),
    "generate": Command(
        help="let a model write down what it knows, as trees of dialogues",
        example="perennial generate train/recipes/tree_demo.yaml",
        module="train.generate",
    ),
    "chat": Command(
        help="ask a model something", example="perennial chat terrarium --image FILE.png --ask 'What do you see?'", module="train.chat"
    ),
    "evaluate": Command(
        help="measure what a model has learned and what it has lost",
        example="perennial evaluate runs/counting/checkpoints/step-120 --suite SUITE.yaml",
        module="train.evaluate.command",
    ),
    "report": Command(
        help="put evaluated runs side by side in one HTML page",
        example="perennial report runs/base runs/counting",
        module="train.evaluate.command",
        prefix="report_",
    ),
    "wise-ft": Command(
        help="go from the base to a tuned model in steps, measure each (WiSE-FT)",
        example="perennial wise-ft runs/counting --suite runs/terrarium/suite.yaml",
        module="train.companions",
        prefix="wise_ft_",
    ),
    "lora-scale": Command(
        help="scale an adapter, measure each step",
        example="perennial lora-scale runs/counting --suite runs/terrarium/suite.yaml --factor 0,0.5,1,1.5",
        module="train.companions",
        prefix="lora_scale_",
    ),
    "lines": Command(
        help="scale an update layer by layer, measure each step (LiNeS)",
        example="perennial lines runs/counting --suite runs/terrarium/suite.yaml",
        module="train.companions",
        prefix="lines_",
    ),
    "mix-logits": Command(
        help="mix the logits of base and adapter, measure each share",
        example="perennial mix-logits runs/counting --suite runs/terrarium/suite.yaml",
        module="train.companions",
        prefix="mix_logits_",
    ),
    "distil": Command(
        help="turn a siamese model into a plain one that loads anywhere, measure what that costs",
        example="perennial distil runs/counting_siamese --output runs/counting_plain --suite runs/terrarium/suite.yaml --target counting",
        module="train.student_command",
    ),
    "demo": Command(help="show all of it in a few minutes, without a GPU", example="perennial demo", module="train.demo"),
    "base": Command(help="make the Terrarium's base model again", example="perennial base", module="train.base"),
    "terrarium": Command(
        help="write the Terrarium's data to disk", example="perennial terrarium --output runs/world", module="train.terrarium"
    ),
}

DESCRIPTION = "Teaches LLaVA-style models new skills while keeping the old ones."
EPILOG = """\
Begin with:  perennial demo
Exit codes:  0 done, 1 the work failed, 2 the request was wrong, 75 stopped on request, to be continued
Set PERENNIAL_DEBUG=1 to see where an error comes from."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one sub-command; gives the exit code."""
    words = _without_launcher_words(sys.argv[1:] if arguments is None else arguments)
    known = _parser().parse_known_args(words[:1])[0] if words else None
    if known is None or known.command is None:
        _parser().print_help()
        return DONE if words else WRONG_REQUEST
    command = COMMANDS[known.command]
    try:
        return _run(known.command, command, words[1:])
    except (ValueError, FileNotFoundError) as error:
        return _fail(error, WRONG_REQUEST)
    except KeyboardInterrupt as interrupt:
        return _interrupted(interrupt)
    except Exception as error:  # noqa: BLE001 - the last door: everything else is a failure of the work, told in one line
        return _fail(error, FAILED)


def _run(name: str, command: Command, words: Sequence[str]) -> int:
    module = importlib.import_module(command.module)
    parser = argparse.ArgumentParser(
        prog=f"perennial {name}",
        description=f"{command.help[0].upper()}{command.help[1:]}.",
        epilog=f"example:\n  {command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    getattr(module, f"{command.prefix}add_arguments")(parser)
    words, overrides = _split_overrides(words)
    parsed = parser.parse_args(words)
    if overrides and not hasattr(parsed, "overrides"):
        parser.error(f"this command takes no recipe, so it has nothing to override: {' '.join(overrides)}")
    if overrides:
        parsed.overrides = [*overrides, *parsed.overrides]
    return int(getattr(module, f"{command.prefix}run")(parsed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="perennial", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands (each has its own --help)")
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.help, add_help=False)
    return parser


def _split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Parts `--section.key value` and `--section.key=value` from the other words; argparse knows no open set of options."""
    others, overrides, rest = [], [], list(words)
    while rest:
        word = rest.pop(0)
        if not (word.startswith("--") and "." in word.partition("=")[0]):
            others.append(word)
            continue
        overrides.append(word)
        if "=" not in word and rest:
            overrides.append(rest.pop(0))
    return others, overrides


def _without_launcher_words(words: Sequence[str]) -> list[str]:
    """Leaves out `--local_rank=N`, which the deepspeed launcher adds; ranks are read from the environment."""
    return [word for word in words if not word.startswith(("--local_rank=", "--local-rank="))]


def _fail(error: Exception, code: int) -> int:
    if os.environ.get("PERENNIAL_DEBUG"):
        raise error
    kind = "" if code == WRONG_REQUEST else f"{type(error).__name__}: "
    print(f"perennial: {kind}{error}", file=sys.stderr)
    if code == FAILED:
        print("Set PERENNIAL_DEBUG=1 to see where it comes from.", file=sys.stderr)
    return code


def _interrupted(interrupt: KeyboardInterrupt) -> int:
    """Commands that go on where they stopped, when called again, raise KeyboardInterrupt with a message that says so."""
    if os.environ.get("PERENNIAL_DEBUG"):
        raise interrupt
    message = str(interrupt)
    print(f"\nperennial: stopped{'; ' + message if message else ''}", file=sys.stderr)
    return RESUMABLE if message else FAILED
