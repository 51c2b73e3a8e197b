"""From nothing to a separated song in minutes: make up songs, train on them, score, separate a real song.

The songs are made up, and so the scores only check that the system learns; see `svs-unet data demo`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import svs_unet_plugin.nussl as svs
from svs_unet_plugin import Separator, audio, files
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.evaluation.metrics import bss_eval_v4, ideal_ratio_mask, sdr
from svs_unet_plugin.nussl import nussl

SOURCES = ("vocals", "accompaniment")
SEED = 0
TRACKS = 60
VALIDATION_TRACKS = 4
EPOCH_STEPS = 40
STEPS = 520
ENOUGH = 8.0
"""dB of vocal SDR that a U-Net which learns passes with so many steps."""
SYSTEMS = ("mixture, untouched", "U-Net", "ideal ratio mask")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("exp/demo"), help="default: exp/demo")
    parser.add_argument("--song", type=Path, help="a song to separate; default: the one in stempeg")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help=f"of training, a multiple of {EPOCH_STEPS} (default {STEPS})"
    )
    options = parser.parse_args()
    if options.steps < EPOCH_STEPS or options.steps % EPOCH_STEPS:
        parser.error(f"--steps must be a multiple of {EPOCH_STEPS}, got {options.steps}")
    song = options.song or _example_song()
    try:
        audio.open_file(song)  # before the minutes that it takes to get there
    except (OSError, ValueError) as error:
        parser.error(str(error))

    print("1. Songs, made up", flush=True)
    corpus = options.out / "corpus"
    make_corpus(corpus, TRACKS, seconds=20, seed=SEED)

    print("2. Training", flush=True)
    run = options.out / f"train-{options.steps}-steps"
    checkpoint = train(corpus, run, options.steps)

    print("3. Scores", flush=True)
    scores = score_all(sorted((corpus / "test").iterdir()), checkpoint)
    print(table(scores))
    reached = np.median(scores[:, SYSTEMS.index("U-Net"), SOURCES.index("vocals"), 0])
    if options.steps >= STEPS and reached < ENOUGH:
        sys.exit(f"the U-Net reaches {reached:.1f} dB on songs where {ENOUGH} dB are easy: this is a bug")

    print(f"4. {song}", flush=True)
    separated = options.out / "separated" / audio.title(song)
    stems = Separator(checkpoint).separate_file(song, separated, progress=True)
    weights = options.out / "vocals.pth"
    with files.atomic_write(weights) as beside:
        shutil.copyfile(checkpoint, beside)
    for path in (run / "loss.png", weights, *stems.values()):
        print(path)


def train(corpus: Path, run: Path, steps: int) -> Path:
    """Train a U-Net on the corpus, its songs remixed; return its best checkpoint."""

    def songs(items: slice, **arguments: Any) -> Any:
        data = nussl.datasets.MUSDB18(str(corpus), is_wav=True, subsets=["train"], **arguments)
        data.items = data.items[items]
        data.cache_populated = False  # and so a cache learns how many songs there are
        return data

    whole = svs.training_transform(excerpt_frames=None, cache=run / "cache")
    settings = svs.TrainSettings(
        epochs=steps // EPOCH_STEPS,
        epoch_steps=EPOCH_STEPS,
        schedule="one-cycle",
        learning_rate=2e-3,
        seed=SEED,
    )
    nussl.utils.seed(SEED)
    return svs.train(
        nussl.ml.SeparationModel(svs.build_unet_mask_inference()),
        svs.Remix(songs(slice(VALIDATION_TRACKS, None))),
        songs(slice(VALIDATION_TRACKS), stft_params=svs.stft_params(), transform=whole),
        run,
        settings,
    )


def score_all(tracks: list[Path], checkpoint: Path) -> np.ndarray:
    """Scores ``(tracks, systems, sources, scores)``, with a track for each core at a time."""
    spawn = get_context("spawn")
    with ProcessPoolExecutor(None, spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        scored = pool.map(partial(score, checkpoint=checkpoint), tracks)
        return np.array(list(tqdm(scored, total=len(tracks), unit="track")))


def table(scores: np.ndarray) -> str:
    """A Markdown table of medians over the tracks."""
    lines = [
        f"Medians of {len(scores)} made-up songs in dB: SDR of the whole song, "
        "and SDR / SIR / SAR by museval (BSS Eval v4)\n",
        "| | vocals | | accompaniment | |\n|---|---|---|---|---|",
    ]
    for system, medians in zip(SYSTEMS, np.median(scores, axis=0), strict=True):
        cells = (f"{whole:.1f} | {sdr:.1f} / {sir:.1f} / {sar:.1f}" for whole, sdr, sir, sar in medians)
        lines.append(f"| {system} | {' | '.join(cells)} |")
    return "\n".join(lines)


def score(track: Path, checkpoint: Path) -> np.ndarray:
    """Scores of a track by each of `SYSTEMS`, ``(systems, sources, [whole SDR, SDR, SIR, SAR])``."""
    separator = Separator(checkpoint, device="cpu")
    mixture, sample_rate = audio.read(track / "mixture.wav")
    vocals, _ = audio.read(track / "vocals.wav")
    references = np.stack([vocals, mixture - vocals])
    stems = separator.separate(mixture, sample_rate)
    rows = []
    for estimates in (
        np.stack([mixture, mixture]),
        np.stack([stems[source] for source in SOURCES]),
        ideal_ratio_mask(references, sample_rate, separator.stft),
    ):
        bss = bss_eval_v4(references, estimates, sample_rate)
        rows.append(np.stack([sdr(references, estimates), bss.sdr, bss.sir, bss.sar], axis=1))
    return np.array(rows)


def _example_song() -> Path:
    import stempeg

    return Path(stempeg.example_stem_path())


if __name__ == "__main__":
    main()
