"""Which turns are dropped, for which reason, and which are not."""

import random
import string
from typing import Any

import pytest

from data.terrarium.skills import samples
from data.terrarium.text import TEXT_SKILLS
from data.terrarium.tokenizer import SPECIAL_TOKENS
from data.trees.config import FilterConfig
from data.trees.filters import Filters, Reason
from data.trees.languages import is_in_another_language
from data.trees.personal import holds_personal_data
from data.trees.refusals import is_refusal
from data.trees.repetition import RUN, is_loop, repeated_share

MARKERS = ("<|user|>", "[/INST]", "Q>")


def reason(text: str, *, role: Any = "assistant", finish: Any = "stop", **config: Any) -> Reason | None:
    return Filters(FilterConfig(**config), MARKERS).reason(role, text, finish)


# --- which reason ----------------------------------------------------------------------------------------------------


def test_a_turn_that_was_cut_off_is_unfinished() -> None:
    assert reason("The florin eats", finish="length") == "unfinished"


@pytest.mark.parametrize("text", ["", " \n", "...", "?!", "🙂"])
def test_a_turn_without_letter_or_digit_is_empty(text: str) -> None:
    assert reason(text) == "empty"


@pytest.mark.parametrize("text", ["7", "é", "是", "न"])
def test_one_letter_or_digit_of_any_script_is_not_empty(text: str) -> None:
    assert reason(text) is None


@pytest.mark.parametrize("broken", ["\ufffd", chr(0xD83D), chr(0xDC80)], ids=["replacement", "high surrogate", "low surrogate"])
def test_bytes_that_are_no_text_are_broken_text(broken: str) -> None:
    assert reason(f"The florin{broken} eats nuts.") == "broken_text"


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"role_leak": False}, "Fine.\nUser: And the mepple?"),
        ({"repetition": False}, "I love you. " * 30),
        ({"refusals": False}, "I'm sorry, but I can't help with that."),
        ({"personal_data": False}, "Write to eva@mail.org."),
    ],
)
def test_each_reason_can_be_switched_off(config: dict[str, bool], text: str) -> None:
    assert reason(text) is not None
    assert reason(text, **config) is None


def test_cut_off_turns_pass_where_that_is_allowed() -> None:
    assert reason("The florin eats", finish="length", unfinished=False) is None


@pytest.mark.parametrize("text", ["", "a\ufffd", "a" + chr(0xD83D)])
def test_what_is_no_text_is_dropped_whatever_is_switched_off(text: str) -> None:
    assert reason(text, unfinished=False, role_leak=False, repetition=False, refusals=False, personal_data=False) in (
        "empty",
        "broken_text",
    )


def test_of_several_reasons_the_first_in_order_is_told() -> None:
    text = "I'm sorry, but I can't. Write to eva@mail.org.\nUser: why?"
    assert reason(text, finish="length", max_characters=5) == "unfinished"
    assert reason(text, max_characters=5) == "role_leak"
    assert reason(text, max_characters=5, role_leak=False) == "refusal"
    assert reason(text, max_characters=5, role_leak=False, refusals=False) == "personal_data"
    assert reason(text, max_characters=5, role_leak=False, refusals=False, personal_data=False) == "too_long"


def test_limits_of_length_belong_to_the_turns_that_are_kept() -> None:
    verdicts = [reason("a" * size, min_characters=3, max_characters=5) for size in range(2, 7)]
    assert verdicts == ["too_short", None, None, None, "too_long"]


def test_white_space_around_a_turn_does_not_make_it_longer() -> None:
    assert reason("\n  ab \n", min_characters=3) == "too_short"


# --- role leak -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Fine.<|user|>And the mepple?",
        "Fine. [/INST] And the mepple?",
        "Fine.\nQ> And the mepple?",
        "  Q> And the mepple?",
        "Fine.\nUser: And the mepple?",
        "Fine.\n\n**Human:** And the mepple?",
        "Fine.\n  HUMAN : And the mepple?",
        "What is it?\nAssistant: The florin.",
        "Fine.\nUser:\nAnd the mepple?",
        "Fine.\nUser: tell me more",
        "Fine.\nUser:",
        "Fine.\nUser: more\nAssistant: yes",
        "Fine.\nHuman: more\nAI: yes\nHuman: thanks\nAI: bye",
        "Note: it is short.\nNote: it is old.\nUser: And the mepple?",
        "```\nf(x)\n```\nUser: And the mepple?",
        "```\nf(x)\nUser: And the mepple?",
        "好的。\n用户：还有吗？",
        "Gut.\nBenutzer: Und weiter?",
        "### Instruction:\nSay it.",
        "Fine.\n### Human: And the mepple?",
        "Fine.\n### Assistant\nYes.",
        "Fine.<|im_end|>\n<|im_start|>user",
        "```\n<|im_start|>user\n```",
        "Fine.<end_of_turn>",
        "Fine.<|eot_id|>",
    ],
)
def test_an_answer_that_speaks_for_the_other_side_is_a_role_leak(text: str) -> None:
    assert reason(text) == "role_leak"


@pytest.mark.parametrize(
    "text",
    [
        "What is it?\nAssistant:",
        "What is it?\n  ASSISTANT : Yes",
        "What is it?\n\n**Assistant:** Well\nWings: two",
        "What is it?\nUser: And what does it eat?",
        "Say it.\n### Response:\nIt.",
        "Fine.\n### Assistant\nYes.",
    ],
)
def test_a_question_that_goes_on_to_its_answer_is_a_role_leak(text: str) -> None:
    assert reason(text, role="user") == "role_leak"


PLAY = "A play in one act\n\nHuman: Who are you?\nRobot: I am Seven.\n\nHuman: What do you want, Seven?"


@pytest.mark.parametrize("role", ["user", "assistant"])
@pytest.mark.parametrize(
    "text",
    [
        "Write this to the file:\n\nHost: example\nUser: root\nPort: 22",
        "It is this:\nUser: John Smith",
        "services:\nUser:\n  name: root",
        "Use it so:\n```yaml\n# who may log in\nUser: Whoever may log in?\n```\nThen start it.",
        "Use it so:\n~~~\n### User:\nroot\n~~~",
        PLAY,
        "Two voices.\n**ROBOT:** Hello!\n(He bows.)\n**HUMAN:** Who are you?\n(A pause.)\n**ROBOT:** I am Seven.",
        "The roles\nUser: A person who may read.\nEditor: A person who may write.",
    ],
)
def test_a_speaker_in_a_config_or_play_or_list_is_no_role_leak(text: str, role: str) -> None:
    assert reason(text, role=role) is None


def test_the_response_of_an_interface_is_no_role_leak_in_an_answer() -> None:
    assert reason("Call it so:\n### Request:\nGET /florins\n### Response:\n200 OK") is None


@pytest.mark.parametrize("marker", ["A:", "Human:", "USER:", "7)"])
@pytest.mark.parametrize(("before", "expected"), [("DN", None), ("Fine. ", None), ("Fine.\n", "role_leak"), ("", "role_leak")])
def test_a_marker_of_ordinary_text_counts_where_a_line_begins(marker: str, before: str, expected: str | None) -> None:
    assert Filters(FilterConfig(), (marker,)).reason("assistant", f"{before}{marker} ok", "stop") == expected


@pytest.mark.parametrize("marker", ["<|x|>", "[/INST]", "### Q"])
def test_a_special_mark_counts_wherever_it_stands(marker: str) -> None:
    assert Filters(FilterConfig(), (marker,)).reason("assistant", f"DNA{marker} ok", "stop") == "role_leak"


@pytest.mark.parametrize(
    "text",
    [
        "The log line begins with User: then the name.",
        "Each user may log in.\nUsers: all of them.",
        "User: that is the word on the first line.",
        "Steps\n1. Ask the user: is it on?\n2. Wait.",
        "Human beings\nhuman nature: a short history",
        "12 + 30 makes 42.\nAnswer: 42",
        "AI: artificial intelligence\nML: machine learning",
        "### Instructions\n1. Heat the oven.",
        "### Response time\nIt is short.",
        "a <- b; x[INSTANCE]; <|x|>",
        "DNAQ> and Q> inside a line",
    ],
)
def test_a_speaker_named_inside_ordinary_text_is_no_role_leak(text: str) -> None:
    assert reason(text) is None


# --- repetition ------------------------------------------------------------------------------------------------------

POEM = "\n\n".join(
    f"{stanza}\nRoll on, roll on, thou river wide,\nand bear my little boat away,\nthe moon shall be my only guide,\nthe stars my company."
    for stanza in (
        "I left the town at break of day,\nthe bells were ringing in the rain,\nand nobody had asked my way\nor wished me back again.",
        "The miller's wheel was standing still,\nthe miller at his door,\nhe waved to me from up the hill\nand then was seen no more.",
        "A heron rose without a sound,\na fisher mended at his net,\nthe willows leaned towards the ground,\nthe grass was dark and wet.",
        "And when the evening came at last\nwith lanterns burning on the quay,\nthe river ran no longer fast\nbut opened to the sea.",
    )
)
SIMILAR_LINES = "\n".join(
    f"{number}. The {name} is one of the small and rather shy animals that live in the {home}."
    for number, (name, home) in enumerate(
        zip(
            "florin mepple zibber quonk tavvy dorble wimzel gruffin lompet nibbit".split(),
            "desert castle reeds mill forest barn cave garden valley hills".split(),
            strict=True,
        ),
        start=1,
    )
)
PROSE = (
    "A bridge carries a road over a river or a valley. The oldest bridges were trees that had fallen across a stream; later ones were "
    "built of stone, with arches that press against each other and so hold themselves up. "
)


@pytest.mark.parametrize(
    "text",
    [
        "I love you. " * 12,
        "quonk " * 15,
        "ha" * 40,
        "我爱你。" * 20,
        PROSE + "It is very old. It is very old. It is very old. It is very old. It is very old. It is very old.",
        "\n".join(f"{number}. The bridge is made of stone." for number in range(1, 8)),
        "| old | what |\n|---|---|\n" + "| yes | The bridge is made of stone. |\n" * 5,
        "| yes | no | " * 20,
        PROSE * 3,
        PROSE + "One. " + PROSE + "Two. " + PROSE,
    ],
    ids=[
        "sentence",
        "word",
        "syllable",
        "Chinese",
        "at the end",
        "counted lines",
        "rows of a table",
        "bars",
        "a passage three times",
        "a passage with words between",
    ],
)
def test_a_turn_that_repeats_itself_is_a_loop(text: str) -> None:
    assert reason(text) == "repetition"


@pytest.mark.parametrize(
    "text",
    [
        SIMILAR_LINES,
        POEM,
        PROSE,
        PROSE * 2,
        "ha ha ha ha ha!",
        "I say yak yak.",
        "no " * 10,
        "\n".join(" ".join("0" * 8) for _ in range(8)),
        "-" * 200 + " title " + "=" * 200,
        "| a | b |\n" + "|---|---|\n" * 30,
        "| warm | dry |\n|:---|---:|\n" + "| yes | no |\n" * 20,
        "| what | a | b | c |\n| - | - | - | - |\n" + "| **lock** | supported | Supported | supported |\n" * 9,
        "\n".join(f"7 × {number} = {7 * number}" for number in range(1, 21)),
        "Happy birthday to you, happy birthday to you, happy birthday, dear Nora, happy birthday to you!",
        "0123456789" * 10,
    ],
    ids=[
        "ten similar lines",
        "poem with a refrain",
        "prose",
        "said twice",
        "laughter",
        "an order followed",
        "short",
        "matrix of zeros",
        "rulers",
        "table",
        "table of yes or no",
        "table of equal words",
        "times table",
        "song",
        "digits",
    ],
)
def test_lists_and_refrains_and_short_texts_are_no_loops(text: str) -> None:
    assert not is_loop(text)


def test_the_repeated_share_counts_each_letter_of_later_copies_once() -> None:
    passage = "".join(random.Random(0).choices(string.ascii_lowercase, k=2 * RUN))
    assert repeated_share(passage) == 0
    assert repeated_share(passage * 2) == 1 / 2
    assert repeated_share(passage * 4) == 3 / 4
    assert repeated_share(passage + "x" * (RUN - 1) + passage[:RUN]) == RUN / (4 * RUN - 1)


@pytest.mark.parametrize(("copies", "expected"), [(3, False), (4, True)])
def test_a_piece_makes_a_loop_when_it_stands_four_times_in_a_row(copies: int, expected: bool) -> None:
    letters = random.Random(1)
    around = ["".join(letters.choices(string.ascii_lowercase, k=400)) for _ in range(2)]
    assert is_loop(around[0] + "Xthebridgeisveryoldindeed" * copies + around[1]) is expected


@pytest.mark.parametrize(("letters", "expected"), [(59, False), (60, True)])
@pytest.mark.parametrize("piece", ["bridge", "thebridgeisgrey"])
def test_copies_in_a_row_make_a_loop_from_sixty_letters_on(piece: str, letters: int, expected: bool) -> None:
    assert is_loop((piece * 10)[:letters]) is expected


@pytest.mark.parametrize(("letters", "expected"), [(62, False), (63, True)])
def test_a_text_is_a_loop_when_three_fifths_of_it_stood_before(letters: int, expected: bool) -> None:
    passage = "".join(random.Random(2).choices(string.ascii_lowercase, k=120))
    assert is_loop(f"{passage} X {passage} Y {passage[:letters]}") is expected  # 120 + letters of 242 + letters


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, I cannot assist you.",
        "I am very sorry, but as an AI language model, I can't browse.",
        "Sorry, I won't do that.",
        "I apologize, but I am unable to open links.",
        "Unfortunately, I don't have access to the internet.",
        "As an AI language model, I have no body.",
        "As an AI developed by Anyone, I do not eat.",
        "I am an AI assistant and cannot feel.",
        "I cannot provide medical advice.",
        "I can't help you with that request.",
        "I'm not able to write that essay.",
        "I must respectfully decline.",
        "I don't have personal opinions on this.",
        "It is not appropriate for me to answer.",
        "I'm sorry, but I can't.",
        "I can't do that.",
        "I won't be able to help.",
        "I cannot provide you with that information.",
        "I will not write malware for you.",
        "I can't recommend any illegal activity.",
        "I cannot share personal opinions.",
        "I'm sorry, but I cannot fulfill your request.",
        "I'm unable to process this request.",
        "Sorry, I cannot continue with this conversation.",
        "I'm sorry, but I can't find any information about it.",
        "Sorry, I can't tell you how to pick a lock.",
        "I'm sorry, but as a language model I cannot eat.",
        "Es tut mir leid, aber ich kann dabei nicht helfen.",
        "Leider kann ich diese Frage nicht beantworten.",
        "Es tut mir leid, aber ich kann keine Auskunft geben.",
        "Je suis désolé, mais je ne peux pas vous aider.",
        "Lo siento, pero no puedo ayudarte con eso.",
        "Mi dispiace, ma non posso aiutarti.",
        "Desculpe, mas não posso ajudar.",
        "Извините, но я не могу помочь.",
        "很抱歉\uff0c我无法回答这个问题。",
        "作为一个人工智能,我没有感情。",
        "申し訳ありませんが、お答えできません。",
        "죄송합니다. 도와드릴 수 없습니다.",
    ],
)
def test_an_answer_that_refuses_is_dropped(text: str) -> None:
    assert reason(text) == "refusal"


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry to hear that. Here is what may help.",
        "I'm sorry for your loss, and I can help with the letter.",
        "I can't help but notice the blue door.",
        "I cannot help laughing at it.",
        "As an AI engineer, I work with data.",
        "As an aid to memory, I write lists.",
        "The sentence means: I'm sorry, but I can't come.",
        "I am unable to come to the party.",
        "I'm not going to the party.",
        "Unfortunately, the shop is closed.",
        "I am an AI assistant that answers questions.",
        "Es tut mir leid, das zu hören.",
        "Leider ist der Laden zu.",
        "Lo siento mucho por tu pérdida.",
        "Como ia dizendo, o rio é largo.",
        "很抱歉听到这个消息。",
        "I decline the verb in all cases.",
        "I can't recommend this book enough!",
        "I can't recommend any of his books highly enough.",
        "I'm sorry, I can't hear you over the music.",
        "I won't share my cookies with you.",
        "I won't share my story with anyone.",
        "I can't thank you enough for your help.",
        "I can't provide for my family.",
        "I can't answer the phone right now.",
        "I can't help it.",
        "I can't do this anymore.",
        "I can't wait to read your essay!",
        "I can't believe that your request was granted.",
        "I'm sorry, I can't find my keys.",
        "Unfortunately, I cannot attend the meeting.",
        "Es tut mir leid, ich kann dich nicht hören.",
        "Leider kann ich morgen nicht kommen.",
        "Je suis désolé, je ne peux pas venir ce soir.",
        "Lo siento, no puedo oírte.",
        "Mi dispiace, non posso venire.",
        "Desculpe, não posso ir.",
        "Het spijt me, ik kan niet komen.",
        "Извините, я не могу прийти.",
        "抱歉\uff0c我不能去。",
        "すみません、聞き取りできません。",
        "죄송합니다. 내일은 갈 수 없습니다.",
    ],
)
def test_an_answer_that_only_sounds_like_a_refusal_stays(text: str) -> None:
    assert not is_refusal(text)


def test_a_question_cannot_refuse() -> None:
    assert reason("I'm sorry, but I can't open the file. Why?", role="user") is None


# --- personal data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Write to eva.braun+news@mail.co.uk, please.",
        "jürgen@müller.de",
        "Call +49 30 1234567.",
        "Call +1 (212) 555-0147 now.",
        "+442071838750",
        "(212) 555-0147",
        "Ring 212-555-0147 or 1-212-555-0147.",
        "Tel.: 030 123456",
        "My phone number is 0171 2345678.",
        "Telefon: (030) 12 34 56",
        "IBAN DE89 3704 0044 0532 0130 00",
        "GB82WEST12345698765432 is the account",
        "GB82 WEST 1234 5698 7654 32 THANK YOU",
        "ES91 2100 0418 4502 0005 1332 BANK",
        "Card 4111 1111 1111 1111, valid",
        "5500-0000-0000-0004",
        "378282246310005",
        "The server stands at 84.17.46.53.",
        "Call 1-808-555-0147, not 1-800-555-0147.",
        "Tel.: 030 800 1234",
        "Call +49 8061 1234567.",
    ],
)
def test_personal_data_is_found(text: str) -> None:
    assert reason(text) == "personal_data"


@pytest.mark.parametrize(
    "text",
    [
        "user@example.com or eva@mail.example.org or root@host.test",
        "Use @property above it; a@b is a matrix product.",
        "12345 + 67890 = 80235",
        "7 +4912345678 = 4912345685",
        "f(x)+4912345678",
        "From 1914-1918 to 1939-1945, 10,000 people; in 2019/2020 even 1 200 000.",
        "It is 12:30:45, or 3.45 pm, on 2024-01-15.",
        "A profit of +1,250,000 dollars, or +1000000000 in all.",
        "The mobile phone 2019 2020 edition",
        "What number do I dial? Call 911 or 112.",
        "DE89 3704 0044 0532 0130 01 has a wrong checksum",
        "4111 1111 1111 1112 has a wrong checksum",
        "pi is 3.141592653589793 and 4.111111111111111",
        "9780306406157 is an ISBN, 978-0-306-40615-7 as well",
        "1705312345678901 microseconds",
        "Version 84.15.17.2 of it, v84.17.46.53, v 84.17.46.53, and 1.2.3.4",
        "192.168.0.1, 127.0.0.1, 10.0.0.7, 203.0.113.9",
        "999.84.17.46 is no address; 84.17.46.53.2 neither",
        "Call 1-800-555-0147, 1 888 555 0147, (877) 555-0147, 800-555-0147 or +1 (800) 555-0147.",
        "Tel.: 0800 123456; Telefon: 0800 330 1000; call +49 800 3301000, +44 808 157 0192 or +800 1234 5678.",
        "Name servers: 8.8.8.8, 8.8.4.4, 1.1.1.1, 1.0.0.1, 9.9.9.9, 208.67.222.222",
        "192.0.2.17, 198.51.100.44, 203.0.113.9 stand in documents; 224.0.0.251 and 239.255.255.250 are groups; 255.255.255.0 is a mask",
        "The florin lives in the desert.",
    ],
)
def test_numbers_of_other_kinds_are_not_personal(text: str) -> None:
    assert not holds_personal_data(text)


def test_a_long_word_does_not_slow_the_search_for_addresses_down() -> None:
    assert not holds_personal_data("a" * 200_000)


# --- language --------------------------------------------------------------------------------------------------------

GERMAN = "Die Brücke führt über den Fluss, und am anderen Ufer liegt eine kleine Stadt."
NO_LANGUAGE = str(
    {"b64": "aGVsbG8gd29ybGQ=", "sha": "9f86d081884c7d659a2feaa0c55ad015", "n": list(range(40)), "qxzjkw": 0.25, "vb": "qxzjkwv"}
)
ENGLISH = "The bridge leads across the river, where a small town lies on the other bank."


@pytest.mark.parametrize(
    ("wanted", "text", "expected"),
    [
        ("en", GERMAN, "wrong_language"),
        ("de", ENGLISH, "wrong_language"),
        ("en", "请告诉我需要带什么衣服还有有没有什么好吃的东西可以推荐给我因为我打算去那里旅行三个星期左右。", "wrong_language"),
        ("en", ENGLISH, None),
        ("de", GERMAN, None),
        ("en", "Wo ist die Brücke?", None),
        ("en", "def f(x):\n    return [y for y in range(x) if y % 2 == 0]\nprint(f(10))", None),
        ("en", "Photosynthesis: CO2 + H2O -> C6H12O6 + O2 (chlorophyll)", None),
        ("en", "The word for 'house' is 'Haus' in German, 'maison' in French, 'casa' in Spanish.", None),
        ("en", "Amoxicillin, ibuprofen, paracetamol, metformin, omeprazole", None),
        ("en", "Vorrei sapere che tempo farà domani a Roma, per favore.", "wrong_language"),
        ("en", NO_LANGUAGE, None),
        (None, GERMAN, None),
    ],
)
def test_longer_turns_in_another_language_are_dropped(wanted: str | None, text: str, expected: str | None) -> None:
    assert reason(text, language=wanted) == expected


def test_an_unknown_language_is_refused_with_close_ones() -> None:
    with pytest.raises(
        ValueError, match=r"tree\.filters\.language: unknown language 'eng'; did you mean .*'en'.* Expected an ISO 639-1 code: .*de"
    ):
        is_in_another_language("eng")


# --- the Terrarium ---------------------------------------------------------------------------------------------------


def test_no_text_of_the_terrarium_is_dropped() -> None:
    filters = Filters(FilterConfig(language="en"), SPECIAL_TOKENS)
    dropped = []
    for skill in TEXT_SKILLS:
        for sample in samples(skill, "train", 250, seed=0):
            for question, answer in sample.rounds:
                turns = (("user", question), ("assistant", answer))
                dropped += [(found, text) for role, text in turns if (found := filters.reason(role, text, "stop"))]
    assert dropped == []
