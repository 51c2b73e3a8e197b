"""A page in the browser: ``svs-unet serve``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from svs_unet_plugin.cli.paths import PATH


@click.command(short_help="Show a page in the browser that separates songs.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at: the default is for this computer alone, 0.0.0.0 for all who can reach it.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    help="Port to listen at.  [default: the first free one from 7860 up]",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    help="Name by which others reach the page, such as a proxy's; can be given more than once.  "
    "[default: this computer's own]",
)
@click.option(
    "--max-minutes",
    type=click.FloatRange(0, min_open=True),
    default=15.0,
    show_default=True,
    help="Longest song that is taken.",
)
@click.option(
    "--max-megabytes",
    type=click.FloatRange(0, min_open=True),
    default=200.0,
    show_default=True,
    help="Largest file that is taken.",
)
@click.option(
    "-w",
    "--weights",
    multiple=True,
    type=PATH,
    help="Path of a checkpoint to offer besides the bundled weights; can be given more than once.",
)
@click.option("--open", "open_browser", is_flag=True, help="Open the page in the browser.")
def serve(
    host: str,
    port: int | None,
    names: tuple[str, ...],
    max_minutes: float,
    max_megabytes: float,
    weights: tuple[Path, ...],
    open_browser: bool,
) -> None:
    """Show a page in the browser, to separate songs, listen to their stems, and download them.

    Ctrl-C ends it, and removes the songs that were given to it.
    """
    from svs_unet_plugin import page
    from svs_unet_plugin.page.songs import Limits

    try:
        page.serve(
            host,
            port,
            limits=Limits(minutes=max_minutes, megabytes=max_megabytes),
            weights=weights,
            names=names,
            open_browser=open_browser,
            ready=lambda address: click.echo(f"{address} (Ctrl-C ends it)"),
        )
    except (KeyboardInterrupt, SystemExit) as end:
        # All is cleared away, but a thread that separates a song stops only between two pieces of it: waiting
        # may take long, and an interpreter that ends meanwhile aborts.
        os._exit(0 if isinstance(end, KeyboardInterrupt) else int(end.code or 0))
