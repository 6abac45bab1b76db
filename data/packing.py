"""Rows of a fixed number of tokens, filled with whole samples."""

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np

WINDOW = 1 << 15  # samples of the order that are packed together
CARRY = WINDOW // 4  # of them, those that may wait for the next window
GIVE_UP = WINDOW // 128  # of them, those that may wait although they have a row, since it is one of the emptiest
WORTHWHILE = 32  # rounds end with the one that places less than this part of what is left
CROWDED = 0.75  # part of a window's rows that may be spoken for by samples longer than half a row
SAMPLES_TO_FILL = 4  # a row that holds fewer samples of mean length cannot be filled


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Which samples share a row.

    Attributes:
        rows: int64 array [rows + 1]: row i holds `samples[rows[i] : rows[i + 1]]`.
        samples: int64 array [samples]: positions in the order that was packed, each exactly once.
    """

    rows: np.ndarray
    samples: np.ndarray


def pack(lengths: np.ndarray, capacity: int, *, seed: int) -> Packing:
    """Fills rows to the last token where lengths allow it, and keeps the order random.

    The order is packed window by window, in rounds. In each, half of what is left of the window forms rows as it comes; a row is then
    completed by the one other sample that has exactly the missing length, if need be in place of the row's last. Samples that found no
    row wait for the next window. Where too many would wait (when all have one length, say), or no window follows, the longest go first,
    each into the fullest row that has room. At last the window's rows are shuffled.

    A window's rows depend on nothing that follows it, so a longer order begins with the rows of a shorter one, up to the shorter
    one's last window. No sample is cut.

    Args:
        lengths: Tokens of each sample, in the planned order, which is random already; int array [samples].
        capacity: Tokens of a row.
        seed: Draws who meets whom, the order of the rows.

    Raises:
        ValueError: A sample is empty or longer than a row.
    """
    lengths = _checked(lengths, capacity)
    left = np.empty(0, np.int64)
    members, sizes = [left], [left]
    for first in range(0, len(lengths), WINDOW):
        draw = np.random.default_rng([seed, first // WINDOW])
        fresh = draw.permutation(np.arange(first, min(first + WINDOW, len(lengths))))
        half = max(0, len(fresh) - len(left)) // 2  # samples that waited are in the half that forms rows, so that few wait twice
        pool = np.concatenate([draw.permutation(np.concatenate([left, fresh[:half]])), fresh[half:]])
        placed, counts = _fill_window(lengths[pool], capacity, last=first + WINDOW >= len(lengths))
        left = np.delete(pool, placed)
        order = draw.permutation(len(counts))
        members.append(pool[placed[_spans((np.cumsum(counts) - counts)[order], counts[order])]])
        sizes.append(counts[order])
    return Packing(rows=np.concatenate([[0], np.cumsum(np.concatenate(sizes))]), samples=np.concatenate(members))


def fill(packing: Packing, lengths: np.ndarray, capacity: int) -> float:
    """Share of the rows' tokens that are real, 0 to 1; 1 where there is no row.

    Args:
        packing: The rows.
        lengths: Tokens of each sample, as they were packed.
        capacity: Tokens of a row.
    """
    rows = len(packing.rows) - 1
    return float(np.asarray(lengths)[packing.samples].sum(dtype=np.int64) / (rows * capacity)) if rows else 1.0


def advice(mean_length: float, capacity: int) -> str | None:
    """One line for those whose rows are too short to be filled; None where they are not.

    Args:
        mean_length: Tokens of a sample, on average.
        capacity: Tokens of a row.
    """
    if capacity >= SAMPLES_TO_FILL * mean_length:
        return None
    return (
        f"rows of {capacity} tokens hold only {capacity / mean_length:.1f} samples of {mean_length:.0f} tokens, so gaps will stay empty; "
        f"set data.packing.length to {int(np.ceil(SAMPLES_TO_FILL * mean_length))} or more"
    )


def _checked(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Lengths as int64."""
    lengths = np.asarray(lengths)
    if lengths.ndim != 1 or (lengths.size and lengths.dtype.kind not in "iu"):
        raise ValueError(f"lengths: got {lengths.dtype} of shape {lengths.shape}, expected whole numbers in one dimension")
    wrong = (lengths < 1) | (lengths > capacity)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"sample {first} of the order has {lengths[first]} tokens, expected 1 to {capacity}, the length of a row; "
            "raise data.packing.length, or leave the sample out"
        )
    return lengths.astype(np.int64)


def _fill_window(tokens: np.ndarray, capacity: int, *, last: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a window's samples, of all of them in the last one: positions in `tokens`, row after row; samples of each row."""
    pool = np.arange(len(tokens))
    members, sizes = [pool[:0]], [pool[:0]]
    # Samples longer than half a row must each have their own: exact rows without one would use up what those need as company.
    crowded = np.count_nonzero(2 * tokens > capacity) * capacity > CROWDED * tokens.sum()
    placed = 0 if crowded else len(pool)
    while placed * WORTHWHILE > len(pool) > 0:
        found, counts = _exact_rows(tokens[pool], capacity)
        members.append(pool[found])
        sizes.append(counts)
        pool, placed = np.delete(pool, found), len(found)
    if len(pool) > (0 if last else CARRY):
        found, counts = _best_fit(tokens[pool], capacity, give_up=0 if last else GIVE_UP)
        members.append(pool[found])
        sizes.append(counts)
    return np.concatenate(members), np.concatenate(sizes)


def _exact_rows(tokens: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows without a gap, from samples in random order: positions in `tokens`, row after row; samples of each row."""
    ends = np.cumsum(tokens)
    firsts, stops = _runs(ends, capacity)
    sizes = stops - firsts
    missing = capacity - (ends[stops - 1] - ends[firsts] + tokens[firsts])
    partner = np.where(missing == 0, stops - 1, -1)  # a row that is full as it is has its own last sample as partner
    sizes[missing == 0] -= 1
    narrow = tokens[stops[-1] :].astype(np.min_scalar_type(capacity))  # 16 bits are sorted several times faster
    stock = stops[-1] + np.argsort(narrow, kind="stable")
    for swap_last in (False, True):
        rows = np.flatnonzero(partner < 0)
        if swap_last:
            sizes[rows] -= 1
            missing[rows] += tokens[firsts[rows] + sizes[rows]]
        found, at = _match(missing[rows], tokens[stock])
        partner[rows[found]] = stock[at]
        stock = np.delete(stock, at)
    done = partner >= 0
    sizes = sizes[done]
    return np.insert(_spans(firsts[done], sizes), np.cumsum(sizes), partner[done]), sizes + 1


def _runs(ends: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """First positions of neighbours that fit a row together, and those after their last, up to half of all tokens."""
    half = int(np.searchsorted(ends, ends[-1] // 2)) + 1
    starts = np.concatenate([[0], ends[: half - 1]])
    stops = np.searchsorted(ends, starts + capacity, side="right")
    follow, firsts, at = stops.tolist(), [], 0
    while at < half:
        firsts.append(at)
        at = follow[at]
    return np.array(firsts), stops[firsts]


def _match(wanted: np.ndarray, stock: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs equal numbers, each used once: positions in `wanted`, positions in the sorted `stock`."""
    order = np.argsort(wanted, kind="stable")
    wanted = wanted[order]
    turn = np.arange(len(wanted)) - np.searchsorted(wanted, wanted)
    at = np.searchsorted(stock, wanted) + turn
    found = np.flatnonzero(at < len(stock))
    found = found[stock[at[found]] == wanted[found]]
    return order[found], at[found]


def _spans(firsts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Positions first, first + 1, ... of each span, span after span."""
    ends = np.cumsum(sizes)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(firsts - ends + sizes, sizes)


def _best_fit(tokens: np.ndarray, capacity: int, *, give_up: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows from all samples, less the emptiest that hold the last `give_up`: positions in `tokens`, row after row; samples of each row."""
    order = np.argsort(tokens, kind="stable")[::-1]
    row_of = _rows_of_longest_first(tokens[order], capacity)
    filled = np.bincount(row_of, weights=tokens[order])
    sizes = np.bincount(row_of)
    members = order[np.argsort(row_of, kind="stable")]
    fullest = np.argsort(-filled, kind="stable")
    kept = fullest[np.cumsum(sizes[fullest]) <= len(tokens) - give_up]
    return members[_spans((np.cumsum(sizes) - sizes)[kept], sizes[kept])], sizes[kept]


def _rows_of_longest_first(tokens: np.ndarray, capacity: int) -> np.ndarray:
    """Row of each sample, all sorted by falling length, where each goes into the fullest row with room for it."""
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []
    row_of: list[int] = []
    rows = 0
    values, counts = np.unique(tokens, return_counts=True)
    for length, count in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while count:  # samples of one length for rows of one room are placed at once
            found = bisect_left(rooms, length)
            if found == len(rooms):
                rooms.append(capacity)
                by_room[capacity] = list(range(rows, rows + max(1, count // (capacity // length))))
                rows += len(by_room[capacity])
            room = rooms[found]
            ids = by_room[room]
            each = min(room // length, count)
            number = min(count // each, len(ids))
            count -= each * number
            chosen = ids[-number:]
            del ids[-number:]
            row_of += chosen * each
            if not ids:
                del rooms[found], by_room[room]
            if room - each * length not in by_room:
                insort(rooms, room - each * length)
                by_room[room - each * length] = []
            by_room[room - each * length] += chosen
    return np.array(row_of)
