"""The planted demo dataset: a hidden path, three views of it, the score of its posterior."""

from mtl.synthetic.demo import CEILING_FILE, make_demo
from mtl.synthetic.parameters import Demo, View

__all__ = ["CEILING_FILE", "Demo", "View", "make_demo"]
