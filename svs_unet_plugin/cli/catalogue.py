"""Catalogues of songs on Ray: ``svs-unet separate --on ray``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from svs_unet_plugin.cli.paths import STDIN
from svs_unet_plugin.cli.reports import listening

if TYPE_CHECKING:
    from svs_unet_plugin.encoding import Encoding

NOT_HERE = frozenset(
    """songs recursive filename skip_existing overwrite dry_run device engine start duration keep_going
    as_json verbose""".split()
)
"""Options of ``separate`` that a catalogue does not have."""


def separate(context: click.Context, encoding: Callable[[], Encoding]) -> int:
    """Run ``separate`` with ``--on ray``, and say where the table of results is."""
    options = context.params
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is not ParameterSource.DEFAULT
        if parameter.name in NOT_HERE and given and options[parameter.name]:
            name = parameter.opts[0] if isinstance(parameter, click.Option) else "SONG"
            raise click.UsageError(f"{name} does not go with --on ray")
    if options["manifest"] is None:
        raise click.UsageError("--on ray needs --manifest, a table of the songs or a folder of them")
    if options["out"] == STDIN:
        raise click.UsageError("standard output does not go with --on ray: --out names a folder or a URL")
    # Ray prints to standard output what it has to say of workers that were killed.
    with listening(), redirect_stdout(sys.stderr):
        from svs_unet_plugin.catalogue import separate_catalogue
        from svs_unet_plugin.separator import ACCOMPANIMENT

        summary = separate_catalogue(
            options["manifest"],
            options["out"],
            weights=options["weights"],
            views=options["views"],
            stems=("vocals", ACCOMPANIMENT) if options["two_stems"] else options["stems"],
            encoding=encoding(),
            address=options["address"],
            workers=None
            if context.get_parameter_source("jobs") is ParameterSource.DEFAULT
            else options["jobs"],
            retry_failed=options["retry_failed"],
            progress=not options["quiet"],
        )
    failed = summary.failed + summary.failed_before
    done = summary.done + summary.before - summary.failed_before
    if not options["quiet"]:
        said = f"{summary.done} done, {summary.failed} failed, {summary.before} listed before"
        if summary.failed_before:
            said += f", of which {summary.failed_before} failed: --retry-failed"
        print(f"{done + failed} songs: {said}", file=sys.stderr)
        print(summary.results)
    return 0 if not failed else 1 if done else 2
