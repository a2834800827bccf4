"""The record of a sweep: one journal file under one driver's lock, and who decides by it."""

from sweeps.study.proposal import Proposal
from sweeps.study.study import SweepStudy

__all__ = ["Proposal", "SweepStudy"]
