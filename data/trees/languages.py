"""Turns in another language than the wanted one."""

import difflib
from collections.abc import Callable

ENOUGH = 40  # letters from which on a language can be told
CHANCE = 0.001  # a text is in another language when the wanted one is less likely: sentences in others give 1e-4, lists of names 1e-2
NO_LANGUAGE = "zxx"  # what the identifier calls code, tables, formulas


def is_in_another_language(wanted: str) -> Callable[[str], bool]:
    """Makes the test whether a text is surely not in one language; too short texts, texts of no language pass.

    Args:
        wanted: ISO 639-1 code of the language, such as "en".

    Raises:
        ValueError: The language is none that py3langid tells.
    """
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    known = sorted(identifier.labels)
    if wanted not in known:
        near = difflib.get_close_matches(wanted.lower(), known, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"tree.filters.language: unknown language {wanted!r}{hint} Expected an ISO 639-1 code: {', '.join(known)}")

    def is_foreign(text: str) -> bool:
        if sum(map(str.isalpha, text)) < ENOUGH:
            return False
        ranked = identifier.rank(text)
        return ranked[0][0] not in (wanted, NO_LANGUAGE) and dict(ranked)[wanted] < CHANCE

    return is_foreign
