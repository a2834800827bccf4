import pytest

from mtl.errors import InputError
from mtl.folds import select_videos

# 20 videos of 8 subjects: two with 5, two with 3, four with 1.
SUBJECTS = [s for s, n in zip("abcdefgh", (5, 5, 3, 3, 1, 1, 1, 1), strict=True) for _ in range(n)]
NAMES = [f"{subject}{place}" for place, subject in enumerate(SUBJECTS)]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("fraction", [0.01, 0.25, 0.5, 0.8, 0.99])
def test_subjects_stay_together_and_both_parts_have_some(fraction: float, seed: int) -> None:
    parts = select_videos(NAMES, SUBJECTS, fraction, seed)
    assert list(parts) == NAMES
    by_part = {
        part: {s for n, s in zip(NAMES, SUBJECTS, strict=True) if parts[n] == part}
        for part in ("select", "confirm")
    }
    assert by_part["select"]
    assert by_part["confirm"]
    assert not by_part["select"] & by_part["confirm"]


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_the_share_is_near(fraction: float) -> None:
    """Half of the largest subject is all that whole subjects may cost."""
    for seed in range(20):
        parts = list(select_videos(NAMES, SUBJECTS, fraction, seed).values())
        assert abs(parts.count("confirm") - fraction * len(NAMES)) <= 2.5


def test_the_draw_follows_from_the_seed_not_from_the_order() -> None:
    parts = select_videos(NAMES, SUBJECTS, 0.5, 3)
    assert select_videos(NAMES[::-1], SUBJECTS[::-1], 0.5, 3) == parts
    assert any(select_videos(NAMES, SUBJECTS, 0.5, seed) != parts for seed in range(5))


def test_nothing_to_confirm_puts_all_into_select() -> None:
    assert set(select_videos(NAMES, SUBJECTS, 0.0, 3).values()) == {"select"}
    assert select_videos(["only"], ["one"], 0.0, 3) == {"only": "select"}


def test_two_subjects_are_one_each() -> None:
    for fraction in (0.1, 0.5, 0.9):
        parts = select_videos(["x", "y", "z"], ["a", "b", "b"], fraction, 0)
        assert set(parts.values()) == {"select", "confirm"}
        assert parts["y"] == parts["z"]


@pytest.mark.parametrize("subjects", [[], ["a", "a"]])
def test_one_subject_cannot_be_divided(subjects: list[str]) -> None:
    names = [f"video{place}" for place in range(len(subjects))]
    with pytest.raises(InputError, match=r"search.confirm = 0.5 .*at least 2 .*search.confirm=0"):
        select_videos(names, subjects, 0.5, 0)
