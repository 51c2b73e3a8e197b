"""asteroid's own command line: ``svs-unet asteroid-infer``."""

from __future__ import annotations

import click


@click.command(
    "asteroid-infer",
    # asteroid has its own flags, and its own help.
    add_help_option=False,
    context_settings={"ignore_unknown_options": True},
    short_help="asteroid's own command line, with this model in it.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def asteroid_infer(arguments: tuple[str, ...]) -> None:
    """Run asteroid's own command line with this model registered."""
    from svs_unet_plugin.asteroid import infer

    infer(arguments)
