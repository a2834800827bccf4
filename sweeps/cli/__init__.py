"""Entry point, shared command-line arguments and progress lines of the programs."""
