"""Scores of predictions, confidence intervals of scores, and comparison of trained models."""
