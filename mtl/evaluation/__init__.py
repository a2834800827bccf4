"""Scores of predictions, their confidence intervals, and comparison of trained variants."""
