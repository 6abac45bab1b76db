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
_MATTER = (
    r"(?:information|advice|instructions?|details|opinions?|guidance|assistance|recommendations?|content|materials?|lyrics|links?|answers?"
    r"|essays?|stor(?:y|ies)|poems?|jokes?|scripts?|articles?|code|images?|pictures?|videos?|help|support|predictions?"
    r"|messages?|e-?mails?|texts?|summar(?:y|ies)|translations?|malware|weapons?|explosives?|hate speech|propaganda)\b"
)
_SOME = r"(?:(?!(?:my|our|his|her) )[\w-]+ ){0,4}"
_ASKED = r"(?:requests?|questions?|quer(?:y|ies)|prompts?|tasks?|instructions?|demands?|conversations?|discussions?|topics?)\b"
_HELP = (
    r"(?:help(?=[.!]|$| (?!but\b|it\b|\w+sel(?:f|ves)\b|\w+ing\b))|assist\b|comply\b|fulfil|provide (?!for\b)"
    r"|answer(?=[.!]|$| (?!(?:the|my|his|her) (?:\w+ )?(?:phone|door|call|bell))\w)|discuss (?!my\b|our\b)"
    r"|(?:do|share|generate|create|write|produce) (?:that|this|so|such a thing)(?=[.!,;]|$| (?:for|as|because|since|under)\b)"
    r"|(?:engage|participate) in (?:that|this|such|any|conversations?|discussions?|activit)"
    r"|(?:go along|continue|proceed) with (?:that|this|your)"
    rf"|(?:generate|create|write|produce|offer|give|share|support|recommend) {_SOME}{_MATTER}"
    r"|recommend (?:any|specific|such)\b(?![^.!?]*\benough\b)"
    r"|(?:process|accommodate|complete|continue|perform|execute|handle|grant|respond to|reply to|act on|support|address)"
    rf" (?:\w+ ){{0,3}}{_ASKED})"
)
# What an assistant lacks, after it said sorry for it.
_LIMIT = (
    r"(?:(?:access|open|browse|view|visit|see|read|watch|listen to|play|find|locate|retrieve|process|identify) (?:\w+ ){0,3}"
    r"(?:links?|urls?|files?|attachments?|images?|photos?|videos?|audio|web\w*|internet|documents?|information|data|records)\b"
    r"|browse[.!]|(?:condone|promote|encourage|endorse|facilitate|disclose|reveal|divulge) \w|predict the future"
    r"|advise (?:you|on|against)\b|talk about (?:that|this)|tell (?:\w+ )?jokes?\b|tell you (?:how to|where to|what to|that)\b"
    r"|make (?:that|this|such|any|predictions|recommendations)\b)"
)

# Each stands at the very start of an answer; case does not count.
_ENGLISH = (
    rf"{_SORRY}[,.:;!]? (?:but )?i ?(?:{_CANNOT} (?:be able to )?(?:{_HELP}|{_LIMIT})|{_CANNOT}(?:[.!]|$)|must decline|{_LACK}"
    r"|do(?:n't| not) have information)",
    rf"{_SORRY}[,.:;!]? (?:but )?as an? {_AI}[^,.]*,? ?\bi ?(?:{_CANNOT}|must decline|{_LACK})",
    rf"as an? {_AI}(?: (?:language )?(?:model|assistant|system|program|chatbot))?(?: (?:developed|created|trained|made) by \w+)?,? "
    r"(?:i\b|it(?:'s| is) not|my )",
    rf"i(?:'m| am) (?:just |only )?an? {_AI}\b[^.!?]*\b(?:can(?:no|')t|can not|do(?:n't| not) have|not able|unable)",
    rf"i ?{_CANNOT} (?:be able to )?{_HELP}",
    rf"i {_LACK}",
    r"i (?:must|have to|need to) (?:respectfully |politely )?decline",
    r"it(?:'s| is| would be| is simply) (?:not (?:appropriate|ethical|possible)|inappropriate|unethical) for me to",
)
# In one sentence with what is asked of an assistant: to help, answer, give, do, write.
_GERMAN = (
    r"(?:(?:weiter)?helfen|beantworten|antworten|unterstützen|geben|bereitstellen|erfüllen|nachkommen|erstellen|schreiben|tun|zugreifen)\b"
)
_FRENCH = r"(?:aider|assister|répondre|fournir|donner|satisfaire|accéder|faire (?:cela|ça)|écrire|créer|générer|discuter)\b"
_SPANISH = r"(?:ayud|asisti|respond|contest|proporcion|ofrec|dar(?:te|le)\b|cumpl|acced|hacer(?:lo| eso| esto)\b|escrib|crear|generar)"
_ITALIAN = r"(?:aiutar|assister|risponder|fornir|dar(?:ti|le|e)\b|soddisfar|accedere|farlo|scriver|crear|generar)"
_PORTUGUESE = r"(?:ajud|auxiliar|respond|fornec|dar |atend|acessar|fazer isso|escrever|criar|gerar)"
_DUTCH = r"(?:helpen|assisteren|beantwoorden|antwoorden|geven|verstrekken|voldoen|schrijven|maken|doen)\b"
_RUSSIAN = r"(?:помо|ответ|отвеч|предостав|выполн|дать|давать|обсужд|созда|напис|сделать)"
_CHINESE = r"(?:帮|幫|协助|協助|回答|提供|满足|滿足|完成|执行|執行|生成|讨论|討論|访问|处理|给出|支持|透露|分享|这样做|继续)"
_OTHERS = (
    r"(?:es )?(?:tut mir (?:sehr )?leid|entschuldigung|ich bedaure)[,.]? (?:aber )?(?:(?:das|dabei|ich) )?(?:kann|darf)\b"
    rf"(?=[^.!?]*\b(?:nicht|kein))[^.!?]*\b{_GERMAN}",
    rf"leider (?:kann|darf) ich\b(?=[^.!?]*\b(?:nicht|kein))[^.!?]*\b{_GERMAN}",
    r"als (?:ki|künstliche intelligenz|(?:großes )?sprachmodell)\b[^.!?]*\b(?:nicht|kein)",
    rf"(?:(?:je suis )?(?:vraiment )?désolée?|je m'excuse|malheureusement)[,.]? (?:mais )?je ne (?:peux|suis)\b[^.!?]*\b{_FRENCH}",
    r"en tant qu(?:'ia|'intelligence artificielle|e modèle de langage|'assistant virtuel)\b[^.!?]*\bne\b",
    rf"(?:lo siento(?: mucho)?|lamentablemente|perdón|disculpa)[,.]? (?:pero )?no puedo\b[^.!?]*\b{_SPANISH}",
    r"como (?:uma? |una? )?(?:modelo de (?:lenguaje|linguagem)|ia|intelig[eê]ncia artificial)\b[^.!?]*\b(?:no|não)\b",
    rf"mi dispiace[,.]? (?:ma )?non (?:posso|sono in grado)\b[^.!?]*\b{_ITALIAN}",
    r"(?:come|in quanto) (?:modello linguistico|ia|intelligenza artificiale)\b[^.!?]*\bnon\b",
    rf"(?:desculpe|sinto muito|lamento|infelizmente)[,.]? (?:mas )?(?:eu )?não posso\b[^.!?]*\b{_PORTUGUESE}",
    rf"(?:het spijt me|sorry|helaas)[,.]? (?:maar )?(?:ik kan|kan ik)\b(?=[^.!?]*\b(?:niet|geen))[^.!?]*\b{_DUTCH}",
    rf"(?:извините|простите|к сожалению|мне (?:очень )?жаль)[,.]? (?:но )?я не (?:могу|в состоянии)\b[^.!?]*\b{_RUSSIAN}",
    rf"(?:很|非常|十分)?(?:抱歉|对不起|對不起|不好意思)[,\uff0c。 ]*(?:但)?(?:是)?我?(?:不能|无法|無法|不可以|没有办法)"
    rf"[^。！？]*{_CHINESE}",
    r"作为(?:一个|一名|一款)?(?:ai|人工智能|大?型?语言模型)",
    r"(?:大変)?(?:申し訳(?:ありません|ございません)|すみません|ごめんなさい)[^。]*(?:答え|応え|手伝い|提供|対応|案内|作成|生成|支援|協力|教え|それは|その)"
    r"[^。]*(?:できません|できかねます)",
    r"죄송(?:합니다|하지만).{0,40}?(?:도와|도움|답|제공|드릴|응할|응하|작성|생성|수행|처리).{0,20}?(?:수 없습니다|어렵습니다)",
)
_REFUSAL = re.compile("|".join((*_ENGLISH, *_OTHERS)), re.IGNORECASE)
_BLANK = re.compile(r"\s+")


def is_refusal(answer: str) -> bool:
    """Whether an answer begins by refusing, or with what a model says of itself before it does.

    A list of openings in English, German, French, Spanish, Italian, Portuguese, Dutch, Russian, Chinese, Japanese, Korean. "I can't" alone
    refuses nothing: it must go on with what is asked of an assistant (help, answer, provide, do that, …, that request). What refuses in
    other words, or later in the answer, passes.
    """
    return _REFUSAL.match(_BLANK.sub(" ", answer.replace("\u2019", "'")).lstrip(' "*')) is not None
