"""Training of a trial, and inference with a trained model."""
