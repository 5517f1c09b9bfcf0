import pytest

from verl_ext.suggest import nearest


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("verl_ext.w_reinforc", "verl_ext.w_reinforce"),
        ("w_reinforce", "verl_ext.w_reinforce"),
        ("W-Reinforce", "verl_ext.w_reinforce"),
        ("verl_ext.grpo", "grpo"),
        ("gpro", "grpo"),
    ],
)
def test_the_nearest_name_is_found(typed, meant):
    assert nearest(typed, ["gae", "grpo", "reinforce_plus_plus", "verl_ext.w_reinforce"]) == meant


def test_something_is_suggested_even_for_nonsense():
    assert nearest("qqq", ["gae"]) == "gae"


def test_the_first_of_two_names_alike_but_for_the_prefix_wins():
    assert nearest("rank", ["rank", "verl_ext.rank"]) == "rank"


def test_no_names_are_refused():
    with pytest.raises(ValueError, match="no valid names"):
        nearest("x", [])
