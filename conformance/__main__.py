"""The commands of `python -m conformance`."""

from __future__ import annotations

import sys

try:
    import click
except ModuleNotFoundError:
    sys.exit("python -m conformance needs the test extra: pip install -e '.[test]'")

from conformance.install import NAMES, InstallError, folder, install


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The conformance suite for Node's IPC channel."""


@main.command("install")
@click.argument("names", nargs=-1, type=click.Choice(NAMES), metavar="[NAME]...")
def install_command(names: tuple[str, ...]) -> None:
    """Install implementations from the npm registry: each NAME, else all.

    They go into .implementations/ at the top of the checkout, or into the folder that
    NODECOMPAT_IMPLEMENTATIONS names. What is installed already stays as it is.

    NAME is one of node12, node14, … node26, bun and deno.
    """
    failed: list[str] = []
    for name in dict.fromkeys(names or NAMES):
        try:
            found, new = install(name)
        except (InstallError, OSError) as error:
            click.echo(f"{name}: {error}", err=True)
            failed.append(name)
        else:
            click.echo(f"{name}: {'installed' if new else 'already installed:'} {found}")
    if failed:
        raise click.ClickException(f"not installed in {folder()}: {', '.join(failed)}")


if __name__ == "__main__":
    main(prog_name="python -m conformance")
