"""The demo's learning rates."""

from train.demo import ways
from train.rates import choose, load_rates

ROWS = [
    {"preset": "full", "learning_rate": 1e-3, "target": 0.95},
    {"preset": "full", "learning_rate": 1e-4, "target": 0.40},
    {"preset": "full", "learning_rate": 3e-4, "target": 0.90},
    {"preset": "sa_proj", "learning_rate": 1e-3, "target": 0.55},
    {"preset": "sa_proj", "learning_rate": 2e-3, "target": 0.70},
]


def test_the_smallest_rate_that_reaches_the_goal_is_taken():
    assert choose(ROWS, 0.85)["full"] == 3e-4


def test_a_preset_that_never_reaches_the_goal_gets_its_best_rate():
    assert choose(ROWS, 0.85)["sa_proj"] == 2e-3


def test_the_committed_sweep_holds_every_preset_of_the_demo():
    rates = load_rates()
    assert {way.preset for way in ways(rates.matched, rates.fixed)} <= set(rates.matched)


def test_the_demo_tunes_four_ways_at_matched_rates_and_at_one_rate():
    found = ways({"full": 1e-4, "sa_proj": 2e-3, "mlp_gate_up": 1e-3}, 1e-3)
    assert [way.name for way in found[:4]] == [way.name for way in found[4:]] == ["full", "full + trees", "sa_proj", "mlp_gate_up"]
    assert {way.learning_rate for way in found[4:]} == {1e-3}
    assert [way.learning_rate for way in found[:4]] == [1e-4, 1e-4, 2e-3, 1e-3]
