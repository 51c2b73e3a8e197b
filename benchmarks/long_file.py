"""How much memory a file of many hours takes, and whether it is separated like its pieces.

A made song is repeated, so that every piece is as loud as the whole, and separated from file to file. Then
pieces of it are separated by themselves, with a minute more on either side, and compared.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile
import torch

from svs_unet_plugin import Separator, UNet
from svs_unet_plugin.audio import AudioFile, open_file
from svs_unet_plugin.corpora.synthetic.song import make_song

SEED = 0
LOOP_SECONDS = 60
"""A whole number of the network's grids, so that each round is cut into frames like the first."""


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
        song = Path(folder) / "song.wav"
        loop = np.sum([*make_song(SEED, LOOP_SECONDS, options.rate).values()], axis=0)
        with soundfile.SoundFile(song, "w", options.rate, 2, "PCM_16", format="RF64") as file:
            for _ in range(options.minutes):
                file.write(np.broadcast_to(loop, (2, loop.shape[-1])).T)
        # A process of its own, which has held nothing but the file's blocks.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            peak, seconds = pool.submit(separate, song, Path(folder), options.weights).result()
        print(
            f"{options.minutes} min of stereo at {options.rate} Hz, file to file: "
            f"peak memory {peak / 1e6:.0f} MB, {seconds:.0f} s",
            flush=True,
        )
        separator = make_separator(options.weights)
        for start in np.linspace(0, options.minutes // 10 - 1, options.pieces).astype(int) * 600:
            worst = difference(separator, song, Path(folder) / "vocals.wav", int(start))
            print(f"ten minutes from second {start} on: largest difference {worst:.1e}", flush=True)


def make_separator(weights: str | None) -> Separator:
    """The paper's network with random weights, unless weights are named."""
    if weights is not None:
        return Separator(weights, device="cpu")
    torch.manual_seed(SEED)
    network = UNet()
    with torch.no_grad():
        network.train()(torch.rand(4, 1, 513, 128) ** 8)  # sets the statistics of the normalisation
        network.get_parameter("decoder.5.weight").mul_(20)  # so that the masks are not all one half
    return Separator(network.eval(), device="cpu")


def separate(song: Path, out: Path, weights: str | None) -> tuple[int, float]:
    """The peak resident memory of this process in bytes, and the seconds taken."""
    start = time.perf_counter()
    make_separator(weights).separate_file(song, out, stems=["vocals"])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, time.perf_counter() - start


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
