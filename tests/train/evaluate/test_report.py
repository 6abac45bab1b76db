"""The report: its numbers, its sentence, its one self-contained page."""

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from train.evaluate.comparison import points, rows, sentence
from train.evaluate.report import markdown_table, render, table
from train.evaluate.samples import choose


class Resources(HTMLParser):
    """Collects whatever a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, value or "") for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        assert tag not in ("script", "link", "iframe", "object")


@pytest.fixture(scope="module")
def page(comparison: tuple[list[dict], dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs, base = comparison
    return render(runs, base, tmp_path_factory.mktemp("page") / "report", title="Counting <learned>", context={"seed": 3})


def test_a_row_holds_before_after_and_changes_with_their_signs(comparison: tuple[list[dict], dict]) -> None:
    full, sa_proj = rows(*comparison)[:2]
    assert (full["target_before"], full["target_after"]) == (0.0, 1.0)
    assert (full["text_change"], full["visual_change"]) == (0.0, -1.0)
    assert (sa_proj["text_change"], sa_proj["visual_change"]) == (0.0, 0.0)
    assert (full["number_probability_before"], full["number_probability_after"]) == (0.001, 0.25)
    assert full["seconds"] == 5.0
    assert full["flips"] == {
        "held_out_text": {"n": 10, "right_to_wrong": 0, "wrong_to_right": 0},
        "held_out_visual": {"n": 6, "right_to_wrong": 6, "wrong_to_right": 0},
    }


def test_the_sentence_names_who_kept_most_and_who_least(comparison: tuple[list[dict], dict]) -> None:
    text = sentence(*comparison)
    assert "from 0.0 % to 100.0 %" in text
    assert "sa_proj kept most of what the model knew (text 0.0, images 0.0 points), full least (text 0.0, images −100.0 points)" in text
    assert "from 0.10 % to 0.20 % with sa_proj and 25.00 % with full" in text
    assert text.count(".") - len(re.findall(r"\d\.\d", text)) == 1


def test_one_run_alone_is_reported_without_a_comparison(comparison: tuple[list[dict], dict]) -> None:
    runs, base = comparison
    assert "full changed held-out answers by text 0.0, images −100.0 points" in sentence(runs[:1], base)


def test_points_carry_their_sign() -> None:
    assert [points(value) for value in (-0.125, 0.004, 0.00001, -0.00001, None)] == ["−12.5", "+0.4", "0.0", "0.0", "–"]


def test_the_tables_show_every_run_under_its_group(comparison: tuple[list[dict], dict]) -> None:
    text = table(*comparison)
    assert [line.split("  ")[0] for line in text.splitlines()[2:]] == ["(matched)", "full", "sa_proj", "(fixed rate)", "full", "sa_proj"]
    assert len({line.rstrip()[-1] for line in text.splitlines() if "→" in line}) == 1, "columns are aligned"
    lines = markdown_table(*comparison).splitlines()
    assert len(lines) == 6 and len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| matched | full | 0.0003 | 0.0 → 100.0 | 0.0 | −100.0 | 0.10 → 25.00 | 5 |"


def test_the_page_loads_nothing_from_outside(page: Path) -> None:
    reader = Resources()
    html = page.read_text(encoding="utf-8")
    reader.feed(html)
    assert len(reader.found) > 3, "figures with pictures of questions"
    assert all(tag == "img" and value.startswith("data:image/png;base64,") for tag, value in reader.found)
    assert not re.search(r"https?://|url\(|@import|<script", html)


def test_the_page_has_the_numbers_the_samples_and_the_settings(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    for text in ("0.0 → 100.0", "−100.0", "fixed rate", "The square is red.", "There are 5 circles.", "20.0 %", "<dt>seed</dt><dd>3</dd>"):
        assert text in html, text


def test_what_a_model_or_a_user_wrote_cannot_become_markup(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert "<b>circle</b>" not in html and "&lt;b&gt;circle&lt;/b&gt; &amp; more" in html
    assert "Counting &lt;learned&gt;" in html


def test_the_numbers_are_written_as_json_without_answers_or_paths(page: Path) -> None:
    text = (page.parent / "report.json").read_text(encoding="utf-8")
    found = json.loads(text)
    assert [row["label"] for row in found["rows"]] == ["full, matched", "sa_proj, matched", "full, fixed rate", "sa_proj, fixed rate"]
    assert found["runs"]["full, matched"]["tasks"]["colour"]["accuracy"] == 0.0
    assert "answers" not in text and "/" not in text


def test_the_figures_are_pictures_of_some_size(page: Path) -> None:
    from PIL import Image

    for name in ("frontier", "bars", "drift"):
        with Image.open(page.parent / f"{name}.png") as figure:
            assert figure.width > 1000 and figure.height > 200
    assert not list(page.parent.glob(".*")), "nothing unfinished is left"


def test_labels_of_points_on_one_spot_do_not_cover_each_other() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from train.evaluate.labels import place_labels

    figure = Figure(figsize=(6, 4))
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    panel.scatter(spots := [1.0, 1.01, 1.02, 1.0, 2.0], heights := [1.0, 1.0, 1.01, 1.02, 2.0])
    figure.canvas.draw()
    place_labels(panel, list(zip(spots, heights, strict=True)), ["full + trees", "sa_proj", "mlp_gate_up", "full", "llm"], ["black"] * 5)
    figure.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in panel.texts]  # without the leading lines
    assert len(boxes) == 5
    assert not any(one.overlaps(other) for at, one in enumerate(boxes) for other in boxes[at + 1 :])


def test_samples_show_first_what_the_ways_answer_differently(comparison: tuple[list[dict], dict]) -> None:
    runs, base = comparison
    visual = choose(runs, base, "held_out_visual", most=3)
    assert len(visual) == 3 and all(sample["mixed"] and sample["before_correct"] for sample in visual)
    assert [(entry["correct"], entry["ways"]) for entry in visual[0]["after"]] == [
        (False, "matched: full · fixed rate: full"),
        (True, "matched: sa_proj · fixed rate: sa_proj"),
    ]
    assert choose(runs, base, "held_out_text") == [], "nothing was lost there"
    assert [entry["ways"] for entry in choose(runs, base, "target")[0]["after"]] == ["every way"]


def test_an_evaluation_of_other_questions_is_refused_by_name(comparison: tuple[list[dict], dict], tmp_path: Path) -> None:
    runs, base = copy.deepcopy(comparison)
    runs[1]["evaluation"]["tasks"]["facts"]["answers"].pop()
    with pytest.raises(ValueError, match="run 'sa_proj', task 'facts'"):
        render(runs, base, tmp_path, title="", context={})
    del runs[1]["evaluation"]["tasks"]["facts"]
    with pytest.raises(ValueError, match="run 'sa_proj': tasks facts"):
        render(runs, base, tmp_path, title="", context={})


def test_a_run_of_which_little_is_known_is_reported_with_dashes(comparison: tuple[list[dict], dict], tmp_path: Path) -> None:
    runs, base = comparison
    base = base | {"number_token_probability": None}
    bare = {"name": "mine", "evaluation": runs[0]["evaluation"] | {"number_token_probability": None}}
    html = render([bare], base, tmp_path, title="Bare", context={}).read_text(encoding="utf-8")
    assert "<td>mine</td><td>–</td>" in html and not (tmp_path / "drift.png").exists()
