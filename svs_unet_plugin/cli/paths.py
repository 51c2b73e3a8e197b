"""Paths among a command's arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

STDIN = Path("-")
"""Standard input, where a song's path is expected; standard output, where a folder is."""


class PathType(click.Path):
    """A path; an empty one, as of a shell variable that is not set, is refused."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


class OutType(PathType):
    """A path, or a URL as it is, from which a path would take a slash."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if "://" in str(value) else super().convert(value, param, ctx)


class SongType(PathType):
    """The path of a song, or ``-``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path: Path = super().convert(value, param, ctx)
        if "://" in str(value) and not path.exists():
            self.fail(f"{value} is a URL: download the song, and give its path", param, ctx)
        if path == STDIN and str(value) != str(STDIN):  # ./-
            return path.absolute()
        return path


PATH = PathType()
