"""Synthetic datasets: features and face pictures drawn from a known latent time series."""

from mtl.synthetic.demo import CEILING_FILE, make_demo
from mtl.synthetic.faces import FACES_DEMO, Faces, make_faces
from mtl.synthetic.parameters import Demo, View

__all__ = ["CEILING_FILE", "FACES_DEMO", "Demo", "Faces", "View", "make_demo", "make_faces"]
