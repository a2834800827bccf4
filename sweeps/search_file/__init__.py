"""The search file: read strictly, overridden from the command line, what its ranges mean."""

from sweeps.search_file.file import Resources, SearchFile, json_schema, load

__all__ = ["Resources", "SearchFile", "json_schema", "load"]
