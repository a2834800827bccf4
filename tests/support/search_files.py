"""Search files from which tests start."""

from tests.support.paths import ROOT

SCHEMA = ROOT / "sweeps/configs/search.schema.json"
SHIPPED = [ROOT / "search.yaml", *sorted((ROOT / "sweeps/configs/spaces").glob("*.yaml"))]
SMALL = "name: small\ndata: demo\nspace: {optim.lr: {min: 1e-5, max: 1e-2, log: true}}\n"
ENCODERS = """
name: small
data: demo
compare: {by: []}
fixed: {training.epochs: 12}
space:
  encoder:
    choice:
      gru: {encoder.layers: {min: 1, max: 2}, encoder.dropout: {min: 0.0, max: 0.5}}
      lstm: {}
      transformer: {encoder.layers: {min: 1, max: 4}}
  head: {values: [linear, mlp]}
"""


def space(node):
    """Return a search file with this node as its only parameter."""
    return f"name: small\ndata: demo\nspace:\n  a.b: {node}\n"
