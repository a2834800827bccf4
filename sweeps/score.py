"""Score a file of predictions against a file of labels, both in the challenge's format.

python sweeps/score.py --truth FILE --predictions FILE

Print one JSON object: p_mtl, ccc_valence, ccc_arousal, f1_expression, f1_action_units, per_class,
per_unit (F1 of each expression class and action unit), p_labelled, frames. The score of a task
without labels is null, and p_mtl is null unless all four tasks have labels; p_labelled is the sum
of the scores of the tasks with labels. Frames that are only in the predictions are ignored.
"""

import json
from collections.abc import Sequence

import numpy as np

from mtl.dataset.annotations import Annotations, read_file
from mtl.errors import InputError
from mtl.evaluation.metrics import scores
from mtl.predictions.table import outputs_of
from mtl.tasks import LABEL_COLUMNS
from sweeps.cli.arguments import make_parser
from sweeps.cli.run_program import run_program


def main(argv: Sequence[str] | None = None) -> int:
    """Compare predictions with labels and print the scores as JSON: the program ``score.py``.

    Args:
        argv: Arguments of the command line; None for those of the process.

    Returns:
        Exit code 0.

    Raises:
        InputError: If a file cannot be read, or a labelled frame or value is not predicted.
    """
    parser = make_parser(__doc__)
    parser.add_argument("--truth", required=True, metavar="FILE", help="file of labels")
    parser.add_argument(
        "--predictions", required=True, metavar="FILE", help="file of predictions (a submission)"
    )
    arguments = parser.parse_args(argv)
    truth, predicted = read_file(arguments.truth), read_file(arguments.predictions)
    rows = _rows_of(truth, predicted, arguments.predictions)
    values, mask = predicted.values[rows], predicted.mask[rows]
    _check_labels_are_predicted(truth, mask, arguments.predictions)
    result = scores(outputs_of(values, mask), truth.values, truth.mask)
    print(json.dumps(result, indent=2))
    return 0


def _rows_of(truth: Annotations, predicted: Annotations, path: str) -> np.ndarray:
    """Return the index of the prediction for each frame of the label file, shape (frames,).

    Args:
        truth: Content of the label file.
        predicted: Content of the prediction file.
        path: Path of the prediction file, for the error message.

    Raises:
        InputError: If a frame of the label file has no prediction.
    """
    row = {image: index for index, image in enumerate(predicted.images)}
    absent = [image for image in truth.images if image not in row]
    if absent:
        raise InputError(
            f"{path} lacks {len(absent)} of the truth's {len(truth.images)} frames, "
            f"the first is {absent[0]}: predict every frame of the truth"
        )
    return np.array([row[image] for image in truth.images], np.int64)


def _check_labels_are_predicted(truth: Annotations, mask: np.ndarray, path: str) -> None:
    missing = truth.mask & ~mask
    if missing.any():
        frame, column = np.argwhere(missing)[0]
        raise InputError(
            f"{path} holds the missing value for {missing.sum()} of the truth's "
            f"{truth.mask.sum()} labels, the first is {LABEL_COLUMNS[column]} of "
            f"{truth.images[frame]}: predict every labelled value"
        )


if __name__ == "__main__":
    run_program(main)
