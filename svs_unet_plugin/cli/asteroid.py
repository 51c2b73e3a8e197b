"""asteroid's own commands: ``svs-unet asteroid infer``, ``register-sr``, ``upload`` and ``versions``."""

from __future__ import annotations

import click


class _Command(click.Command):
    """A command of asteroid's: all arguments, ``--`` and ``--help`` too, are left to its own parser."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = args
        return args

    def invoke(self, ctx: click.Context) -> None:
        import svs_unet_plugin.asteroid  # makes the repairs  # noqa: F401
        from svs_unet_plugin.asteroid import commands

        commands.run(self.name or "", ctx.args, ctx.command_path)


@click.group(short_help="Run asteroid's own commands, with SVSUNet registered.")
def asteroid() -> None:
    """Run a command of asteroid's, with the model SVSUNet registered and asteroid repaired."""


for name, what_for in {
    "infer": "Separate files with any model of asteroid's.",
    "register-sr": "Add the sample rate to a model's file.",
    "upload": "Publish a model on Zenodo.",
    "versions": "Show the versions of asteroid, torch and Lightning.",
}.items():
    asteroid.add_command(_Command(name, short_help=what_for, add_help_option=False))
