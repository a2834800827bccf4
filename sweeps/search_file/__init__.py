"""The search file: read strictly, overridden from the command line, what its ranges mean."""

from sweeps.search_file.file import SearchFile, json_schema, load
from sweeps.search_file.sections import Budget, Fusion, Resources

__all__ = ["Budget", "Fusion", "Resources", "SearchFile", "json_schema", "load"]
