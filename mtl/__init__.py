"""Multi-task emotion recognition: data, models, training and evaluation, free of Ray and Hydra."""
