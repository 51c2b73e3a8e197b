"""The scores of the bundled weights on songs that anybody has: those of the model card.

    python benchmarks/quality.py

separates the example song of the package stempeg, and synthetic songs that the weights were not trained on,
and prints the table that stands in ``svs_unet_plugin/pretrained/README.md``. ``tests/test_quality.py``
compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import stempeg

from svs_unet_plugin import Separator
from svs_unet_plugin.corpora.musdb import Track
from svs_unet_plugin.corpora.synthetic.song import make_song
from svs_unet_plugin.evaluation.metrics import bss_eval_v3, museval_scores, sdr
from svs_unet_plugin.weights import bundled

RATE = 44_100
SEEDS = (1000, 1001)
"""Of synthetic songs; the weights were trained on those of seed 0."""

SECONDS = 6.0
SOURCES = ("vocals", "accompaniment")
SETS = ("Falcon 69", "synthetic")


def songs(name: str) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """The songs of a set: mixtures, and their sources by name, ``(channels, samples)`` at 44.1 kHz."""
    if name == "synthetic":
        stems = [make_song(seed, SECONDS, RATE) for seed in SEEDS]
    else:
        stems = [Track(Path(stempeg.example_stem_path()), "test").read()[0]]
    for song in stems:
        sources = {"vocals": song["vocals"], "accompaniment": song["drums"] + song["bass"] + song["other"]}
        sources = {source: audio.astype(np.float32) for source, audio in sources.items()}
        # That of a stem file was encoded apart from its sources, and is not quite their sum.
        yield song.get("mixture", sources["vocals"] + sources["accompaniment"]), sources


def scores(separator: Separator | None, name: str) -> dict[str, list[float]]:
    """The scores of a set in dB, vocals and accompaniment: means over its songs.

    Args:
        separator: None for the mixture in the place of each estimate.
        name: one of `SETS`.
    """
    found: dict[str, list[np.ndarray]] = {"SDR": [], "museval": [], "mir_eval": []}
    for mixture, song in songs(name):
        estimates = (
            dict.fromkeys(SOURCES, mixture) if separator is None else separator.separate(mixture, RATE)
        )
        references, given = (np.stack([those[source] for source in SOURCES]) for those in (song, estimates))
        found["SDR"].append(sdr(references, given))
        found["museval"].append(_by_museval(song, {source: estimates[source] for source in SOURCES}))
        # BSS Eval v3 takes mono signals.
        found["mir_eval"].append(bss_eval_v3(references.mean(axis=1), given.mean(axis=1)).sdr)
    return {metric: np.mean(values, axis=0).tolist() for metric, values in found.items()}


def _by_museval(references: Mapping[str, np.ndarray], estimates: Mapping[str, np.ndarray]) -> np.ndarray:
    """The median over windows of a second, which is how SiSEC 2018 scores a song."""
    targets = museval_scores("song", references, estimates, RATE).scores["targets"]
    windows = {
        target["name"]: [float(frame["metrics"]["SDR"]) for frame in target["frames"]] for target in targets
    }
    return np.array([np.nanmedian(windows[source]) for source in SOURCES])


def row(name: str, weights: str) -> str:
    """A row of the model card's table.

    Args:
        name: one of `SETS`.
        weights: their name, or "mixture".
    """
    found = scores(None if weights == "mixture" else Separator(weights, "cpu"), name)
    values = [found[metric][number] for number in range(len(SOURCES)) for metric in found]
    label = weights if weights == "mixture" else f"`{weights}`"
    return " | ".join([f"| {name}: {label}", *(f"{value:.2f}" for value in values)]) + " |"


def main() -> None:
    print("| | vocals: SDR | museval | mir_eval | accompaniment: SDR | museval | mir_eval |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in SETS:
        for weights in ("mixture", *bundled()):
            print(row(name, weights), flush=True)


if __name__ == "__main__":
    main()
