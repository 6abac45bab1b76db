"""`perennial chat`: answers that appear as they are written, cut short, drawn, searched for; who gave their tokens."""

import builtins
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import train.evaluate.generate as generate
from data.conversation import Conversation, Turn
from data.preview_page import visible
from model.build import load_pair
from model.identity import fingerprint
from model.processor import tokenizer_of
from model.shares import Share
from model.tuning import choose_what_trains
from train import chat, checkpoint
from train.chat import PLAIN, SCALE, Dialogue, Shown, table
from train.cli import main
from train.config import make_recipe
from train.evaluate.generate import Answer, Decoding, Request, answer

QUESTION = "What is two plus five?"


def request(question: str = QUESTION, max_tokens: int = 12) -> Request:
    turns = (Turn(role="user", text=question), Turn(role="assistant", text=""))
    return Request(conversation=Conversation(id="0", turns=turns), max_tokens=max_tokens)


@pytest.fixture(scope="module")
def siamese_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved siamese model whose twin differs from its base."""
    section = {"base": str(tiny_folder), "preset": "llm_blocks", "adapter": {"kind": "lora", "rank": 4}, "method": "siamese"}
    config = make_recipe({"model": section}).model
    assert config is not None
    model, processor = load_pair(tiny_folder)
    told = {"model": config.model_dump(mode="json"), "seed": 0, "fingerprint": fingerprint(model)}
    manifest, _ = choose_what_trains(model, config, steps=1, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    folder = tmp_path_factory.mktemp("siamese") / "model"
    state = checkpoint.trainable_state(model, manifest, "fp32")
    return checkpoint.save_trainable(model, processor, folder, dtype="fp32", state=state, base=told)


@pytest.fixture(params=["tiny_folder", "siamese_folder"])
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A plain model, a siamese one."""
    return load_pair(request.getfixturevalue(request.param))


def test_an_answer_comes_piece_by_piece_and_is_the_one_that_comes_at_once(pair: tuple[Any, Any]) -> None:
    pieces: list[str] = []
    told = Dialogue(*pair, max_tokens=12).ask(QUESTION, pieces.append)
    assert len(pieces) > 1
    assert "".join(pieces) == told == answer(*pair, [request()], progress=False)[0].text


def shown_of(tokenizer: Any, ids: list[int]) -> list[str]:
    pieces: list[str] = []
    shown = Shown(tokenizer, pieces.append)
    shown.put(torch.tensor([[1, 2, 3]]))
    for one in ids:
        shown.put(torch.tensor([one]))
    shown.end()
    assert shown.text == "".join(pieces)
    return pieces


@pytest.fixture(scope="module")
def sentencepiece() -> Any:
    """A tokenizer that marks spaces as SentencePiece does, drops a text's first one, falls back to bytes."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "▁if", "▁it", "▁▁", "▁rains", ":", "\n", "。", "雨", *(f"<0x{byte:02X}>" for byte in range(256))]
    made = Tokenizer(models.BPE(vocab={word: at for at, word in enumerate(words)}, merges=[], unk_token="<unk>", byte_fallback=True))
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def test_an_indented_line_keeps_its_spaces(sentencepiece: Any) -> None:
    ids = sentencepiece.convert_tokens_to_ids(["▁if", "▁it", "▁rains", ":", "\n", "▁▁", "▁it", "▁rains", "\n"])
    assert "".join(shown_of(sentencepiece, ids)) == "if it rains:\n   it rains"


def test_no_half_character_is_shown(sentencepiece: Any) -> None:
    ids = sentencepiece.convert_tokens_to_ids(["▁if", "▁it", *(f"<0x{byte:02X}>" for byte in "雨".encode())])
    assert shown_of(sentencepiece, ids) == ["if", " it雨"]


def test_a_text_without_spaces_does_not_wait_for_its_end(sentencepiece: Any) -> None:
    pieces = shown_of(sentencepiece, sentencepiece.convert_tokens_to_ids(["雨"] * 30))
    assert "".join(pieces) == "雨" * 30
    assert len(pieces) > 10


Cut = Callable[..., list[Conversation]]


@pytest.fixture
def cut_short(monkeypatch: pytest.MonkeyPatch) -> Cut:
    """Lets the first answer be cut short by Ctrl-C once some text is written; gives what was asked."""

    def prepare(written: str) -> list[Conversation]:
        asked: list[Conversation] = []

        def fake(_: Any, processor: Any, requests: list[Request], *, progress: bool, decoding: Decoding) -> list[Answer]:
            asked.append(requests[0].conversation)
            if len(asked) == 1:
                decoding.streamer.put(torch.tensor([[1]]))
                decoding.streamer.put(torch.tensor(tokenizer_of(processor)(written, add_special_tokens=False)["input_ids"]))
                signal.raise_signal(signal.SIGINT)
            return [Answer(text="At once.", token_ids=(1,))]

        monkeypatch.setattr(generate, "answer", fake)
        return asked

    return prepare


def test_what_was_shown_of_an_answer_cut_short_stays_in_the_dialogue(tiny: tuple[Any, Any], cut_short: Cut) -> None:
    asked, shown = cut_short("The square is blue."), list[str]()
    dialogue = Dialogue(*tiny, max_tokens=9)
    with pytest.raises(KeyboardInterrupt):
        dialogue.ask("Who?", shown.append)
    dialogue.ask("Why?")
    assert shown == ["The square is"]
    assert [turn.text for turn in asked[1].turns] == ["Who?", "The square is", "Why?", ""]


def test_a_question_without_a_word_in_answer_leaves_nothing_behind(tiny: tuple[Any, Any], cut_short: Cut) -> None:
    asked = cut_short("")
    dialogue = Dialogue(*tiny, max_tokens=9, images=[Path("a.png")])
    with pytest.raises(KeyboardInterrupt):
        dialogue.ask("Who?")
    dialogue.ask("Why?")
    assert [turn.text for turn in asked[1].turns] == ["<image>\nWhy?", ""]


def typed(monkeypatch: pytest.MonkeyPatch, lines: list[Any], *, keyboard: bool) -> None:
    def read(_: str) -> str:
        line = next(given)
        if isinstance(line, str):
            return line
        raise line

    given: Iterator[Any] = iter(lines)
    monkeypatch.setattr(builtins, "input", read)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: keyboard, raising=False)


def test_at_the_keyboard_the_dialogue_goes_on_until_ctrl_c_comes_at_the_prompt(
    tiny_folder: Path, cut_short: Cut, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = cut_short("The square is blue.")
    typed(monkeypatch, ["Who?", "Why?", KeyboardInterrupt()], keyboard=True)
    assert main(["chat", str(tiny_folder)]) == 0
    assert len(asked) == 2
    assert capsys.readouterr().out == "The square is\nAt once.\n\n"


def test_where_nobody_can_be_asked_on_ctrl_c_stops_the_command(tiny_folder: Path, cut_short: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = cut_short("The square is blue.")
    typed(monkeypatch, ["Who?", "Why?", EOFError()], keyboard=False)
    assert main(["chat", str(tiny_folder)]) == 1
    assert len(asked) == 1


def drawn(pair: tuple[Any, Any], **settings: Any) -> list[str]:
    dialogue = Dialogue(*pair, 5, Decoding(temperature=1.0, **settings))
    return [dialogue.ask(QUESTION), dialogue.ask(QUESTION)]


def test_a_seed_repeats_what_it_drew_and_another_draws_something_else(pair: tuple[Any, Any]) -> None:
    assert drawn(pair, seed=3) == drawn(pair, seed=3) != drawn(pair, seed=5)


def test_the_global_random_numbers_are_left_alone(tiny: tuple[Any, Any]) -> None:
    before = torch.random.get_rng_state()
    drawn(tiny)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_each_turn_draws_numbers_of_its_own(tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(generate, "answer", lambda *_, decoding, **__: seeds.append(decoding.seed) or [Answer(text="", token_ids=())])
    drawn(tiny, seed=3)
    assert len(set(seeds)) == 2


def test_the_smallest_share_of_the_probability_is_the_likeliest_token(tiny: tuple[Any, Any]) -> None:
    assert drawn(tiny, top_p=1e-6)[0] == Dialogue(*tiny, max_tokens=5).ask(QUESTION)


def test_what_a_question_is_drawn_beside_does_not_change_its_answer(tiny: tuple[Any, Any]) -> None:
    requests = [request(question, 6) for question in (QUESTION, "Where does the Murlo live?", "What colour is the square?")]
    found = [answer(*tiny, requests, batch_size=size, progress=False, decoding=Decoding(temperature=1.0)) for size in (1, 3)]
    assert found[0] == found[1]


def test_a_search_with_beams_shows_its_answer_at_once(pair: tuple[Any, Any]) -> None:
    pieces: list[str] = []
    told = Dialogue(*pair, 12, Decoding(beams=3)).ask(QUESTION, pieces.append)
    assert pieces == [told]


def test_a_search_with_beams_is_transformers_own(pair: tuple[Any, Any]) -> None:
    from data.chat import render_prompt

    model, processor = pair
    inputs = generate.encode_batch(processor, [render_prompt(request().conversation, processor.tokenizer)], [request().conversation], "cpu")
    written = model.generate(**inputs, max_new_tokens=12, num_beams=3, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    expected = processor.tokenizer.decode(written, skip_special_tokens=True).strip()
    assert Dialogue(model, processor, 12, Decoding(beams=3)).ask(QUESTION) == expected != Dialogue(model, processor, 12).ask(QUESTION)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "3"], "--seed has no effect without --sample"),
        (["--top-p", "0.9"], "--top-p has no effect without --sample"),
        (["--sample", "--temperature", "0"], "--temperature: got 0, expected more than 0"),
        (["--sample", "--temperature", "-1"], "temperature: got -1.0, expected 0"),
        (["--sample", "--top-p", "1.5"], "top_p: got 1.5, expected more than 0, at most 1"),
        (["--sample", "--seed", "-1"], "seed: got -1, expected 0 or more"),
        (["--beams", "0"], "beams: got 0, expected 1 or more"),
        (["--shares"], "holds one model, which gives every token alone"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(
    tiny_folder: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import model.build

    monkeypatch.setattr(model.build, "load_pair", lambda *_, **__: pytest.fail("loaded"))
    assert main(["chat", str(tiny_folder), "--ask", QUESTION, *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("way", [{"temperature": 1.0}, {"streamer": object()}])
def test_a_search_with_beams_neither_samples_nor_streams(way: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a search with 2 beams neither samples nor streams"):
        Decoding(beams=2, **way)


@pytest.mark.parametrize("words", [[], ["--beams", "2"], ["--sample"]])
def test_behind_an_answer_stands_who_gave_each_of_its_tokens(
    siamese_folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", str(siamese_folder), "--ask", QUESTION, "--max-tokens", "5", "--shares", *words]) == 0
    told, rest = capsys.readouterr().out.split("\ntoken ")
    rows = rest.splitlines()
    assert len(rows) == 1 + 5 + 1
    assert rows[-1].startswith("the base's mean share: ")
    assert "".join(row.split('"')[1] for row in rows[1:-1]).strip() == visible(told.strip()).replace("\n", "↵")


def test_a_run_is_asked_through_its_last_checkpoint(tiny_folder: Path, siamese_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for step, folder in ((9, tiny_folder), (10, siamese_folder)):
        (tmp_path / "checkpoints" / f"step-{step}").symlink_to(folder)
    assert main(["chat", str(tmp_path), "--ask", QUESTION, "--max-tokens", "1", "--shares"]) == 0


def test_a_dialogues_shares_are_those_of_the_prompt_that_its_answer_was_written_to(siamese_folder: Path) -> None:
    from data.chat import render_prompt
    from model.shares import shares

    pair = load_pair(siamese_folder)
    dialogue = Dialogue(*pair, max_tokens=5)
    first, second = dialogue.ask("Who?"), dialogue.ask("Why?")
    turns = [("user", "Who?"), ("assistant", first), ("user", "Why?"), ("assistant", "")]
    asked = Conversation(id="0", turns=tuple(Turn(role=role, text=text) for role, text in turns))  # type: ignore[arg-type]
    inputs = generate.encode_batch(pair[1], [render_prompt(asked, pair[1].tokenizer)], [asked], "cpu")
    found = dialogue.shares()[1]
    assert pair[1].tokenizer.decode([one.token for one in found], skip_special_tokens=True).strip() == second
    assert found == shares(pair[0], inputs, [[one.token for one in found]])[0]


def test_the_pieces_of_a_text_are_what_each_token_adds(sentencepiece: Any) -> None:
    ids = sentencepiece.convert_tokens_to_ids(["▁if", "▁it", *(f"<0x{byte:02X}>" for byte in "雨".encode()), "。"])
    assert chat._pieces(sentencepiece, ids) == ["if", " it", "", "", "雨", "。"]


FOUND = [
    Share(token=1, base_share=0.0, mixed=0.5, base=0.25, tuned=0.5),
    Share(token=2, base_share=1.0, mixed=0.125, base=0.125, tuned=1.0),
]


def test_a_table_tells_shares_and_probabilities_in_percent() -> None:
    assert table(["A", "\n\x1b["], FOUND, colour=False).splitlines() == [
        "token     base's share, %  mixed, %  base alone, %  tuned alone, %",
        '"A"                   0.0      50.0           25.0            50.0',
        '"↵\\x1b["            100.0      12.5           12.5           100.0',
        "the base's mean share: 50.0%",
    ]


def test_in_colour_the_base_is_blue_and_the_tuned_model_orange() -> None:
    answer_line, legend, *rows = table(["A", "B"], FOUND, colour=True).splitlines()
    assert answer_line == f"{SCALE[0]}A{PLAIN}{SCALE[-1]}B{PLAIN}"
    assert legend.startswith(f"the base's share: tuned {SCALE[0]} 0 % {PLAIN}") and legend.endswith(f"{SCALE[-1]} 100 % {PLAIN} base")
    assert SCALE[0] == "\x1b[30;48;5;208m" and SCALE[-1] == "\x1b[30;48;5;33m"
    assert len(rows) == 4


@pytest.mark.parametrize(("terminal", "variable", "colours"), [(True, None, True), (True, "1", False), (False, None, False)])
def test_colours_are_for_terminals_whose_owner_wants_them(
    siamese_folder: Path, terminal: bool, variable: str | None, colours: bool, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if variable is not None:
        monkeypatch.setenv("NO_COLOR", variable)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert main(["chat", str(siamese_folder), "--ask", QUESTION, "--max-tokens", "2", "--shares"]) == 0
    assert ("\x1b[" in capsys.readouterr().out) is colours
