"""The record of a sweep: one journal file under one driver's lock, and who decides by it."""

from sweeps.study.proposal import Proposal, Refit
from sweeps.study.sweep_study import SweepStudy

__all__ = ["Proposal", "Refit", "SweepStudy"]
