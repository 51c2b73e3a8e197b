"""Train a U-Net on the clips of MIR-1K, through nussl's datasets and trainer."""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

import svs_unet_plugin.nussl as svs
from svs_unet_plugin import STFT
from svs_unet_plugin.corpora.mir1k import stretch
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.files import atomic_write
from svs_unet_plugin.nussl import nussl

VALIDATION_SONGS = ("abjones_5", "amy_9")
"""Songs of the training singers that are only for choosing the best epoch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that `svs-unet data mir1k` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; goes on if it was begun")
    parser.add_argument("--conf", type=Path, default=Path(__file__).parent / "local" / "conf.yml")
    changes = parser.add_argument_group("instead of what the configuration says")
    changes.add_argument("--every_clip", type=yaml.safe_load, choices=(True, False), metavar="true|false")
    changes.add_argument("--epochs", type=int)
    changes.add_argument("--seed", type=int)
    parser.add_argument("--workers", type=int, default=0, help="processes that read data (default 0)")
    options = parser.parse_args()

    conf = yaml.safe_load(options.conf.read_text())
    for name, group in (("every_clip", conf), ("epochs", conf["training"]), ("seed", conf["training"])):
        if getattr(options, name) is not None:
            group[name] = getattr(options, name)
    options.out.mkdir(parents=True, exist_ok=True)
    if not (options.out / "conf.yml").exists():
        with atomic_write(options.out / "conf.yml") as beside:
            beside.write_text(yaml.safe_dump(conf, sort_keys=False))
    stft = STFT(hop_length=conf["hop_length"])
    params = svs.stft_params(stft)
    phase_sensitive = conf["phase_sensitive"]

    def clips(split: str, held_back: bool | None, **arguments: Any) -> Any:
        """Clips of a split that are held back for validation, or not, or (None) all."""
        data = nussl.datasets.MixSourceFolder(str(options.data / split), **arguments)
        data.items = [item for item in data.items if held_back in (None, item.startswith(VALIDATION_SONGS))]
        data.cache_populated = False  # and so a cache learns how many clips there are
        return data

    def transform(part: str, excerpt_frames: int | None) -> Any:
        return svs.training_transform(
            excerpt_frames=excerpt_frames,
            cache=options.out / "cache" / part,
            stft=stft,
            phase_sensitive=phase_sensitive,
        )

    if conf["remix"]:
        songs = [clips("train", None), clips("test", None)] if conf["every_clip"] else [clips("train", False)]
        if conf["stretched"]:
            mixes = [Path(data.folder) / "mix" / item for data in songs for item in data.items]
            stretch(mixes, options.out / "stretched", conf["stretched"])
            songs += [nussl.datasets.MixSourceFolder(str(options.out / "stretched"))]
        if conf["made_up_songs"]:
            corpus = options.out / "made-up"
            make_corpus(corpus, conf["made_up_songs"], seconds=30, seed=1, sample_rate=stft.sample_rate)
            songs += [nussl.datasets.MUSDB18(str(corpus), is_wav=True)]
        train_data = svs.Remix(
            chain(*songs),
            stft,
            excerpt_frames=conf["excerpt_frames"],
            phase_sensitive=phase_sensitive,
            **conf["remix"],
        )
    else:
        train_data = clips(
            "train", False, stft_params=params, transform=transform("train", conf["excerpt_frames"])
        )
    val_data = clips("train", True, stft_params=params, transform=transform("valid", None))

    settings = svs.TrainSettings(**conf["training"])
    nussl.utils.seed(settings.seed)
    model = nussl.ml.SeparationModel(svs.build_unet_mask_inference(**conf["network"]))
    print(svs.train(model, train_data, val_data, options.out, settings, workers=options.workers))


if __name__ == "__main__":
    main()
