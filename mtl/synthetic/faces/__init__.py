"""Synthetic face pictures: drawn from a latent time series, in the challenge's folder layout."""

from mtl.synthetic.faces.parameters import FACES_DEMO, Faces
from mtl.synthetic.faces.people import Identity, draw_people
from mtl.synthetic.faces.rendering import draw_faces
from mtl.synthetic.faces.scene import Light, Pose, Scene, draw_scene
from mtl.synthetic.faces.writing import known_path_scores, make_faces, unit_intensities

__all__ = [
    "FACES_DEMO",
    "Faces",
    "Identity",
    "Light",
    "Pose",
    "Scene",
    "draw_faces",
    "draw_people",
    "draw_scene",
    "known_path_scores",
    "make_faces",
    "unit_intensities",
]
