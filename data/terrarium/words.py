"""Closed word lists from which the Terrarium's texts are made.

No list holds a digit, a number word or an ordinal: numbers occur in sums alone, so that a rise of number tokens elsewhere means
that a tuned model has drifted.
"""

# Three letters each; instructions use them in text, pictures carry them on signs.
_WORDS = """
    ant bed box bus cat cow cup dog egg fan fig fox gem gum hat hen
    hut ink ivy jam jug keg key kit lid log map mud net nut oak owl
    pan pie rat rug sun toy tub urn van vet web wig yak yam zip zoo
"""
WORDS = tuple(_WORDS.split())

NAMES = ("Bela", "Dana", "Finn", "Hugo", "Lena", "Mika", "Nora", "Otto", "Pia", "Ravi", "Suri", "Tilo", "Tom", "Vera", "Yuri", "Zoe")
THINGS = ("key", "map", "cup", "hat", "gem", "rug", "jug", "net", "toy", "fan", "kit", "pan")
LOOKS = ("golden", "silver", "wooden", "broken", "shiny", "dusty", "red", "green", "blue", "yellow", "white", "black")
HOLDERS = ("box", "bag", "basket", "chest")
PLACES = ("cave", "forest", "desert", "meadow", "swamp", "garden", "jungle", "valley", "barn", "hills", "castle", "mill")

OPPOSITES = (
    ("hot", "cold"),
    ("big", "small"),
    ("up", "down"),
    ("left", "right"),
    ("top", "bottom"),
    ("day", "night"),
    ("open", "closed"),
    ("fast", "slow"),
    ("old", "young"),
    ("wet", "dry"),
    ("hard", "soft"),
    ("high", "low"),
    ("light", "dark"),
    ("loud", "quiet"),
    ("full", "empty"),
    ("rich", "poor"),
    ("strong", "weak"),
    ("sweet", "sour"),
    ("thick", "thin"),
    ("wide", "narrow"),
    ("early", "late"),
    ("clean", "dirty"),
    ("deep", "flat"),
    ("good", "bad"),
    ("happy", "sad"),
    ("near", "far"),
    ("inside", "outside"),
    ("black", "white"),
    ("push", "pull"),
    ("buy", "sell"),
    ("win", "lose"),
    ("start", "stop"),
    ("laugh", "cry"),
    ("love", "hate"),
    ("long", "short"),
    ("sharp", "blunt"),
    ("summer", "winter"),
    ("king", "queen"),
    ("brave", "shy"),
    ("rough", "smooth"),
    ("true", "false"),
    ("above", "below"),
)
