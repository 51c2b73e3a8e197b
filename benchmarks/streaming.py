"""What a low latency costs a stream: the SDR of the vocals that it loses, and how fast it runs.

Each song is a .stem.mp4 or a folder of WAV files, as MUSDB18 has them. A stream's vocals are compared with
those of the whole song, both with the true ones: 10 log10 of their energy over the error's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from svs_unet_plugin import Separator
from svs_unet_plugin.corpora.musdb import Track
from svs_unet_plugin.evaluation.metrics import sdr
from svs_unet_plugin.streaming import Streamer

BLOCK_SECONDS = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "songs", nargs="+", type=Path, metavar="SONG", help=".stem.mp4, or folder of WAV files"
    )
    parser.add_argument("--weights", help="path or name; by default the bundled ones")
    parser.add_argument("--latency", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="in seconds")
    parser.add_argument("--seconds", type=float, help="of each song, from its middle (default: all of it)")
    options = parser.parse_args()
    separator = Separator(options.weights, device="cpu")
    songs = {path: excerpt(path, options.seconds) for path in options.songs}
    offline = {
        path: score(vocals, separator.separate(mixture, rate)["vocals"])
        for path, (mixture, vocals, rate) in songs.items()
    }
    names = " | ".join(path.name for path in songs)
    scores = " | ".join(f"{score:.2f} dB" for score in offline.values())
    print(f"| latency | loudest magnitude | {names} | times real time |")
    print("|---:|---|" + "---:|" * (len(songs) + 1))
    print(f"| whole song | | {scores} | |", flush=True)
    settings = [(latency, known) for latency in (None, *options.latency) for known in (True, False)]
    for latency, known in tqdm(settings):
        losses, seconds, length = [], 0.0, 0.0
        for path, (mixture, vocals, rate) in songs.items():
            peaks = separator.peaks(mixture, rate) if known else None
            streamer = Streamer(separator, rate, len(mixture), latency, peaks=peaks)
            start = time.perf_counter()
            estimate = streamed(streamer, mixture)
            seconds += time.perf_counter() - start
            length += mixture.shape[1] / rate
            losses.append(score(vocals, estimate) - offline[path])
        row = [f"{streamer.latency:.2f} s", "known" if known else "so far"]
        row += [f"{loss:+.2f} dB" for loss in losses] + [f"{length / seconds:.1f}"]
        print("| " + " | ".join(row) + " |", flush=True)


def excerpt(path: Path, seconds: float | None) -> tuple[np.ndarray, np.ndarray, int]:
    """The mixture and the vocals ``(channels, samples)``, and their rate in Hz."""
    stems, rate = Track(path, "test").read()
    samples = stems["mixture"].shape[1]
    length = samples if seconds is None else min(samples, round(seconds * rate))
    part = slice((samples - length) // 2, (samples + length) // 2)
    return stems["mixture"][:, part], stems["vocals"][:, part], rate


def streamed(streamer: Streamer, mixture: np.ndarray) -> np.ndarray:
    """The vocals of a mixture that arrives in blocks."""
    block = round(BLOCK_SECONDS * streamer.sample_rate)
    parts: Sequence[dict[str, np.ndarray]] = [
        *(streamer.push(mixture[:, start : start + block]) for start in range(0, mixture.shape[1], block)),
        streamer.flush(),
    ]
    return np.concatenate([part["vocals"] for part in parts], axis=1)


def score(vocals: np.ndarray, estimate: np.ndarray) -> float:
    return float(sdr(vocals[None], estimate[None])[0])


if __name__ == "__main__":
    main()
