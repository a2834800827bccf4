"""The search file: read strictly, overridden from the command line, what its ranges mean."""

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
