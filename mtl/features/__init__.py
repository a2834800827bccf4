"""From face crops to features: images, backbones, and how they are pretrained."""
