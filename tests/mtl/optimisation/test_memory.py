"""Peak memory of a computation on the CPU."""

import numpy as np
import torch

from mtl.optimisation.memory import PeakMemory, machine_bytes

SIZE = 200 * 10**6


def test_the_peak_counts_memory_that_is_freed_again_and_starts_anew():
    memory = PeakMemory(torch.device("cpu"))
    np.ones(SIZE, np.uint8).sum()
    assert 0.9 * SIZE < memory.peak_bytes() < 1.5 * SIZE
    assert PeakMemory(torch.device("cpu")).peak_bytes() < 0.5 * SIZE
    assert 10**9 < machine_bytes() < 10**14
