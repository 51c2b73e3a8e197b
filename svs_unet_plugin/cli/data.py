"""Data to train and test on, made or prepared: ``svs-unet data``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from svs_unet_plugin.cli.paths import PATH
from svs_unet_plugin.files import printable

OUT = click.argument("out", type=PATH)
SOURCE = click.argument("source", type=PATH)
JOBS = click.option("--jobs", type=int, help="Processes; by default one a core.")


@click.group()
def data() -> None:
    """Make or prepare data."""


@data.command()
@OUT
@click.option("--tracks", type=int, default=24, show_default=True, help="How many songs.")
@click.option("--seconds", type=float, default=20.0, show_default=True, help="How long each is.")
@click.option("--seed", type=int, default=0, show_default=True, help="Other seeds, other songs.")
@click.option("--rate", type=int, default=44_100, show_default=True, metavar="HZ", help="Sample rate.")
@click.option("--stems", is_flag=True, help="Write .stem.mp4 files, as MUSDB18 has them.")
@click.option("--soundfont", type=PATH, metavar="FILE", help="Let FluidSynth play the bands with this one.")
def demo(
    out: Path, tracks: int, seconds: float, seed: int, rate: int, stems: bool, soundfont: Path | None
) -> None:
    """Make synthetic songs in OUT, in MUSDB18-HQ's layout."""
    from svs_unet_plugin.corpora.synthetic.corpus import make_corpus

    make_corpus(out, tracks, seconds, seed, stems=stems, sample_rate=rate, soundfont=soundfont)
    print(out)


@data.command()
@click.argument("clips", type=PATH)
@OUT
def mir1k(clips: Path, out: Path) -> None:
    """Sort CLIPS, a folder of MIR-1K's two-channel clips, into nussl's mix-source layout in OUT."""
    from svs_unet_plugin.corpora.mir1k import prepare

    prepare(clips, out)
    print(out)


@data.command("fetch-mir1k")
@OUT
def fetch_mir1k(out: Path) -> None:
    """Download MIR-1K into OUT, and print the folder of its clips."""
    from svs_unet_plugin.corpora.mir1k import fetch

    print(fetch(out))


@data.command()
@OUT
def musdb7s(out: Path) -> None:
    """Download MUSDB18's 7-second sample into OUT."""
    from svs_unet_plugin.corpora.musdb import fetch_sample

    fetch_sample(out)
    print(out)


@data.command()
@SOURCE
@JOBS
def check(source: Path, jobs: int | None) -> None:
    """List what is in SOURCE, a folder of MUSDB18 (.stem.mp4 files or WAV folders), and what is wrong."""
    from svs_unet_plugin.corpora import musdb

    print(musdb.summary(musdb.check(source, jobs)))


@data.command()
@SOURCE
@OUT
@click.option("--segment", type=float, metavar="SECONDS", help="Cut training tracks, at 30 s, say.")
@click.option("--trim", type=float, metavar="SECONDS", help="Shorten their silences to this.")
@JOBS
def prepare(source: Path, out: Path, segment: float | None, trim: float | None, jobs: int | None) -> None:
    """Bring MUSDB18 in SOURCE (.stem.mp4 files or WAV folders) to 8192 Hz, in MUSDB18-HQ's layout in OUT."""
    from svs_unet_plugin.corpora.prepare import Settings
    from svs_unet_plugin.corpora.prepare import prepare as prepare_corpus

    prepared = prepare_corpus(source, out, Settings(segment_seconds=segment, trim_seconds=trim), jobs=jobs)
    for name, problem in prepared.skipped.items():
        print(printable(f"skipped: {name}: {problem}"), file=sys.stderr)
    print(prepared.folder)
