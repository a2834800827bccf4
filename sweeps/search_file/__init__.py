"""Search files of sweeps: strict reading, command-line overrides, and ranges of parameters."""

from sweeps.search_file.file import SearchFile, json_schema, load
from sweeps.search_file.sections import BudgetSection, FusionSection, ResourcesSection

__all__ = [
    "BudgetSection",
    "FusionSection",
    "ResourcesSection",
    "SearchFile",
    "json_schema",
    "load",
]
