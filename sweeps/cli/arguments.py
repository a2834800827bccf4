"""Argument parser of a program, and the arguments that several programs share."""

import argparse


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a command-line parser that keeps the line breaks of the description in ``--help``.

    Args:
        description: Text above the options in ``--help``: the program's docstring.
    """
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """Add the required option ``--data``: dataset directory, ``s3://`` address, or ``demo``."""
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="dataset directory or its s3:// address, or demo for the planted demo dataset",
    )


def add_division_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options ``--confirm`` and ``--seed``, which divide the validation videos in two sets.

    Choices are made on the set ``select``; the set ``confirm`` is held back for the final scores.
    ``--confirm`` is the share of videos in ``confirm``, ``--seed`` the seed of the random division.
    """
    parser.add_argument(
        "--confirm",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="share of the validation videos in the part confirm, as search.confirm in a search "
        "file (default: 0.5)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=1234,
        metavar="N",
        help="seed of the division into select and confirm, as search.seed in a search file "
        "(default: 1234)",
    )


def add_address_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--address``: the address of a running Ray cluster to use."""
    parser.add_argument(
        "--address",
        metavar="ADDRESS",
        help="running Ray cluster to use, auto or host:port (default: the environment variable "
        "RAY_ADDRESS, else Ray is started on this machine)",
    )


def add_overrides_argument(
    parser: argparse.ArgumentParser, meaning: str, metavar: str = "path=value"
) -> None:
    """Add the positional argument ``overrides``: texts ``path=value`` that change config values.

    The program must call ``parse_intermixed_args``, so that overrides and options can be mixed.

    Args:
        parser: The program's parser.
        meaning: Help text, which names the file or config that the overrides change.
        metavar: Form of one override in the usage line.
    """
    parser.add_argument("overrides", nargs="*", metavar=metavar, help=meaning)
