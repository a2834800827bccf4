"""Multi-task emotion recognition: data, models, training and evaluation, without Ray and Hydra."""
