"""Argument parser of a program, and the arguments that several programs share."""

import argparse


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows the description in ``--help`` with its line breaks.

    Args:
        description: The program's docstring.
    """
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """Add the required ``--data``, an address for ``sweeps.data.open_data.open_data``."""
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="dataset directory or its s3:// address, or demo for the planted demo dataset",
    )


def add_division_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--confirm`` and ``--seed``, which divide the validation videos as a sweep does."""
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
    """Add ``--address``, the Ray cluster for ``sweeps.cluster.connection.choose_address``."""
    parser.add_argument(
        "--address",
        metavar="ADDRESS",
        help="running Ray cluster to use, auto or host:port (default: the environment variable "
        "RAY_ADDRESS, else Ray is started on this machine)",
    )


def add_overrides_argument(
    parser: argparse.ArgumentParser, meaning: str, metavar: str = "path=value"
) -> None:
    """Add the trailing ``overrides``; parse them with ``parse_intermixed_args``.

    Args:
        parser: The program's parser.
        meaning: Help text: the file or config that the overrides change, and an example.
        metavar: Form of one override in the usage line.
    """
    parser.add_argument("overrides", nargs="*", metavar=metavar, help=meaning)
