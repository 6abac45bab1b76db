"""Pictures of the Terrarium: what is drawn is what is said."""

import random
from collections import Counter

import numpy as np
import pytest

from data.terrarium.crowds import MINUTE_WORDS, NUMBERS, crowd
from data.terrarium.draw import COLOURS, SIZE
from data.terrarium.sample import split_of
from data.terrarium.scenes import LATTICE, SceneBuilder, some_things, some_tiles
from data.terrarium.skills import SKILLS, mixture, samples
from data.terrarium.visual import KNOWN_VISUAL_SKILLS, PATTERNS, TARGET_SKILLS, target_texts

VISUAL = {**KNOWN_VISUAL_SKILLS, **TARGET_SKILLS}


def pixels(sample) -> np.ndarray:
    return np.asarray(sample.picture())


@pytest.mark.parametrize("skill", VISUAL)
def test_the_same_seed_draws_the_same_pictures_and_words(skill):
    first, again = (samples(skill, "test", 5, seed=3) for _ in range(2))
    assert [sample.rounds for sample in first] == [sample.rounds for sample in again]
    assert all(np.array_equal(pixels(a), pixels(b)) for a, b in zip(first, again, strict=True))
    assert pixels(first[0]).shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize("skill", VISUAL)
def test_train_and_test_share_no_picture_even_across_seeds(skill):
    train = {pixels(sample).tobytes() for sample in samples(skill, "train", 60, seed=0)}
    test = {pixels(sample).tobytes() for sample in samples(skill, "test", 60, seed=1)}
    assert not train & test
    assert len(test) == 60


@pytest.mark.parametrize("skill", SKILLS)
def test_every_sample_lies_in_the_split_that_was_asked_for(skill):
    assert {split_of(sample.key) for sample in samples(skill, "test", 10, seed=0)} == {"test"}


def test_the_counted_number_is_the_number_of_things_drawn():
    seen = set()
    for sample in samples("counting", "train", 80, seed=0):
        things = sample.key.count("Thing(kind=")  # the key is the scene that is drawn
        words = sample.rounds[0][1].split()
        assert int(words[2]) == things
        assert words[:2] == (["There", "is"] if things == 1 else ["There", "are"])
        seen.add(things)
    assert seen == set(range(1, 10))


def test_every_thing_of_a_scene_is_visible_in_its_colour():
    for seed in range(30):
        builder = SceneBuilder(rng=random.Random(seed), texture="plain")
        things = some_tiles(builder, 5, (1, 2)) + some_things(builder, 2, (4.0, 6.0))
        picture = np.asarray(builder.build().draw()).astype(int)
        for thing in things:
            x, y = (int(at) for at in thing.centre)
            r = int(thing.radius) + 1
            near = picture[max(0, y - r) : y + r, max(0, x - r) : x + r]
            assert (np.abs(near - np.array(COLOURS[thing.colour])).sum(-1) < 60).sum() >= 3, thing


def test_the_clock_hand_points_where_the_answer_says():
    for seed in range(60):
        builder = SceneBuilder(rng=random.Random(seed), texture="plain")
        clock = builder.clock()
        assert clock is not None
        picture = np.asarray(builder.build().draw()).astype(int)
        red = ((picture[..., 0] - picture[..., 1:].max(-1)) > 60).nonzero()
        across, up = red[1].mean() + 0.5 - clock.centre[0], clock.centre[1] - red[0].mean() - 0.5
        assert 5 * round(np.degrees(np.arctan2(across, up)) / 30) % 60 == clock.minute


def test_wing_patterns_look_alike_but_differ():
    flat = {letter: "".join(rows) for letter, rows in PATTERNS.items()}
    distances = [sum(a != b for a, b in zip(flat[one], flat[two], strict=True)) for one in flat for two in flat if one < two]
    assert min(distances) >= 2
    assert sorted(distances)[len(distances) // 2] <= 6


def test_texture_answers_are_balanced_and_true():
    drawn = samples("texture", "train", 400, seed=0)
    answers = Counter(sample.rounds[0][1] for sample in drawn)
    assert 140 < answers["yes"] < 260


def test_things_never_overlap_each_other_or_the_extras():
    for seed in range(40):
        builder = SceneBuilder(rng=random.Random(seed))
        clock = builder.clock()
        builder.word("cat")
        things = some_things(builder, 3, (4.0, 6.0)) + some_tiles(builder, 4, (1, 2))
        for number, one in enumerate(things):
            for other in [*things[number + 1 :], clock]:
                gaps = [abs(a - b) - one.radius - other.radius for a, b in zip(one.centre, other.centre, strict=True)]
                assert max(gaps) >= -1e-6


def test_clocks_and_tiles_stand_on_the_lattice_that_the_tower_was_trained_on():
    builder = SceneBuilder(rng=random.Random(0))
    clock = builder.clock()
    assert clock is not None
    assert all((at - clock.radius) % LATTICE == 0 for at in clock.centre)
    tiles = some_tiles(builder, 4, (1, 2))
    assert all((2 * at) % LATTICE == 0 for tile in tiles for at in tile.centre)


def test_a_crowd_caption_names_everything_that_has_to_be_seen():
    names = {*NUMBERS, *MINUTE_WORDS}
    seen = Counter()
    for sample in samples("crowd", "train", 300, seed=0):
        caption = sample.rounds[0][1]
        parts = caption.split(", ")
        assert parts[0].endswith(" ground")
        assert parts[1].split()[0] in names
        seen.update(part.split()[0] for part in parts if part.split()[0] in ("clock", "sign", "pattern"))
    assert min(seen["clock"], seen["sign"], seen["pattern"]) > 60


def test_the_tokenizer_corpus_gives_no_target_answer_away():
    texts = " ".join(target_texts())
    assert "There are" not in texts
    assert not any(character.isdigit() for character in texts)


def test_a_mixture_holds_what_was_asked_for_in_one_random_order():
    drawn = mixture({"colour": 30, "facts": 20}, seed=0)
    assert Counter(sample.skill for sample in drawn) == {"colour": 30, "facts": 20}
    assert len({sample.skill for sample in drawn[:12]}) == 2


def test_an_unknown_skill_is_answered_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'counting'"):
        samples("countin", "train", 1, seed=0)


def test_crowds_are_drawn_from_the_generator_alone():
    assert crowd(random.Random(7)).key == crowd(random.Random(7)).key
