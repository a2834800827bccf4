"""Neural network modules: temporal encoders, task heads and multi-task frameworks."""
