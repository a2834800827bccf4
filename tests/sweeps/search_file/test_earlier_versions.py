"""Search files of earlier versions: read as they were meant, or refused in one sentence."""

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


def test_a_renamed_path_is_taken_wherever_it_stands(write):
    text = FIRST.replace("fixed: {framework.truth_share: 0.5}\n", "")
    present = text.replace("truth_share", "teacher_forcing_ratio")
    assert load(write(text)) == load(write(present))


def test_a_renamed_path_is_taken_in_fixed_and_in_compare(write):
    text = SMALL.replace("space:", "fixed: {framework.truth_share: 0.5}\nspace:")
    assert load(write(text)).fixed == {"framework.teacher_forcing_ratio": 0.5}


def test_an_override_by_the_first_name_takes_a_parameter_out_of_the_space(write):
    file = load(
        write(FIRST.replace("fixed: {framework.truth_share: 0.5}\n", "")),
        ["framework.truth_share=0.5"],
    )
    assert file.fixed == {"framework.teacher_forcing_ratio": 0.5}
    assert file.space["framework"].choice["feedback"] == {}


def test_both_names_of_one_path_are_one_parameter(refusal):
    text = FIRST.replace("choice:\n      share", "choice:\n      share")
    both = text.replace(
        "optim.lr:", "framework.teacher_forcing_ratio: {min: 0.1, max: 0.2}\n  optim.lr:"
    )
    assert "framework.teacher_forcing_ratio" in refusal(both)


def test_per_task_fusion_is_the_only_kind(write, refusal):
    assert load(write(SMALL + "fusion: {per_task: true}\n")) == load(write(SMALL))
    assert "fusion.per_task" in refusal(SMALL + "fusion: {per_task: false}\n")
