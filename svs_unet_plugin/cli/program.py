"""The command ``svs-unet`` itself, with all of its commands."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import click

import svs_unet_plugin
from svs_unet_plugin.cli import asteroid, checkpoints, completion, data, doctor, separate, serve, weights
from svs_unet_plugin.errors import ERRORS, sentence


class _Program(click.Group):
    """A group of commands whose errors are one sentence each."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            os.getcwd()  # torch ends the process where there is none
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):  # which are RuntimeErrors
            raise
        except BrokenPipeError:  # whoever reads what is printed wants no more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(128 + signal.SIGPIPE)
        except ERRORS as error:
            if ctx.params["traceback"]:
                raise
            raise click.ClickException(sentence(error)) from error


@click.group(
    cls=_Program,
    help=(svs_unet_plugin.__doc__ or "").splitlines()[0],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(svs_unet_plugin.__version__, message="%(version)s")
@click.option("--traceback", is_flag=True, help="Show where an error comes from.")
def svs_unet(traceback: bool) -> None:
    """Commands, each of them in a module of this package."""


for command in (
    separate.separate,
    serve.serve,
    weights.weights,
    doctor.doctor,
    completion.completion,
    checkpoints.info,
    checkpoints.convert,
    checkpoints.export,
    data.data,
    asteroid.asteroid,
):
    svs_unet.add_command(command)
