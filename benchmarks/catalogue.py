"""Hours of audio that a catalogue's workers separate in an hour of a core, by one worker and by two.

    python benchmarks/catalogue.py --songs 4 --minutes 3

Songs are a real one repeated, as FLAC; stems are written as FLAC. An hour of a core is an hour of its own
time, not of the clock, so that other programs on the machine hardly count. Starting Ray and loading the
network are left out of it.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import soundfile
import stempeg
import torch

from svs_unet_plugin import audio
from svs_unet_plugin.catalogue import Worker, separate_catalogue
from svs_unet_plugin.encoding import Encoding

LOG = "SVS_UNET_BENCHMARK_LOG"


class Timed(Worker):
    """A worker that notes the processor's time that each song takes, its subprocesses' as well."""

    def separate(self, path: str) -> tuple[float, list[dict[str, Any]]]:
        before = _processor_seconds()
        result = super().separate(path)
        with Path(os.environ[LOG]).open("a") as log:
            print(_processor_seconds() - before, file=log)
        return result


def _processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in used)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--songs", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long each song is")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--weights", default=None)
    options = parser.parse_args()
    print(
        f"Python {sys.version.split()[0]}, torch {torch.__version__}; load average {os.getloadavg()[0]:.1f}"
    )
    print("| workers | songs | hours of audio | seconds | hours a core-hour | MB an hour, read / written |")
    print("|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as scratch:
        music = Path(scratch, "music")
        music.mkdir()
        song, rate = audio.read(stempeg.example_stem_path())
        samples = round(options.minutes * 60 * rate)
        for number in range(options.songs):
            whole = np.tile(song, -(-samples // song.shape[1]))[:, :samples]
            soundfile.write(music / f"{number}.flac", np.roll(whole, 999 * number, axis=1).T, rate)
        read = sum(path.stat().st_size for path in music.iterdir())
        for workers in options.workers:
            os.environ[LOG] = str(Path(scratch, f"log {workers}"))
            out = Path(scratch, f"stems {workers}")
            start = time.monotonic()
            summary = separate_catalogue(
                music, out, weights=options.weights, encoding=Encoding("flac", clip_mode="rescale"),
                workers=workers, worker=Timed,
            )  # fmt: skip
            took = time.monotonic() - start
            rows = pq.read_table(out / "catalogue" / "results").to_pylist()
            hours = sum(row["duration"] for row in rows) / 3600
            written = sum(stem["bytes"] for row in rows for stem in row["stems"])
            core_hours = sum(map(float, Path(os.environ[LOG]).read_text().split())) / 3600
            assert summary.done == options.songs
            print(
                f"| {workers} | {options.songs} | {hours:.3f} | {took:.0f} | {hours / core_hours:.0f} "
                f"| {read / hours / 1e6:.0f} / {written / hours / 1e6:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
