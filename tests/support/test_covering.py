from itertools import combinations, product

import pytest

from tests.support.covering import covering

AXES = ("abcd", (1, 2), "wxyz", (0.5, 0.25, 0.125))


def values_of(axis: int, found: list[tuple[object, ...]]) -> set[object]:
    return {combination[axis] for combination in found}


@pytest.mark.parametrize("pairs", [False, True])
def test_each_value_of_each_axis_appears(pairs: bool) -> None:
    found = covering(*AXES, pairs=pairs)
    assert [values_of(axis, found) for axis in range(len(AXES))] == [set(axis) for axis in AXES]
    assert set(found) <= set(product(*AXES))
    assert len(found) == len(set(found))


def test_single_values_take_as_many_combinations_as_the_longest_axis_has() -> None:
    assert len(covering(*AXES)) == 4
    assert covering("ab") == [("a",), ("b",)]


def test_each_pair_appears_in_fewer_combinations_than_there_are() -> None:
    found = covering(*AXES, pairs=True)
    for one, other in combinations(range(len(AXES)), 2):
        appearing = {(combination[one], combination[other]) for combination in found}
        assert appearing == set(product(AXES[one], AXES[other]))
    assert len(found) < 4 * 2 * 4 * 3 / 4


def test_two_axes_in_pairs_are_their_product() -> None:
    assert sorted(covering("ab", "xyz", pairs=True)) == sorted(product("ab", "xyz"))


def test_the_same_axes_give_the_same_combinations_in_the_same_order() -> None:
    assert covering(*AXES, pairs=True) == covering(*map(list, AXES), pairs=True)
