"""From a plan to a finished tree folder: growth, exports, report."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.fingerprint import fingerprint
from data.index import cache_folder, states_of
from data.trees.dedup import Deduplicator
from data.trees.embed import load_embedder
from data.trees.engine import Embedder
from data.trees.export import choose, delete, paths, write
from data.trees.external import dialogues_of
from data.trees.filters import Filters
from data.trees.folder import TreeFolder, read_manifest
from data.trees.grow import Tools, first_questions, grow, systems
from data.trees.merge import check_plan, common, find_parts, merge
from data.trees.openers import Openers, derive, requests
from data.trees.plan import TreeConfig
from data.trees.progress import Bar
from data.trees.provenance import versions
from data.trees.reference import Reference, read_reference
from data.trees.report import Grown
from data.trees.report_page import PAGE, write_report
from data.trees.sift import sift
from data.trees.similarity import draw_histogram, nearest
from data.trees.writers import Writer

# Settings that do not decide what grows; children, turns and sampling stand in the extent, which may be larger the next time.
NOT_IDENTITY = {
    "shape", "children", "max_tokens", "temperature", "top_p", "engine", "export", "report", "max_rounds", "min_yield", "resume", "loss_on",
    "corpus",
}  # fmt: skip
READERS = {"llava": "llava", "sharegpt": "sharegpt", "messages": "messages", "parquet": "messages", "text": "text"}  # of exported files


def grow_tree(plan: TreeConfig, writer: Writer, folder: str | Path, *, progress: bool = True) -> dict[str, Any]:
    """Grows a tree in a folder, exports its dialogues, reports on it.

    A folder with unfinished growth of the same plan and model is continued, one with a smaller plan of the same kind extended; a finished
    one is only exported again.

    Returns:
        The report, with `folder`, `files` (by format) and `source`: the entry for a recipe's `data.sources`.

    Raises:
        ValueError: No usable chat template, turns too long for the model, or a folder with another tree.
        RuntimeError: Not one dialogue came out; the counts of what was dropped are in the message.
    """
    reference = read_reference(plan.report)  # first: a wrong path is not to be known after hours
    embed = embedder(plan, writer.embed)
    tools = tools_of(plan, writer, embed)
    _check_length(plan, tools.openers, writer)
    home = open_folder(plan, writer, tools.openers, folder)
    if plan.dedup.threshold is None:
        return _similarities(first_questions(plan, tools), embed, home.path)
    with _held(home, plan):
        if not home.is_complete:
            with _bar(plan, tools, progress) as watched:
                grow(plan, watched, home)
            delete(home.path)
        return publish(plan, home, embed or writer.embed, reference)


def tools_of(plan: TreeConfig, writer: Writer, embed: Embedder | None = None) -> Tools:
    """What a growth works with."""
    openers = derive(writer.tokenizer, systems=systems(plan), thinking=plan.thinking, end_ids=writer.engine.end_ids)
    return Tools(
        engine=writer.engine,
        tokenizer=writer.tokenizer,
        openers=openers,
        filters=Filters(plan.filters, openers.markers),
        dedup=partial(Deduplicator, plan.dedup, embed),
    )


def open_folder(plan: TreeConfig, writer: Writer, openers: Openers, folder: str | Path) -> TreeFolder:
    """The folder of a grown tree, with all that decides it."""
    identity = {
        "plan": settings(plan),
        "engine": plan.engine.kind,
        **writer.identity,
        "template_sha256": openers.template_hash,
    }
    return TreeFolder(folder, identity, extent_of(plan), _about(plan, writer.name))


def settings(plan: TreeConfig) -> dict[str, Any]:
    """What of a plan decides which turns are kept; files stand there by their content, so they may move."""
    values = plan.model_dump(mode="json", exclude=NOT_IDENTITY)
    files = [Path(file) for file in plan.filters.decontaminate]
    values["filters"]["decontaminate"] = [one.sha256 for one in fingerprint(files, cache_folder())]
    return values


def extent_of(plan: TreeConfig) -> dict[str, Any]:
    """How far a plan grows."""
    layers = [
        {"children": plan.children[layer]} | {name: plan.of(name, layer) for name in ("max_tokens", "temperature", "top_p")}
        for layer in range(plan.depth)
    ]
    return {"layers": layers, "sizes": list(plan.layer_sizes), "max_rounds": plan.max_rounds, "min_yield": plan.min_yield}


def sift_corpus(
    plan: TreeConfig, folder: str | Path, *, tokenizer: Any = None, states: Embedder | None = None, progress: bool = True
) -> dict[str, Any]:
    """Takes an external corpus through the same filters, exports and report as a grown tree; returns and raises as `grow_tree`."""

    assert plan.corpus is not None
    reference = read_reference(plan.report)
    embed = embedder(plan, states)
    how = plan.corpus.model_dump(mode="json", exclude={"path", "weight", "share", "loss_on", "turns"})
    content = [one.sha256 for one in states_of(plan.corpus, cache_folder())]
    home = TreeFolder(folder, {"plan": settings(plan), "corpus": how | {"sha256": content}}, {}, _about(plan, Path(plan.corpus.path).name))
    skipped: Counter[str] = Counter()
    corpus = dialogues_of(plan.corpus, skipped, tokenizer, plan.seed)
    if plan.dedup.threshold is None:
        return _similarities([path[0].text for path in islice(corpus, 2000)], embed, home.path)
    with _held(home, plan):
        if not home.is_complete:
            bar = tqdm(corpus, desc="sifting", unit="dialogue", disable=not progress, dynamic_ncols=True)
            sift(bar, Filters(plan.filters, ()), Deduplicator(plan.dedup, embed), home)
            home.about["skipped"] = dict(skipped)
            delete(home.path)
        return publish(plan, home, embed or states, reference)


def merge_parts(plan: TreeConfig, folder: str | Path, *, states: Embedder | None = None) -> dict[str, Any]:
    """Joins the parts below a folder that grew apart into the tree of that folder; returns and raises as `grow_tree`."""
    reference = read_reference(plan.report)
    if plan.dedup.threshold is None:
        raise ValueError(
            "tree.dedup.threshold is null, which draws a histogram before anything grows; give the number by which the parts grew"
        )
    parts = find_parts(folder)
    first = read_manifest(parts[0])
    check_plan(settings(plan), extent_of(plan), parts)
    embed = embedder(plan, states)
    extents = [read_manifest(part)["extents"][-1] for part in parts]
    sizes = [sum(layer) for layer in zip(*(extent["sizes"] for extent in extents), strict=True)]
    home = TreeFolder(folder, common(first), extents[0] | {"sizes": sizes, "parts": extents}, _about(plan, first["model"]))
    with _held(home, plan):
        if not home.is_complete:
            merge(parts, home, Deduplicator(plan.dedup, embed))
            delete(home.path)
        return publish(plan, home, embed or states, reference)


def publish(plan: TreeConfig, home: TreeFolder, embed: Embedder | None, reference: Reference | None) -> dict[str, Any]:
    """Writes exports and report of what a folder holds; notes that it is complete."""
    tree = home.tree
    dialogues = list(paths(tree.nodes))
    if not dialogues:
        dropped = sum((Counter(layer["dropped"]) for layer in tree.layers), Counter[str]())
        sampled = sum(layer["sampled"] for layer in tree.layers)
        what = f"there is no dialogue (of {sampled} turns dropped: {dict(dropped)})"
        raise RuntimeError(f"{what}; {_advice(dropped)}. {home.path} keeps what grew")
    exported = choose(dialogues, plan.export.sample, plan.seed)
    files = write(plan.export.formats, exported, home.path, plan.export.weights)
    home.finish(dialogues=len(exported))
    grown = Grown(plan=plan.summary(), tree=tree, dialogues=dialogues, exported=exported, manifest=home.manifest)
    report = write_report(grown, home.path, config=plan.report, embed=embed, reference=reference)
    return {
        **report,
        "folder": str(home.path),
        "files": {name: str(path) for name, path in files.items()},
        "page": str(home.path / PAGE),
        "source": _source(plan, home.path, files),
    }


def _source(plan: TreeConfig, folder: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """The entry of `data.sources` for what was exported: the tree itself, unless a file holds less of it or weighs it otherwise."""
    is_whole = plan.export.sample is None and plan.export.weights == "shared"
    name = None if is_whole else next(iter(files), None)
    if name is None:
        return {"path": str(folder), "format": "tree", "loss_on": plan.loss_on}
    return {"path": str(files[name]), "format": READERS[name]} | ({"loss_on": plan.loss_on} if name != "text" else {})


def embedder(plan: TreeConfig, states: Embedder | None) -> Embedder | None:
    """What compares meanings, as the plan says; None: nothing does."""
    name = plan.dedup.embeddings
    if name == "none":
        return None
    if name != "states":
        return load_embedder(name)
    if states is None:
        raise ValueError(
            "tree.dedup.embeddings is states, but no model in this process writes; name a sentence-transformers model, or set it to none"
        )
    return states


@contextmanager
def _held(home: TreeFolder, plan: TreeConfig) -> Iterator[None]:
    home.begin(plan.resume)
    try:
        yield
    finally:
        home.close()


@contextmanager
def _bar(plan: TreeConfig, tools: Tools, enabled: bool) -> Iterator[Tools]:

    bar = Bar(plan, enabled=enabled)
    try:
        yield replace(tools, progress=bar)
    finally:
        bar.close()


def _similarities(questions: Sequence[str], embed: Embedder | None, folder: Path) -> dict[str, Any]:
    """Draws how alike first questions are, so that a threshold can be chosen; commits nothing."""
    assert embed is not None, "the plan asks for no histogram without embeddings"
    if len(questions) < 2:
        raise RuntimeError(f"there are {len(questions)} first questions of use, too few to compare; lower tree.temperature")
    path = draw_histogram(nearest(embed(questions)), folder / "similarities.png")
    return {"questions": len(questions), "histogram": str(path), "next": "choose tree.dedup.threshold by it, then give the command again"}


def _check_length(plan: TreeConfig, openers: Openers, writer: Writer) -> None:
    """Refuses a plan whose dialogues the model cannot hold."""
    marks = [*openers.roots.values(), *(openers.after[plan.role(layer)] for layer in range(plan.depth - 1))]
    lengths = [len(request.ids) for request in requests(marks, [0] * len(marks), writer.tokenizer)]
    roots = len(openers.roots)
    around = max(lengths[:roots]) + sum(lengths[roots:])
    turns = [plan.of("max_tokens", layer) for layer in range(plan.depth)]
    if writer.positions is not None and around + sum(turns) > writer.positions:
        raise ValueError(
            f"tree.max_tokens {turns} makes dialogues of up to {around + sum(turns)} tokens "
            f"({around} of them the template's), the model has {writer.positions} positions; make turns shorter or the tree shallower"
        )


def _about(plan: TreeConfig, model: str) -> dict[str, Any]:

    return {"model": model, "seed": plan.seed, "versions": versions()}


def _advice(dropped: Mapping[str, int]) -> str:
    most = max(dropped, key=lambda reason: dropped[reason]) if dropped else None
    if most == "unfinished":
        return "raise tree.max_tokens, or use a model that was trained on chats with this template"
    if most in ("exact_duplicate", "near_duplicate", "same_meaning"):
        return "raise tree.temperature, or tree.dedup.threshold"
    return "use a model that was trained on chats with this template, or lower tree.temperature"
