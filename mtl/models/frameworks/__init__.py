"""Multi-task frameworks: models that share encoders, and possibly outputs, between tasks.

A new framework is one class here, one line in ``FRAMEWORKS`` and one YAML file in
``sweeps/configs/framework``. The keyword-only parameters of its constructor are its config keys.
"""

from mtl.models.frameworks.base import Framework, ModuleFactory, Outputs, States, TeacherForcing
from mtl.models.frameworks.feedback import Feedback
from mtl.models.frameworks.sharing import ShareBottom, ShareEncoder, SingleTask

__all__ = ["FRAMEWORKS", "Framework", "ModuleFactory", "Outputs", "States", "TeacherForcing"]

FRAMEWORKS: dict[str, type[Framework]] = {
    "single_task": SingleTask,
    "share_encoder": ShareEncoder,
    "share_bottom": ShareBottom,
    "feedback": Feedback,
}
