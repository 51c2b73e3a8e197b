"""Train a U-Net on the clips of MIR-1K's two training singers, through nussl's datasets and trainer."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import yaml

import svs_unet_plugin.nussl as svs
from svs_unet_plugin import STFT
from svs_unet_plugin.nussl import nussl

VALIDATION_SONGS = ("abjones_5", "amy_9")
"""Songs of the training singers that are only for choosing the best epoch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that `svs-unet data mir1k` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; goes on if it was begun")
    parser.add_argument("--conf", type=Path, default=Path(__file__).parent / "local" / "conf.yml")
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(options.conf, options.out / "conf.yml")
    conf = yaml.safe_load(options.conf.read_text())
    stft = STFT(hop_length=conf["hop_length"])

    def dataset(part: str, excerpt_frames: int | None) -> Any:
        transform = svs.training_transform(
            excerpt_frames=excerpt_frames, cache=options.out / "cache" / part, stft=stft
        )
        data = nussl.datasets.MixSourceFolder(
            str(options.data / "train"), stft_params=svs.stft_params(stft), transform=transform
        )
        held_back = part == "valid"
        data.items = [item for item in data.items if item.startswith(VALIDATION_SONGS) == held_back]
        data.cache_populated = False  # and so the cache learns how many clips there are
        return data

    settings = svs.TrainSettings(**conf["training"])
    nussl.utils.seed(settings.seed)
    model = nussl.ml.SeparationModel(svs.build_unet_mask_inference(**conf["network"]))
    best = svs.train(
        model, dataset("train", conf["excerpt_frames"]), dataset("valid", None), options.out, settings
    )
    print(best)


if __name__ == "__main__":
    main()
