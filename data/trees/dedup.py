"""A turn that says what a kept one says is found: exactly, by spelling, by meaning."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np

from data.trees.config import DedupConfig
from data.trees.engine import Embedder
from data.trees.meaning import CHUNK, EXACT_LIMIT, Meaning, Recall
from data.trees.spelling import Spelling, Spelt, normalise

Verdict = Literal["exact_duplicate", "near_duplicate", "same_meaning"]


class Deduplicator:
    """The kept texts of any number of groups; of those that are the same the first one written stays.

    A text is compared with the kept ones of its own group: whether it is one of them after `normalise`; else whether it is spelt nearly
    like one of them; else whether it means the same. A text that was dropped is no reason to drop another.
    """

    def __init__(self, config: DedupConfig, embed: Embedder | None, exact_limit: int = EXACT_LIMIT) -> None:
        """Starts without members.

        Args:
            config: What counts as the same.
            embed: Gives texts their vectors; may be None where meaning is not compared.
            exact_limit: Members of a group beyond which meaning is looked up by hashes, no longer compared with every member.

        Raises:
            ValueError: Meaning is to be compared, but there is nothing that embeds.
        """
        by_meaning = config.embeddings != "none" and config.threshold is not None
        if by_meaning and embed is None:
            raise ValueError(
                f"tree.dedup.embeddings is {config.embeddings!r}, but nothing here embeds texts; "
                "give the name of a sentence-transformers model, or none to compare spelling only"
            )
        self._embed = embed if by_meaning else None
        self._threshold, self._exact_limit = config.threshold, exact_limit
        self._spelling = None if config.spelling is None else Spelling(config.spelling)
        self._forms: defaultdict[str, set[str]] = defaultdict(set)
        self._meanings: dict[str, Meaning] = {}
        self._numbers: dict[str, int] = {}

    def offer(self, groups: Sequence[str], texts: Sequence[str]) -> list[Verdict | None]:
        """Keeps texts, or says why not; the same as offering them one by one.

        Args:
            groups: For each text the group it belongs to.
            texts: In the order in which they were written. What needs a vector is embedded in one call.

        Returns:
            For each text why it was dropped; None for those that are new: they are members now.

        Raises:
            ValueError: The embedder gave no unit vectors.
        """
        block = _Block(groups, texts)
        for place, (group, form) in enumerate(zip(groups, block.forms, strict=True)):
            if form in self._forms[group]:
                block.verdicts[place] = "exact_duplicate"
        if self._spelling is not None:
            self._compare_spelling(self._spelling, block)
        if self._embed is not None:
            block.vectors, block.vector_rows = self._vectors(self._embed, [texts[place] for place in block.open()])
        for group, places in _by_group(groups).items():
            settled = 0
            while settled < len(places):
                settled += self._settle(block, group, places[settled : settled + CHUNK])
        if self._spelling is not None and block.spelt is not None:
            self._spelling.add(block.spelt, [block.rows[groups[place], block.forms[place]] for place in block.open()])
        return block.verdicts

    def remember(self, groups: Sequence[str], texts: Sequence[str]) -> None:
        """Makes members of texts that were kept in an earlier process, in the order in which they were written."""
        block = _Block(groups, texts)
        if self._spelling is not None:
            spelt = self._spelling.describe([self._number(group) for group in groups], block.forms)
            self._spelling.add(spelt, range(len(texts)))
        for group, form in zip(groups, block.forms, strict=True):
            self._forms[group].add(form)
        if self._embed is not None:
            vectors, rows = self._vectors(self._embed, texts)
            for group, places in _by_group(groups).items():
                self._meaning(group).remember(vectors[[rows[texts[place]] for place in places]])

    def recall(self, sample: int = 1000, seed: int = 0) -> dict[str, Recall]:
        """Measures what hashing finds against comparing with every member.

        Args:
            sample: Members drawn from each group that is hashed; each costs one product with all members of its group.
            seed: Draws them.

        Returns:
            For each group that is hashed its counts; empty where every text was compared with every member.
        """
        return {group: meaning.recall(sample, seed) for group, meaning in self._meanings.items() if meaning.hashed}

    def _number(self, group: str) -> int:
        return self._numbers.setdefault(group, len(self._numbers))

    def _meaning(self, group: str) -> Meaning:
        if group not in self._meanings:
            assert self._threshold is not None
            self._meanings[group] = Meaning(self._threshold, self._exact_limit)
        return self._meanings[group]

    def _compare_spelling(self, spelling: Spelling, block: "_Block") -> None:
        """Settles what is spelt like a member; notes what is spelt alike within the block."""
        for place in block.open():
            block.rows.setdefault((block.groups[place], block.forms[place]), len(block.rows))
        block.spelt = spelling.describe([self._number(group) for group, _ in block.rows], [form for _, form in block.rows])
        known, near = spelling.compare(block.spelt)
        for place in block.open():
            row = block.rows[block.groups[place], block.forms[place]]
            if known[row]:
                block.verdicts[place] = "near_duplicate"
            elif near[row]:
                block.near[place] = near[row]

    def _settle(self, block: "_Block", group: str, places: Sequence[int]) -> int:
        """Decides texts of a group, one after the other; gives how many it came to before the group changed its way of comparing."""
        asked = [place for place in places if block.verdicts[place] is None]
        if not asked:
            return len(places)
        forms = self._forms[group]
        meaning = None if self._embed is None else self._meaning(group)
        # Equal texts are looked up once: a model that repeats itself would make pairs of them all.
        rows = {text: row for row, text in enumerate(dict.fromkeys(block.texts[place] for place in asked))}
        found = None if meaning is None else meaning.compare(block.vectors[[block.vector_rows[text] for text in rows]])
        kept: dict[int, None] = {}
        settled = len(places)
        for place in asked:
            row = rows[block.texts[place]]
            if block.forms[place] in forms:
                block.verdicts[place] = "exact_duplicate"
            elif any(form in forms for form in block.near.get(place, ())):
                block.verdicts[place] = "near_duplicate"
            elif found is not None and (found.known[row] or any(other in kept for other in found.near[row])):
                block.verdicts[place] = "same_meaning"
            else:
                forms.add(block.forms[place])
                kept[row] = None
                if meaning is not None and len(kept) == meaning.room:
                    settled = places.index(place) + 1
                    break
        if meaning is not None and found is not None:
            meaning.add(found, list(kept))
        return settled

    @staticmethod
    def _vectors(embed: Embedder, texts: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
        """A unit vector for each different text, with the row it stands in."""
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        if not rows:
            return np.empty((0, 0), np.float32), rows
        vectors = embed(list(rows))
        if vectors.ndim != 2 or len(vectors) != len(rows) or vectors.dtype != np.float32:
            got = f"{vectors.dtype} {list(vectors.shape)}"
            raise ValueError(
                f"embedding {len(rows)} texts gave {got}, expected float32 [{len(rows)}, dimension]; see tree.dedup.embeddings"
            )
        lengths = np.linalg.norm(vectors, axis=1)
        # Zero is for a text without tokens: it resembles nothing.
        wrong = np.flatnonzero(~((np.abs(lengths - 1) < 1e-2) | (lengths == 0)))
        if len(wrong):
            text, length = list(rows)[wrong[0]], lengths[wrong[0]]
            raise ValueError(f"embedding {text!r} gave a vector of length {length}, expected 1; see tree.dedup.embeddings")
        return vectors, rows


class _Block:
    """Texts that are offered together, with what is known of them so far."""

    def __init__(self, groups: Sequence[str], texts: Sequence[str]) -> None:
        if len(groups) != len(texts):
            raise ValueError(f"{len(texts)} texts came with {len(groups)} groups; give one group for each text")
        self.groups, self.texts = groups, texts
        self.forms = [normalise(text) for text in texts]
        self.verdicts: list[Verdict | None] = [None] * len(texts)
        self.spelt: Spelt | None = None
        self.rows: dict[tuple[str, str], int] = {}  # of `spelt`, by group with form
        self.near: dict[int, list[str]] = {}
        self.vectors = np.empty((0, 0), np.float32)
        self.vector_rows: dict[str, int] = {}

    def open(self) -> list[int]:
        """Places of the texts that nothing is held against."""
        return [place for place, verdict in enumerate(self.verdicts) if verdict is None]


def _by_group(groups: Sequence[str]) -> dict[str, list[int]]:
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        places[group].append(place)
    return places
