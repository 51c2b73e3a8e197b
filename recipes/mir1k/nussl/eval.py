"""Score checkpoints on MIR-1K's test clips: BSS Eval v3 at 16 kHz, means weighted by clip length."""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from svs_unet_plugin import Separator, audio, files
from svs_unet_plugin.evaluation.metrics import bss_eval_v3, ideal_ratio_mask

SOURCES = ("vocals", "accompaniment")

VIEWS = (1, 4)
"""Window lengths to average over, see `Separator`: a row for each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that `svs-unet data mir1k` wrote")
    parser.add_argument("--checkpoints", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--clips", type=int, help="only the first so many of each singer")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    options = parser.parse_args()

    by_singer: dict[str, list[Path]] = {}
    for path in sorted((options.data / "test" / "mix").glob("*.wav")):
        by_singer.setdefault(path.name.partition("_")[0], []).append(path)
    clips = [path for paths in by_singer.values() for path in paths[: options.clips]]
    spawn = get_context("spawn")
    rows: list[dict] = []
    with ProcessPoolExecutor(options.jobs, spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for checkpoint in options.checkpoints:
            scored = pool.map(partial(score, checkpoint=checkpoint), clips)
            own = [row for rows in tqdm(scored, total=len(clips), unit="clip") for row in rows]
            with files.atomic_write(checkpoint.parent.parent / "test_scores.csv") as beside:
                pd.DataFrame(own).to_csv(beside, index=False)
            rows += own

    print(f"{len(clips)} clips, GNSDR / GSIR / GSAR in dB")
    print("| system | vocals | accompaniment |\n|---|---|---|")
    for system in dict.fromkeys(row["system"] for row in rows):
        cells = []
        for source in SOURCES:
            chosen = [row for row in rows if row["system"] == system and row["source"] == source]
            values = np.array([(row["nsdr"], row["sir"], row["sar"]) for row in chosen])
            means = np.average(values, axis=0, weights=[row["samples"] for row in chosen])
            cells.append(" / ".join(f"{mean:.2f}" for mean in means))
        print(f"| {system} | {' | '.join(cells)} |")


@cache
def _separator(checkpoint: Path, views: int) -> Separator:
    return Separator(checkpoint, device="cpu", views=views)


def score(mix: Path, checkpoint: Path) -> list[dict]:
    """Scores of the network, by each of `VIEWS`, and of the ideal ratio mask on one clip, a row a source."""
    references = np.concatenate([audio.read(mix.parents[1] / source / mix.name)[0] for source in SOURCES])
    mixture, sample_rate = audio.read(mix)
    systems = {}
    for views in VIEWS:
        separator = _separator(checkpoint, views)
        stems = separator.separate(mixture, sample_rate)
        system = checkpoint.parent.parent.name + (f", {views} views" if views > 1 else "")
        systems[system] = np.concatenate([stems[source] for source in SOURCES])
    ideal = ideal_ratio_mask(references[:, None], sample_rate, separator.stft)[:, 0]
    systems[f"ideal ratio mask, hop {separator.stft.hop_length}"] = ideal
    untouched = bss_eval_v3(references, np.concatenate([mixture, mixture]))
    rows = []
    for system, estimates in systems.items():
        scores = bss_eval_v3(references, estimates)
        for i, source in enumerate(SOURCES):
            nsdr = scores.sdr[i] - untouched.sdr[i]
            rows.append(
                {
                    "clip": mix.stem,
                    "samples": mixture.shape[1],
                    "system": system,
                    "source": source,
                    "nsdr": nsdr,
                    "sir": scores.sir[i],
                    "sar": scores.sar[i],
                }
            )
    return rows


if __name__ == "__main__":
    main()
