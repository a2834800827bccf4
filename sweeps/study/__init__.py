"""The record of a sweep: one journal file under one driver's lock, and who decides by it."""

from sweeps.study.study import Proposal, SweepStudy

__all__ = ["Proposal", "SweepStudy"]
