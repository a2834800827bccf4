"""Loss functions of the tasks, and balancing (weighting of the tasks' losses or gradients)."""
