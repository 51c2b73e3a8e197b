"""The command line ``svs-unet``, on Click: a module for each group of commands.

Click, and not Typer, since it needs no other package. Modules import what is heavy inside their commands, so
that ``svs-unet --version`` and ``--help`` start at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0; 1 if some of the songs could not be separated; 2 if nothing could be done; 130 for Ctrl-C and 143
        for SIGTERM. Each reason is one sentence on standard error.
    """
    from svs_unet_plugin.cli import process

    with process.prepared():
        import click

        from svs_unet_plugin.cli.program import svs_unet

        try:
            return svs_unet.main(arguments, "svs-unet", standalone_mode=False) or 0
        except click.exceptions.NoArgsIsHelpError as error:
            print(error.format_message(), file=sys.stderr)
            return 2
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else "svs-unet"
            print(f"svs-unet: {error.format_message()} (see {where} --help)", file=sys.stderr)
            return 2
        except click.ClickException as error:
            print(f"svs-unet: {error.format_message()}", file=sys.stderr)
            return 2
        except (click.Abort, KeyboardInterrupt):
            print(f"svs-unet: {process.STOPPED}", file=sys.stderr)
            return 130
