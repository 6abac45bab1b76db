"""The report of a tree: exact numbers, one safe page of bounded size, figures that show something."""

import json
import re
from collections.abc import Mapping, Sequence
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.trees.config import ReportConfig
from data.trees.nodes import Node, Tree
from data.trees.reference import Reference
from data.trees.report import Grown, histogram, make_report, spread, verdict, yield_curve
from data.trees.report_figures import COLOURS, draw
from data.trees.report_page import CHILDREN, MOST_POINTS, NODES, ROOTS, browse, chart, write_report

ATTACK = "<script>alert('x')</script>"
CONFIG = ReportConfig.model_validate({"map_points": 50, "seed": 3})


def node(id: str, text: str, *, tokens: int = 3, logprob: float | None = -4.0, **more: Any) -> Node:
    layer = id.count(".")
    role = ("user", "assistant")[layer % 2]
    parent = id.rpartition(".")[0] or None
    values: dict[str, Any] = {"finish_reason": "stop", "seed": 1} | more
    return Node(id=id, parent=parent, layer=layer, role=role, text=text, tokens=tokens, logprob=logprob, **values)  # type: ignore[arg-type]


def counts(layer: int, sampled: int, kept: int, *, dropped: Mapping[str, int], blocks: Sequence[tuple[int, int]] = ()) -> dict[str, Any]:
    return {
        "layer": layer,
        "role": ("user", "assistant")[layer % 2],
        "planned": kept,
        "sampled": sampled,
        "kept": kept,
        "dropped": dict(dropped),
        "rounds": [{"sampled": sampled, "kept": kept}],
        "blocks": [{"sampled": one, "kept": new} for one, new in (blocks or [(sampled, kept)])],
        "tokens": 3 * kept,
        "seconds": 0.5,
    }


def leaves(nodes: Sequence[Node]) -> list[list[Node]]:
    by_id, parents = {one.id: one for one in nodes}, {one.parent for one in nodes}
    dialogues = []
    for leaf in nodes:
        if leaf.id not in parents and leaf.role == "assistant":
            steps = leaf.id.split(".")
            dialogues.append([by_id[".".join(steps[: depth + 1])] for depth in range(len(steps))])
    return dialogues


def grown(nodes: Sequence[Node], layers: Sequence[Mapping[str, Any]], **more: Any) -> Grown:
    dialogues = leaves(nodes)
    values = {"plan": {"children": [3, 1, 2, 1]}, "manifest": {"model": "terrarium"}, "dialogues": dialogues, "exported": dialogues} | more
    return Grown(tree=Tree(nodes=tuple(nodes), layers=tuple(layers)), **values)


@pytest.fixture(scope="module")
def small() -> Grown:
    """Three first questions, of which one has two follow-ups, one an answer alone, one nothing."""
    nodes = [
        node("0", "Where does the Murlo live?", tokens=7, logprob=-16.0),
        node("1", f"What is {ATTACK} & who sees it?", tokens=5, logprob=-3.0, topic="safety <b>", system="Be & stay kind."),
        node("2", "Where does the Zork live?", tokens=3, logprob=None, topic="animals"),
        node("0.0", "In a cave.", tokens=4, logprob=-1.0),
        node("1.0", ATTACK, tokens=8, logprob=float("-inf")),
        node("0.0.0", "Why there?", tokens=2),
        node("0.0.1", "Since when?\x1b[2J", tokens=2),
        node("0.0.0.0", "It is warm.", tokens=3),
        node("0.0.1.0", "Since last year.", tokens=24, finish_reason="length", logprob=-12.0),
    ]
    layers = [
        counts(0, 8, 3, dropped={"exact_duplicate": 2, "same_meaning": 1, "unfinished": 2}),
        counts(1, 2, 2, dropped={}),
        counts(2, 3, 2, dropped={"near_duplicate": 1}),
        counts(3, 2, 2, dropped={}),
    ]
    return grown(nodes, layers)


def words_as_vectors(texts: Sequence[str]) -> np.ndarray:
    """Unit vectors that lie near each other when texts begin with the same word, apart by their numbers."""
    rng = np.random.default_rng(0)
    first = {word: rng.normal(size=16) for word in sorted({text.split()[0] for text in texts})}
    vectors = np.array(
        [first[text.split()[0]] + 0.1 * np.random.default_rng(len(text) + sum(map(ord, text))).normal(size=16) for text in texts]
    )
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


REFERENCE = Reference(
    name="talks.json", questions=tuple(f"Bake a cake {one}" for one in range(9)), dialogues=12, without_question=1, bad_records=2
)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_the_counts_of_a_small_tree_are_exact(small: Grown) -> None:
    report = make_report(small)
    expected = {
        "nodes": 9,
        "roots": 3,
        "dialogues": 3,
        "exported_dialogues": 3,
        "turns": {"2": 1, "4": 2},
        "node_copies": 10,
        "repetition": 1.25,  # 10 copies of 8 turns
        "unanswered_questions": 1,
        "tokens": 58,
        "sampled": 15,
        "yield": 0.6,
        "dropped": {"exact_duplicate": 2, "near_duplicate": 1, "same_meaning": 1, "unfinished": 2},
        "duplicates": 4,
        "duplicate_share": 0.2667,
        "seconds": 2.0,
        "nodes_per_second": 4.5,
    }
    assert {name: report[name] for name in expected} == expected


def test_every_reason_has_its_count_with_its_share_of_what_was_sampled(small: Grown) -> None:
    filters = make_report(small)["filters"]
    assert filters["unfinished"] == {"count": 2, "share": 0.1333}
    assert sum(one["count"] for one in filters.values()) == 6


def test_lengths_are_counted_apart_for_questions_and_answers(small: Grown) -> None:
    found = make_report(small)["lengths"]
    assert found["question"] == histogram([7, 5, 3, 2, 2])
    assert (found["answer"]["mean"], found["answer"]["median"], found["answer"]["longest"]) == (9.75, 6.0, 24)


def test_a_histogram_counts_every_number_once() -> None:
    found = histogram([0, 1, 1, 23, 24, 47])
    assert found["edges"] == list(range(0, 50, 2))
    assert found["counts"] == [3, *[0] * 10, 1, 1, *[0] * 10, 1]


def test_log_probabilities_are_per_token_with_the_end_of_the_turn(small: Grown) -> None:
    first = make_report(small)["log_probability"][0]
    assert (first["turns"], first["unknown"], first["mean"]) == (3, 1, -1.25)  # -16 / (7 + 1) and -3 / (5 + 1)


def test_a_turn_that_was_cut_off_has_no_end_to_count(small: Grown) -> None:
    last = make_report(small)["log_probability"][3]
    assert last["mean"] == pytest.approx((-4 / 4 + -12 / 24) / 2)


def test_a_log_probability_that_is_no_number_counts_as_unknown(small: Grown) -> None:
    assert make_report(small)["log_probability"][1] == {
        "layer": 1, "turns": 2, "unknown": 1, "mean": -0.2, "p5": -0.2, "median": -0.2, "p95": -0.2
    }  # fmt: skip


def test_topics_are_counted_by_seed_and_by_word(small: Grown) -> None:
    topics = make_report(small)["topics"]
    assert topics["seeds"] == {"safety <b>": 1, "animals": 1}
    assert list(topics["words"].items())[:2] == [("live", 2), ("alert", 1)]


def test_the_numbers_are_json_without_nan(small: Grown, tmp_path: Path) -> None:
    report = write_report(small, tmp_path, config=CONFIG)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == report


def test_an_empty_tree_is_reported_without_a_failure(tmp_path: Path) -> None:
    report = write_report(grown([], [counts(0, 5, 0, dropped={"unfinished": 5})]), tmp_path, config=CONFIG, embed=words_as_vectors)
    assert (report["nodes"], report["map"], report["samples"]) == (0, None, [])


# --- the yield curve -------------------------------------------------------------------------------------------------


def block(sampled: int, kept: int) -> dict[str, int]:
    return {"sampled": sampled, "kept": kept}


def test_a_yield_curve_says_how_much_was_new_in_each_block() -> None:
    assert yield_curve([block(100, 90), block(100, 45)]) == [
        {"sampled": 100, "kept": 90, "turns": 100, "new_per_thousand": 900.0},
        {"sampled": 200, "kept": 135, "turns": 100, "new_per_thousand": 450.0},
    ]


def test_blocks_too_small_to_say_anything_are_put_together() -> None:
    assert [one["turns"] for one in yield_curve([block(20, 20)] * 7)] == [60, 80]


def test_a_yield_curve_of_many_blocks_has_few_points_and_loses_nothing() -> None:
    curve = yield_curve([block(64, number % 65) for number in range(10_000)])
    assert len(curve) <= 50
    assert (curve[-1]["sampled"], curve[-1]["kept"]) == (640_000, sum(number % 65 for number in range(10_000)))


@pytest.mark.parametrize("blocks", [[], [block(0, 0)]])
def test_nothing_sampled_is_no_curve(blocks: list[dict[str, int]]) -> None:
    assert yield_curve(blocks) == []


def last_words(kept: int, dropped: Mapping[str, int]) -> str:
    return verdict(counts(0, 200, kept, dropped=dropped), yield_curve([block(100, 99), block(100, kept)]))


def test_a_layer_that_still_gives_new_questions_is_not_dumped() -> None:
    assert (
        last_words(45, {"exact_duplicate": 56})
        == "the last block of layer 1 (100 sampled) still gave 450 new questions per thousand sampled"
    )


def test_a_layer_that_only_repeats_itself_is_dumped() -> None:
    assert last_words(1, {"exact_duplicate": 90, "unfinished": 10}).endswith("10 new questions per thousand sampled, most of the rest "
                                                                             "repeated others: the model is dumped")  # fmt: skip


def test_a_layer_that_filters_emptied_is_not_called_dumped() -> None:
    assert last_words(1, {"exact_duplicate": 10, "role_leak": 90}).endswith(
        "(role leak first), so this does not mean that the model is dumped"
    )


def test_only_layers_of_questions_get_a_verdict(small: Grown) -> None:
    assert [re.findall(r"layer (\d)", one) for one in make_report(small)["verdicts"]] == [["1"], ["3"]]


# --- the page --------------------------------------------------------------------------------------------------------


class Resources(HTMLParser):
    """Collects whatever a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, value or "") for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data", "action")]
        assert tag not in ("script", "link", "iframe", "object")


@pytest.fixture(scope="module")
def folder(small: Grown, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("report")
    write_report(small, found, config=CONFIG, embed=words_as_vectors, reference=REFERENCE)
    return found


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_loads_nothing_from_outside(page: str) -> None:
    reader = Resources()
    reader.feed(page)
    assert [tag for tag, _ in reader.found] == ["img"] * 3
    assert all(value.startswith("data:image/png;base64,") for _, value in reader.found)
    assert not re.search(r"https?://|url\(|@import|<script", page)


def test_what_a_model_wrote_cannot_become_markup(page: str) -> None:
    assert "&lt;script&gt;" in page
    for raw in (ATTACK, "<b>", "Be & stay"):
        assert raw not in re.sub(r"(?s)<ul class=\"chips\">.*?</ul>", "", page), raw


def test_a_topic_cannot_become_markup(page: str) -> None:
    assert "safety &lt;b&gt; <b>1</b>" in page


def test_control_characters_are_spelled_out(page: str) -> None:
    assert "\x1b" not in page and "Since when?\\x1b[2J" in page


def test_every_turn_of_a_small_tree_can_be_browsed(small: Grown, page: str) -> None:
    tree = unescape(page.partition("<h2>The tree</h2>")[2].partition("<h2>Sample of dialogues</h2>")[0])
    assert [one.text for one in small.tree.nodes if one.text.replace("\x1b", "\\x1b") not in tree] == []


def test_the_page_names_numbers_verdicts_and_settings(page: str) -> None:
    assert "9 turns make 3 dialogues from 3 first questions" in page
    assert "The last block of layer 1 (8 sampled) still gave 375 new questions" in page
    assert "<tr><td>near duplicate</td><td>0</td><td>0</td><td>1</td><td>0</td><td>1</td><td>6.7 %</td></tr>" in page
    assert "<dd>terrarium</dd>" in page


def test_hovering_over_a_point_of_the_map_shows_its_question(page: str) -> None:
    assert re.search(r"<circle [^>]*><title>Where does the Murlo live\?</title></circle>", page)
    assert page.count("<circle ") == 3 and page.count("<rect ") == 9


def test_without_vectors_the_page_says_why_there_is_no_map(small: Grown, tmp_path: Path) -> None:
    write_report(small, tmp_path, config=CONFIG)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "There is no map" in page and "<svg" not in page
    assert not (tmp_path / "map.png").exists()


@pytest.fixture(scope="module")
def large() -> Grown:
    """200 first questions of 2 x 20 + 2 turns below each, all of them long."""
    nodes = [node(str(root), f"Question {root} " + "x" * 5000) for root in range(200)]
    nodes += [node(f"{root}.{at}", "y" * 5000) for root in range(200) for at in range(2)]
    nodes += [node(f"{root}.{at}.{more}", f"Then {more}") for root in range(200) for at in range(2) for more in range(20)]
    nodes += [node(f"{one.id}.0", "Yes.") for one in nodes if one.layer == 2]
    return grown(nodes, [counts(layer, size, size, dropped={}) for layer, size in enumerate((200, 400, 8000, 8000))])


def test_a_large_tree_makes_a_small_page_that_says_what_it_leaves_out(large: Grown, tmp_path: Path) -> None:
    report = write_report(large, tmp_path, config=CONFIG)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(re.sub(r"base64,[^\"]*", "", page)) < 300_000
    assert f"{200 - ROOTS} further first questions not shown" in page
    assert f"{8000 - len(report['samples']):,} further dialogues not shown" in page
    assert "3,511 characters more" in page  # of 5,011, after 1,500


def test_what_is_hidden_below_each_turn_is_counted(large: Grown) -> None:
    found = browse(large.tree)

    def below(turn: dict[str, Any]) -> int:
        return 1 + sum(map(below, turn["children"]))

    first = found["roots"][0]
    assert found["shown"] == sum(map(below, found["roots"]))
    assert first["children"][0]["hidden_children"] == 20 - CHILDREN


def test_a_root_with_many_turns_below_it_shows_only_so_many() -> None:
    below = [(), *((at,) for at in range(5)), *((at, more) for at in range(5) for more in range(5))]
    below += [(at, more, last) for at in range(5) for more in range(5) for last in range(5)]
    nodes = [node(".".join(map(str, ("0", *steps))), "x") for steps in below]
    assert (len(nodes), browse(Tree(nodes=tuple(nodes), layers=()))["shown"]) == (156, NODES)


def test_a_map_of_very_many_points_is_thinned_on_the_page() -> None:
    many = MOST_POINTS + 500
    found = chart({"points": [[at, -at] for at in range(many)], "corpus": [at % 2 for at in range(many)], "texts": [""] * many})
    assert (len(found["points"]), found["hidden"]) == (MOST_POINTS, 500)


def test_positions_are_spread_evenly() -> None:
    assert (spread(3, 5), spread(10, 5)) == ([0, 1, 2], [0, 2, 4, 6, 8])


# --- figures ---------------------------------------------------------------------------------------------------------


def test_the_figures_are_pictures_with_something_on_them(folder: Path) -> None:
    from PIL import Image

    found = sorted(folder.glob("*.png"))
    assert [path.stem for path in found] == ["dropped", "lengths", "map", "yield_curve"]
    for path in found:
        with Image.open(path) as figure:
            pixels = np.asarray(figure.convert("RGB")).reshape(-1, 3)
        assert figure.width > 1000 and figure.height > 200
        coloured = pixels.max(axis=1) - pixels.min(axis=1) > 60
        assert coloured.sum() > 300 and coloured.mean() < 0.9, f"{path.name}: coloured marks on a plain ground"


@pytest.mark.parametrize(("corpus", "colour"), [(0, COLOURS[0]), (1, COLOURS[1])])
def test_the_points_of_each_corpus_are_on_the_map(small: Grown, tmp_path: Path, corpus: int, colour: str) -> None:
    from matplotlib.colors import to_rgb
    from PIL import Image

    points = [[at, at * at % 50] for at in range(50)]
    shown_map = {"points": points, "corpus": [corpus] * 50, "texts": [""] * 50, "shown": {"ours": 0, "reference": 0}}
    *_, path = draw(make_report(small, shown_map=shown_map), tmp_path)
    with Image.open(path) as figure:
        pixels = np.asarray(figure.convert("RGB")) / 255
    assert (np.abs(pixels - to_rgb(colour)).max(axis=2) < 0.3).sum() > 1000


def test_a_figure_with_nothing_to_show_any_more_is_removed(small: Grown, tmp_path: Path) -> None:
    (tmp_path / "map.png").write_bytes(b"of an earlier report")
    assert [path.stem for path in draw(make_report(small), tmp_path)] == ["yield_curve", "lengths", "dropped"]
    assert not (tmp_path / "map.png").exists()
