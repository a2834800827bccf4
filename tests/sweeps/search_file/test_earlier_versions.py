"""Search files of earlier versions: renamed keys are read, removed settings are refused."""

import pytest

from sweeps.search_file import load
from tests.support.search_files import SMALL

FIRST = """
name: feedback
data: demo
fixed: {framework.truth_share: 0.5}
space:
  framework:
    choice:
      share_encoder: {}
      feedback: {framework.truth_share: {min: 0.25, max: 0.75}}
  optim.lr: {min: 1e-4, max: 1e-2, log: true}
"""


def test_renamed_paths_of_the_space_are_read(write):
    text = FIRST.replace("fixed: {framework.truth_share: 0.5}\n", "")
    present = text.replace("truth_share", "teacher_forcing_ratio")
    assert load(write(text)) == load(write(present))


def test_renamed_paths_of_fixed_and_compare_are_read(write):
    text = SMALL.replace("space:", "fixed: {framework.truth_share: 0.5}\nspace:")
    assert load(write(text)).fixed == {"framework.teacher_forcing_ratio": 0.5}


def test_an_override_by_the_old_name_removes_the_parameter_from_the_space(write):
    file = load(
        write(FIRST.replace("fixed: {framework.truth_share: 0.5}\n", "")),
        ["framework.truth_share=0.5"],
    )
    assert file.fixed == {"framework.teacher_forcing_ratio": 0.5}
    assert file.space["framework"].choice["feedback"] == {}


def test_old_and_new_name_of_a_path_are_the_same_parameter(refusal):
    both = FIRST.replace(
        "optim.lr:", "framework.teacher_forcing_ratio: {min: 0.1, max: 0.2}\n  optim.lr:"
    )
    assert "framework.teacher_forcing_ratio" in refusal(both)


NEW_NAME = "framework.teacher_forcing_ratio"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("fixed.framework.truth_share=0.3", f"fixed.{NEW_NAME}=0.3"),
        ("space.framework.truth_share={values: [0.1]}", f"space.{NEW_NAME}={{values: [0.1]}}"),
        ("fixed={framework.truth_share: 0.3}", f"fixed={{{NEW_NAME}: 0.3}}"),
        ("framework.truth_share=0.3", f"{NEW_NAME}=0.3"),
    ],
)
def test_an_override_by_the_old_name_is_one_by_the_new_name(write, old, new):
    assert load(write(SMALL), [old]).model_dump() == load(write(SMALL), [new]).model_dump()


def test_an_override_of_compare_may_have_the_old_name(write):
    text = SMALL.replace("space: {", "space: {framework.truth_share: {values: [0.1, 0.2]}, ")
    assert load(write(text), ["compare.by=[framework.truth_share]"]).compare.by == (NEW_NAME,)


def test_a_path_in_fixed_and_in_space_is_refused_under_either_name(refusal):
    text = SMALL.replace("space: {", "space: {framework.truth_share: {values: [0.1, 0.2]}, ")
    for name in ("framework.truth_share", NEW_NAME):
        assert "fixed and in space" in refusal(text, [f"fixed.{name}=0.3"])


@pytest.mark.parametrize(
    "text",
    [
        SMALL + f"fixed: {{framework.truth_share: 0.1, {NEW_NAME}: 0.9}}\n",
        SMALL.replace(
            "space: {",
            f"space: {{framework.truth_share: {{values: [0.1]}}, {NEW_NAME}: {{values: [0.2]}}, ",
        ),
        FIRST.replace(
            "feedback: {framework.truth_share: {min: 0.25, max: 0.75}}",
            f"feedback: {{framework.truth_share: {{values: [0.1]}}, {NEW_NAME}: {{values: [1]}}}}",
        ),
    ],
)
def test_a_path_under_both_names_is_refused(refusal, text):
    assert f"{NEW_NAME} is given under two names" in refusal(text)


def test_fusion_per_task_may_only_be_true(write, refusal):
    assert load(write(SMALL + "fusion: {per_task: true}\n")) == load(write(SMALL))
    assert load(write(SMALL), ["fusion.per_task=true"]) == load(write(SMALL))
    for found in ("false", "null", '"yes"'):
        assert f"fusion.per_task = {found} is no longer a setting" in refusal(
            SMALL + f"fusion: {{per_task: {found}}}\n"
        )
    assert "fusion.per_task = false" in refusal(SMALL, ["fusion.per_task=false"])
