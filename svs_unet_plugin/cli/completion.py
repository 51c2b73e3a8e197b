"""Completion in the shell: ``svs-unet completion``."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

RC_FILES = {
    "bash": "~/.bashrc",
    "zsh": "~/.zshrc",
    "fish": "~/.config/fish/completions/svs-unet.fish",
}


@click.command(
    short_help="Print a script that completes commands, options and names.",
    help="Print a script for a SHELL, for the end of "
    + ", ".join(f"{path} ({shell})" for shell, path in RC_FILES.items())
    + ". It completes commands, options, names of weights and formats.",
)
@click.argument("shell", type=click.Choice(tuple(RC_FILES)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what a shell has to run."""
    made = get_completion_class(shell)
    assert made is not None
    print(made(context.find_root().command, {}, "svs-unet", "_SVS_UNET_COMPLETE").source())


def complete_weights(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of bundled weights, and files."""
    from importlib.resources import files

    folder = files("svs_unet_plugin") / "pretrained"
    names = sorted(item.name.removesuffix(".pth") for item in folder.iterdir() if item.name.endswith(".pth"))
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]
