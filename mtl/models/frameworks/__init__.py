"""Multi-task frameworks: how the tasks share the encoder, and what they hear of each other.

A new framework is one class here, one line in ``FRAMEWORKS`` and one YAML in
``sweeps/configs/framework``: its keyword-only constructor parameters are its config keys.
"""

from mtl.models.frameworks.base import Framework, Outputs, ModuleFactory, States, TeacherForcing
from mtl.models.frameworks.feedback import Feedback
from mtl.models.frameworks.sharing import ShareBottom, ShareEncoder, SingleTask

__all__ = ["FRAMEWORKS", "Framework", "Outputs", "ModuleFactory", "States", "TeacherForcing"]

FRAMEWORKS: dict[str, type[Framework]] = {
    "single_task": SingleTask,
    "share_encoder": ShareEncoder,
    "share_bottom": ShareBottom,
    "feedback": Feedback,
}
