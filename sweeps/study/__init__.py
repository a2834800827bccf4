"""Optuna studies of a sweep in one journal file, and the choice of the next trial."""

from sweeps.study.proposal import Proposal, Refit
from sweeps.study.sweep_study import SweepStudy

__all__ = ["Proposal", "Refit", "SweepStudy"]
