"""Pretraining of backbones: masked autoencoders, and supervised learning on labelled images."""
