"""Face crops to features: image folders, backbones, their weights, and extraction."""
