"""Train a U-Net on the clips of MIR-1K's two training singers, through nussl's datasets and trainer."""

from __future__ import annotations

import argparse
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

import svs_unet_plugin.nussl as svs
from svs_unet_plugin import STFT
from svs_unet_plugin.data.demo import make_corpus
from svs_unet_plugin.nussl import nussl

VALIDATION_SONGS = ("abjones_5", "amy_9")
"""Songs of the training singers that are only for choosing the best epoch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that `svs-unet data mir1k` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; goes on if it was begun")
    parser.add_argument("--conf", type=Path, default=Path(__file__).parent / "local" / "conf.yml")
    parser.add_argument("--workers", type=int, default=0, help="processes that read data (default 0)")
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    if not (options.out / "conf.yml").exists():
        shutil.copyfile(options.conf, options.out / "conf.yml")
    conf = yaml.safe_load(options.conf.read_text())
    stft = STFT(hop_length=conf["hop_length"])

    def clips(held_back: bool, **arguments: Any) -> Any:
        data = nussl.datasets.MixSourceFolder(str(options.data / "train"), **arguments)
        data.items = [item for item in data.items if item.startswith(VALIDATION_SONGS) == held_back]
        data.cache_populated = False  # and so a cache learns how many clips there are
        return data

    def transform(part: str, excerpt_frames: int | None, cached: bool = True) -> Any:
        cache = options.out / "cache" / part if cached else None
        return svs.training_transform(excerpt_frames=excerpt_frames, cache=cache, stft=stft)

    params = svs.stft_params(stft)
    excerpt_frames = conf["excerpt_frames"]
    if "remix" in conf:
        corpus = options.out / "made-up"
        make_corpus(corpus, conf["remix"]["made_up_songs"], seconds=20, seed=1)
        songs = chain(clips(False), nussl.datasets.MUSDB18(str(corpus), is_wav=True))
        train_data = svs.Remix(songs, transform("train", excerpt_frames, cached=False), stft)
    else:
        train_data = clips(False, stft_params=params, transform=transform("train", excerpt_frames))
    val_data = clips(True, stft_params=params, transform=transform("valid", None))

    settings = svs.TrainSettings(**conf["training"])
    nussl.utils.seed(settings.seed)
    model = nussl.ml.SeparationModel(svs.build_unet_mask_inference(**conf["network"]))
    print(svs.train(model, train_data, val_data, options.out, settings, workers=options.workers))


if __name__ == "__main__":
    main()
