"""Turns that repeat themselves in a loop."""

import re

RUN = 50  # letters, about ten words: a run of so many that stood before is a repeat
SHARE = 0.6  # of a text's letters in such runs, from which on it is a loop
SHORTEST = 100  # letters that a text needs for its share to say something
TIMES, STRETCH = 4, 60  # a piece that stands so often in a row, over so many letters, is a loop wherever it stands
SEED = STRETCH // TIMES  # letters: a stretch of copies repeats each run of so many at the distance of one copy

_LIST_MARK = re.compile(r"^\s*(?:\d+[.):]|[-*•])\s+", re.MULTILINE)
_TABLE = re.compile(r"^[ \t]*\|[ \t:|]*-[ \t:|-]*(?:\n[ \t]*\|.*)+", re.MULTILINE)  # of Markdown, from the rule under its head on
_VALUE = re.compile(r"(?<=\|)[ \t*]*[^\W\d_]{1,12}[ \t*]*(?=\|)")


def is_loop(text: str) -> bool:
    """Whether a text repeats itself in a loop.

    Only letters and digits count, in any script and case; numbers and bullets that begin a line do not, since loops count on, nor do
    cells of one word in a Markdown table ("yes", "no"). Either of two signs makes a loop:

    - one piece stands four times or more in direct succession over at least 60 letters;
    - of at least 100 letters, 60 % or more lie in runs of 50 that stood in the text before, as with a passage written three times.

    The second is the share of duplicate 10-grams of Rae et al. 2021 (arXiv 2112.11446, table A1), counted in letters (50 are about ten
    English words) so that it holds for scripts without spaces. Their limit for web pages is 10 %. A turn is shorter, often a list or verse:
    lines that differ in every tenth word share no run of 50 letters, a poem of four stanzas with a refrain as long as these reaches 37 %.
    Songs that tell all again in each verse count as loops; texts below 60 letters never do, nor do digits alone, which may be a table.
    """
    counted = _TABLE.sub(lambda table: _VALUE.sub("", table[0]), _LIST_MARK.sub("", text))
    letters = "".join(filter(str.isalnum, counted.casefold()))
    seeds = [letters[start : start + SEED] for start in range(len(letters) - SEED + 1)]
    if len(seeds) - len(set(seeds)) <= STRETCH - 2 * SEED:  # nearly every text ends here: either sign repeats more of them
        return False
    return _has_copies_in_a_row(letters) or (len(letters) >= SHORTEST and repeated_share(letters) >= SHARE)


def repeated_share(letters: str) -> float:
    """Share of the letters that lie in a run of `RUN` which stands earlier as well, and is not of digits alone; 0 for shorter texts."""
    seen: set[str] = set()
    repeated = covered = 0
    for start in range(len(letters) - RUN + 1):
        run = letters[start : start + RUN]
        if run in seen and not run.isnumeric():
            repeated += start + RUN - max(start, covered)
            covered = start + RUN
        seen.add(run)
    return repeated / max(len(letters), 1)


def _has_copies_in_a_row(letters: str) -> bool:
    """Whether one piece stands `TIMES` times or more in direct succession over at least `STRETCH` letters."""
    last: dict[str, int] = {}
    distance = streak = 0
    for start in range(len(letters) - SEED + 1):
        run = letters[start : start + SEED]
        before = start - last.get(run, start)
        streak = streak + 1 if before and before == distance else min(before, 1)
        distance, last[run] = before, start
        stretch = distance + streak + SEED - 1
        if streak and stretch >= max(STRETCH, TIMES * distance) and not letters[start : start + distance].isnumeric():
            return True
    return False
