"""Words of a corpus: which are frequent, how many are different."""

from data.trees.words import distinct, frequent_words


def test_different_words_are_counted_over_as_many_words_of_both_corpora() -> None:
    short, long = distinct([["a b a b"], ["a b a b c d e f"]], seed=0)
    assert short == long == {"words": 4, "distinct_1": 0.5, "distinct_2": 0.6667}  # ab, ba, ab


def test_no_pair_of_words_reaches_from_one_text_into_the_next() -> None:
    assert distinct([["a b", "a b"]], seed=0)[0]["distinct_2"] == 0.5


def test_words_that_say_nothing_about_a_topic_are_left_out() -> None:
    assert frequent_words(["What is the Murlo?", "Is 7 a murlo's cave?", "murlo murlo"], 9) == {"murlo": 3, "cave": 1}


def test_scripts_without_blanks_are_counted_by_pairs_of_characters() -> None:
    assert frequent_words(["你好吗", "你好"], 1) == {"你好": 2}
