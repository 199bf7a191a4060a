"""The command line. This module imports without click and rich, to say that they are missing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

__all__ = ["main"]

_EXTRA = frozenset({"click", "rich"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    ``arguments`` are those after the program's name, by default ``sys.argv[1:]``. The status is 2
    for a wrong command line and when the ``cli`` extra is not installed.
    """
    try:
        # Not standalone: click would turn every status into its own, and end the interpreter.
        status = _program().main(arguments, prog_name="nodecompat", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except KeyboardInterrupt:
        return _interrupted()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        print(
            f"nodecompat: the command line needs {missing}: pip install 'nodecompat[cli]'",
            file=sys.stderr,
        )
        return 2
    except Exception as error:
        return _explain(error)


def _program() -> click.Group:
    import click

    from nodecompat import __version__
    from nodecompat.cli.demo import demo
    from nodecompat.cli.doctor import doctor
    from nodecompat.cli.fork import fork

    @click.group(
        commands=[demo, fork, doctor],
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    @click.version_option(__version__, prog_name="nodecompat")
    def program() -> None:
        """Speak Node.js's child-process IPC from the command line."""

    return program


def _explain(error: Exception) -> int:
    import click

    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, click.Abort):
        # What click makes of Ctrl-C.
        return _interrupted()
    raise error


def _interrupted() -> int:
    print("nodecompat: interrupted", file=sys.stderr)
    # What a shell reports for a program that SIGINT ended.
    return 130
