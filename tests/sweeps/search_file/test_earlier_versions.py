"""Search files of earlier versions: renamed keys are read, removed settings are refused."""

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
    text = FIRST.replace("choice:\n      share", "choice:\n      share")
    both = text.replace(
        "optim.lr:", "framework.teacher_forcing_ratio: {min: 0.1, max: 0.2}\n  optim.lr:"
    )
    assert "framework.teacher_forcing_ratio" in refusal(both)


def test_fusion_per_task_may_only_be_true(write, refusal):
    assert load(write(SMALL + "fusion: {per_task: true}\n")) == load(write(SMALL))
    assert "fusion.per_task" in refusal(SMALL + "fusion: {per_task: false}\n")
