"""Songs into stems: ``svs-unet separate``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from svs_unet_plugin.cli.errors import ERRORS, sentence

PATH = click.Path(path_type=Path)


@click.command(short_help="Separate songs into vocals and accompaniment.")
@click.argument("songs", nargs=-1, required=True, type=PATH, metavar="SONG...")
@click.option("-o", "--out", type=PATH, required=True, help="Writes OUT/<song>/<source>.wav.")
@click.option("-w", "--weights", help="Path of a checkpoint, or name of bundled weights.")
@click.option("-d", "--device", help="cpu, cuda ...; by default a GPU if there is one.")
@click.option(
    "--views",
    type=int,
    default=1,
    show_default=True,
    help="Window lengths to average over, in as many times the time: 1 to 8.",
)
@click.pass_context
def separate(
    context: click.Context,
    songs: tuple[Path, ...],
    out: Path,
    weights: str | None,
    device: str | None,
    views: int,
) -> int:
    """Separate songs, any audio files, into vocals and accompaniment."""
    from svs_unet_plugin import audio
    from svs_unet_plugin.separator import Separator

    folders = {song: out / audio.track_name(song) for song in songs}
    for folder, times in Counter(folders.values()).items():
        if times > 1:
            raise ValueError(f"{times} of these songs would be written to {folder}: separate them one by one")
    separator = Separator(weights, device, views=views)
    failed = 0
    for song, folder in folders.items():
        try:
            with _bar(song.name) as progress:
                paths = separator.separate_file(song, folder, progress=progress)
        except ERRORS as error:
            if context.find_root().params["traceback"]:
                raise
            failed += 1
            said = sentence(error)
            named = said if str(song) in said else f"{song}: {said}"
            print(f"svs-unet: {named}", file=sys.stderr)
        else:
            print(*paths.values(), sep="\n", flush=True)
    return 0 if not failed else 1 if failed < len(folders) else 2


@contextmanager
def _bar(name: str) -> Iterator[Callable[[float, float], None]]:
    from tqdm import tqdm

    with tqdm(desc=name, unit="s", disable=not sys.stderr.isatty()) as bar:

        def show(done: float, total: float) -> None:
            bar.total = round(total, 1)
            bar.update(round(done, 1) - bar.n)

        yield show
