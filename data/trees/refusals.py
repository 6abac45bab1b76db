"""Answers that refuse."""

import re

_AI = r"(?:ai|artificial intelligence|(?:large )?language model|virtual assistant|chatbot)"
_SORRY = (
    r"(?:(?:i(?:'m| am) )?(?:so |very |really |truly |deeply |terribly )?sorry|(?:i )?apologi[sz]e|my apologies|unfortunately|regrettably)"
)
_CANNOT = (
    r"(?:can(?:no|')t|can not|(?:am|'m) (?:not able|unable) to|(?:am|'m) not (?:allowed|permitted|programmed|comfortable)|won't|will not)"
)
_LACK = (
    r"do(?:n't| not) have (?:access to|the ability|the capability|real-time|personal (?:opinions|experiences|feelings|preferences|beliefs))"
)
_HELP = (
    r"(?:help (?!but\b|\w+ing\b)|help[.!]|assist|comply|fulfil|provide|answer|discuss|engage in|participate|do that|do this|share"
    r"|continue with|(?:generate|create|write|produce|offer|give|support|recommend) "
    r"(?:you|any|that|this|such|content|an?|medical|legal|financial|advice)\b)"
)

# Each stands at the very start of an answer; case does not count.
_ENGLISH = (
    rf"{_SORRY}[,.:;!]? (?:but )?(?:as an? {_AI}[^,.]*, ?)?i ?(?:{_CANNOT}|must decline|{_LACK}|do(?:n't| not) have information)",
    rf"as an? {_AI}(?: (?:language )?(?:model|assistant|system|program|chatbot))?(?: (?:developed|created|trained|made) by \w+)?,? "
    r"(?:i\b|it(?:'s| is) not|my )",
    rf"i(?:'m| am) (?:just |only )?an? {_AI}\b[^.!?]*\b(?:can(?:no|')t|can not|do(?:n't| not) have|not able|unable)",
    rf"i ?{_CANNOT} (?:be able to )?{_HELP}",
    rf"i {_LACK}",
    r"i (?:must|have to|need to) (?:respectfully |politely )?decline",
    r"it(?:'s| is| would be| is simply) (?:not (?:appropriate|ethical|possible)|inappropriate|unethical) for me to",
)
_OTHERS = (
    r"(?:es )?(?:tut mir (?:sehr )?leid|entschuldigung|ich bedaure)[,.]? (?:aber )?(?:(?:das|dabei|ich) )?(?:kann|darf)\b[^.!?]*\bnicht",
    r"leider (?:kann|darf) ich\b[^.!?]*\b(?:nicht|kein)",
    r"als (?:ki|künstliche intelligenz|(?:großes )?sprachmodell)\b[^.!?]*\b(?:nicht|kein)",
    r"(?:(?:je suis )?(?:vraiment )?désolée?|je m'excuse|malheureusement)[,.]? (?:mais )?je ne (?:peux|suis)",
    r"en tant qu(?:'ia|'intelligence artificielle|e modèle de langage|'assistant virtuel)\b[^.!?]*\bne\b",
    r"(?:lo siento(?: mucho)?|lamentablemente|perdón|disculpa)[,.]? (?:pero )?no puedo",
    r"como (?:uma? |una? )?(?:modelo de (?:lenguaje|linguagem)|ia|intelig[eê]ncia artificial)\b[^.!?]*\b(?:no|não)\b",
    r"mi dispiace[,.]? (?:ma )?non (?:posso|sono in grado)",
    r"(?:come|in quanto) (?:modello linguistico|ia|intelligenza artificiale)\b[^.!?]*\bnon\b",
    r"(?:desculpe|sinto muito|lamento|infelizmente)[,.]? (?:mas )?(?:eu )?não posso",
    r"(?:het spijt me|sorry|helaas)[,.]? (?:maar )?(?:ik kan|kan ik)\b[^.!?]*\b(?:niet|geen)",
    r"(?:извините|простите|к сожалению|мне (?:очень )?жаль)[,.]? (?:но )?я не (?:могу|в состоянии)",
    r"как (?:языковая модель|искусственный интеллект|ии)\b[^.!?]*\bне\b",
    r"(?:很|非常|十分)?(?:抱歉|对不起|對不起|不好意思)[,\uff0c。 ]*(?:但)?(?:是)?我?(?:不能|无法|無法|不可以|没有办法)",
    r"作为(?:一个|一名|一款)?(?:ai|人工智能|大?型?语言模型)",
    r"(?:大変)?(?:申し訳(?:ありません|ございません)|すみません|ごめんなさい)[^。]*(?:できません|できかねます|お答えできません)",
    r"죄송(?:합니다|하지만).{0,40}?(?:수 없습니다|어렵습니다)",
)
_REFUSAL = re.compile("|".join((*_ENGLISH, *_OTHERS)), re.IGNORECASE)
_BLANK = re.compile(r"\s+")


def is_refusal(answer: str) -> bool:
    """Whether an answer begins by refusing, or with what a model says of itself before it does.

    A list of openings in English, German, French, Spanish, Italian, Portuguese, Dutch, Russian, Chinese, Japanese, Korean. What refuses in
    other words, or later in the answer, passes.
    """
    return _REFUSAL.match(_BLANK.sub(" ", answer.replace("\u2019", "'")).lstrip(' "*')) is not None
