"""asteroid's own commands, with its repairs made and our model registered."""

from __future__ import annotations

import argparse
import importlib.metadata
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def run(name: str, arguments: Sequence[str], program: str | None = None) -> None:
    """Run one of asteroid's commands; the folder of ``infer -o`` is made if it is missing.

    Args:
        name: of the command, which is installed as ``asteroid-<name>``.
        arguments: the command's own, as they are.
        program: what it calls itself in its help; ``asteroid-<name>`` if it isn't given.

    Raises:
        OSError: where a file can't be read or written, or a server not reached.
        RuntimeError: where asteroid says that it can't use a file.
        ValueError: where a file is no model of asteroid's, or holds more than data.
        SystemExit: from the command's argument parser, as for ``--help``.
    """
    scripts = importlib.metadata.distribution("asteroid").entry_points
    command = scripts[f"asteroid-{name}"].load()
    if name == "infer":
        parser = argparse.ArgumentParser(add_help=False)
        parser.add_argument("-o", "--output-dir", type=Path)
        folder = parser.parse_known_args(arguments)[0].output_dir
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    before, sys.argv = sys.argv, [program or f"asteroid-{name}", *arguments]
    try:
        command()
    except KeyError as error:
        raise ValueError(f"asteroid finds no {error} in the model's file") from error
    except subprocess.CalledProcessError as error:  # it asks git for the name of the user
        raise RuntimeError(f"{error} Give --git_username, or set it in git") from error
    finally:
        sys.argv = before
