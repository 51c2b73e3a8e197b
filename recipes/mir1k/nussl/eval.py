"""Score an experiment on MIR-1K's test clips: BSS Eval v3 at 16 kHz, means weighted by clip length."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svs_unet_plugin import audio, checkpoint
from svs_unet_plugin.evaluation.metrics import bss_eval_v3
from svs_unet_plugin.evaluation.oracles import IdealRatioMask
from svs_unet_plugin.evaluation.runner import Entry, Song, Weights, loaded
from svs_unet_plugin.evaluation.store import System
from svs_unet_plugin.files import atomic_write, digest
from svs_unet_plugin.training import configuration
from svs_unet_plugin.workers import in_parallel

SOURCES = ("vocals", "accompaniment")

VIEWS = (1, 4)
"""Window lengths to average over, see `Separator`: a row for each."""


def main() -> None:
    parser = configuration.scoring_parser(__doc__, source=False)
    parser.add_argument("--weights", type=Path, help="to score in the place of the experiment's best")
    options = parser.parse_args()
    weights = options.weights or options.exp_dir / "checkpoints" / "best.model.pth"
    if options.weights is None and configuration.read(options.exp_dir).values["every_clip"]:
        print("Not scored: it was trained on the test singers, too.")
        return

    by_singer: dict[str, list[Path]] = {}
    for path in sorted((options.data_dir / "test" / "mix").glob("*.wav")):
        by_singer.setdefault(path.name.partition("_")[0], []).append(path)
    clips = [path for paths in by_singer.values() for path in paths[: options.tracks]]
    if not clips:
        raise ValueError(f"{options.data_dir} holds no test clips: run stage 1 first")
    name, identity = options.exp_dir.name, digest(weights)
    names = {views: name + (f", {views} views" if views > 1 else "") for views in VIEWS}
    systems = [
        Entry(System(f"views-{views}", names[views], "trained"), Weights(weights, views), identity)
        for views in VIEWS
    ]
    systems.append(IdealRatioMask(checkpoint.read(weights).stft).entry())
    scored = in_parallel(partial(score, systems=systems), clips, options.jobs, title="Score", unit="clip")
    scores = pd.DataFrame([row for rows in scored for row in rows])
    with atomic_write(options.exp_dir / "test_scores.csv") as beside:
        scores.to_csv(beside, index=False)

    print(f"{len(clips)} clips, GNSDR / GSIR / GSAR in dB")
    print("| system | vocals | accompaniment |\n|---|---|---|")
    for system, of_system in scores.groupby("system", sort=False):
        cells = []
        for source in SOURCES:
            chosen = of_system[of_system.source == source]
            means = np.average(chosen[["nsdr", "sir", "sar"]], axis=0, weights=chosen.samples)
            cells.append(" / ".join(f"{mean:.2f}" for mean in means))
        print(f"| {system} | {' | '.join(cells)} |")


def score(mix: Path, systems: Sequence[Entry]) -> list[dict[str, Any]]:
    """Scores of systems on one clip, a row a source."""
    sources = {source: audio.read(mix.parents[1] / source / mix.name)[0] for source in SOURCES}
    mixture, sample_rate = audio.read(mix)
    song = Song(mix.stem, sample_rate, mixture, sources)
    references = np.concatenate([sources[source] for source in SOURCES])
    untouched = bss_eval_v3(references, np.concatenate([mixture, mixture]))
    rows = []
    for entry in systems:
        estimates = loaded(entry.load, entry.identity)(song)
        scores = bss_eval_v3(references, np.concatenate([estimates[source] for source in SOURCES]))
        for i, source in enumerate(SOURCES):
            rows.append(
                {
                    "clip": mix.stem,
                    "samples": mixture.shape[1],
                    "system": entry.system.name,
                    "source": source,
                    "nsdr": scores.sdr[i] - untouched.sdr[i],
                    "sir": scores.sir[i],
                    "sar": scores.sar[i],
                }
            )
    return rows


if __name__ == "__main__":
    configuration.run(main)
