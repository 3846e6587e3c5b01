"""The options about logs that all commands have."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = [
    click.option("-v", "--verbose", is_flag=True, help="Log everything to stderr, frames and tokens included."),
    click.option("-q", "--quiet", is_flag=True, help="Log warnings and errors alone."),
    click.option(
        "--log-format",
        type=click.Choice(["pretty", "json"]),
        default="pretty",
        show_default=True,
        help="Lines for people, or an object a line.",
    ),
]


def with_log_options(command: Command) -> Command:
    """Add -v, -q and --log-format, which are obeyed before the command runs."""

    @wraps(command)
    def logged(*args: Any, verbose: bool, quiet: bool, log_format: str, **given: Any) -> Any:
        from dsd_core import logs  # not for --help

        logs.configure(verbose=verbose, quiet=quiet, log_format=log_format)
        return command(*args, **given)

    wrapped: Any = logged
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]
