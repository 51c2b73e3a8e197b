"""How much memory separation takes by length, and whether many hours are separated like their pieces.

By itself this file separates ten hours: a made song is repeated, so that every piece is as loud as the whole,
and separated from file to file. Then pieces of it are separated by themselves, with a minute more on either
side, and compared.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from peers import OURS, SYSTEMS, random_unet
from timing import RATE, Setting, digits, noise, table

from svs_unet_plugin import Separator
from svs_unet_plugin.audio import AudioFile, open_file
from svs_unet_plugin.corpora.synthetic.song import make_song
from svs_unet_plugin.evaluation.costs import peak_memory

LOOP_SECONDS = 60
"""A whole number of the network's grids, so that each round is cut into frames like the first."""

LENGTHS = (0.5, 2.0, 8.0)
"""In minutes."""

PAPERS = next(iter(OURS))


def section(setting: Setting) -> str:
    """The peak of each system, in a process of its own for each length."""
    lengths = LENGTHS[:2] if setting.quick else LENGTHS
    device = str(setting.device)
    rows = []
    for name in [*OURS][:2] if setting.quick else SYSTEMS:
        # Others take minutes for the longest, and some of them more memory than there is.
        mine = lengths if name in OURS else lengths[:2]
        try:
            peaks = [_alone(_peak, name, device, setting.threads, minutes) for minutes in mine]
        except ImportError:
            continue
        cells = [_megabytes(*peak) for peak in peaks] + ["" for _ in lengths[len(mine) :]]
        rows.append([name, *cells])
    with tempfile.TemporaryDirectory() as folder:
        cells = []
        for minutes in lengths:
            song = write_song(Path(folder), round(minutes * 60), RATE)
            cells.append(_megabytes(*_alone(_separate_file, song, device, setting.threads)[:2]))
        rows.append([f"{PAPERS}, file to file", *cells])
    columns = ["system", *(f"{digits(minutes)} min" for minutes in lengths)]
    what = "The most memory of a process in MB, with Python and all libraries, stereo at 44.1 kHz"
    on_gpu = "; after the + what was allocated on the GPU" if setting.device.type == "cuda" else ""
    return f"{what}{on_gpu}.\n\n{table(columns, rows)}"


def _megabytes(host: int, gpu: int) -> str:
    return f"{host / 1e6:.0f}" + (f" + {gpu / 1e6:.0f}" if gpu else "")


def _alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """In a process of its own, which has held nothing else."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _peak(name: str, device: str, threads: int, minutes: float) -> tuple[int, int]:
    """Bytes of this process, and on the GPU."""
    torch.set_num_threads(threads)
    SYSTEMS[name](torch.device(device))(noise(60 * minutes))
    return peak_memory(), _peak_on_gpu()


def _peak_on_gpu() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0


def _separate_file(
    song: Path, device: str, threads: int, weights: str | None = None
) -> tuple[int, int, float]:
    """Bytes of this process, and on the GPU, and the seconds taken."""
    torch.set_num_threads(threads)
    start = time.perf_counter()
    separator = Separator(weights or random_unet(), device)
    separator.separate_file(song, song.parent, stems=["vocals"])
    return peak_memory(), _peak_on_gpu(), time.perf_counter() - start


def write_song(folder: Path, seconds: int, rate: int) -> Path:
    """A made song in stereo and 16 bits, repeated."""
    song = folder / "song.wav"
    loop = np.sum([*make_song(0, LOOP_SECONDS, rate).values()], axis=0)
    loop = np.broadcast_to(loop, (2, loop.shape[-1])).T
    with soundfile.SoundFile(song, "w", rate, 2, "PCM_16", format="RF64") as file:
        for start in range(0, seconds, LOOP_SECONDS):
            file.write(loop[: (seconds - start) * rate])
    return song


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=int, default=600, help="of stereo (default 600)")
    parser.add_argument("--rate", type=int, default=22_050, help="in Hz (default 22050)")
    parser.add_argument("--pieces", type=int, default=3, help="to compare, of ten minutes each (default 3)")
    parser.add_argument("--weights", help="bundled ones; by default the paper's network with random ones")
    options = parser.parse_args()
    if options.minutes < 10 or not 1 <= options.pieces <= options.minutes // 10:
        parser.error("--minutes must be at least 10, and --pieces not more than the tens of minutes")
    with tempfile.TemporaryDirectory() as folder:
        needed = options.minutes * 60 * options.rate * 2 * (2 + 4)  # bytes: 16-bit song, vocals in float
        if shutil.disk_usage(folder).free < needed:
            sys.exit(f"{folder} has no {needed / 1e9:.1f} GB free; point TMPDIR at a folder that has")
        song = write_song(Path(folder), options.minutes * 60, options.rate)
        threads = torch.get_num_threads()
        peak, _, seconds = _alone(_separate_file, song, "cpu", threads, options.weights)
        print(
            f"{options.minutes} min of stereo at {options.rate} Hz, file to file: "
            f"peak memory {peak / 1e6:.0f} MB, {seconds:.0f} s",
            flush=True,
        )
        separator = Separator(options.weights or random_unet(), "cpu")
        for start in np.linspace(0, options.minutes // 10 - 1, options.pieces).astype(int) * 600:
            worst = difference(separator, song, Path(folder) / "vocals.wav", int(start))
            print(f"ten minutes from second {start} on: largest difference {worst:.1e}", flush=True)


def difference(separator: Separator, song: Path, vocals: Path, start: int) -> float:
    """Between ten minutes of the vocals of the whole, and those of a piece with a minute around it."""
    before = min(start, 60)
    piece = open_file(song, start=start - before, duration=before + 660)
    with tempfile.TemporaryDirectory() as folder:
        (path,) = separator.separate_file(piece, folder, stems=["vocals"]).values()
        pair = [open_file(path, start=before, duration=600), open_file(vocals, start=start, duration=600)]
        return max(np.abs(one - other).max() for one, other in zip(*map(blocks, pair), strict=True))


def blocks(file: AudioFile) -> Iterator[np.ndarray]:
    """A second at a time, so that two files are cut alike."""
    rate, kept = file.sample_rate, np.zeros((2, 0), np.float32)
    for block in file.blocks():
        kept = np.concatenate([kept, block], axis=1)
        while kept.shape[1] >= rate:
            yield kept[:, :rate]
            kept = kept[:, rate:]


if __name__ == "__main__":
    main()
