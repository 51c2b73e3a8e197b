"""Train a U-Net on the clips of MIR-1K, through nussl's datasets and trainer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import svs_unet_plugin.nussl as svs
from svs_unet_plugin.corpora.mir1k import stretch
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.files import lock
from svs_unet_plugin.nussl import nussl
from svs_unet_plugin.training import configuration

VALIDATION_SONGS = ("abjones_5", "amy_9")
"""Songs of the training singers that are only for choosing the best epoch."""


@dataclass(frozen=True)
class ClipSettings:
    """Which clips are trained on.

    Args:
        remix: whether new mixtures are drawn from the clips, rather than excerpts of them as they are.
        every_clip: whether the test singers' clips are trained on, too: for weights to be used, not scored.
        stretched: versions of each clip at other pitches and tempos, ≥ 0.
        synthetic_songs: how many, ≥ 0.
    """

    remix: bool = True
    every_clip: bool = False
    stretched: int = 0
    synthetic_songs: int = 0

    def __post_init__(self) -> None:
        for name in ("stretched", "synthetic_songs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not self.remix and (self.every_clip or self.stretched or self.synthetic_songs):
            raise ValueError("every_clip, stretched and synthetic_songs need remix: true")


def main() -> None:
    parser = configuration.RecipeParser(__doc__)
    parser.add_class_arguments(ClipSettings)
    parser.add_script_argument(
        "--data_dir", required=True, help="the folder that `svs-unet data mir1k` wrote"
    )
    parser.add_script_argument("--exp_dir", required=True, help="the experiment; it is resumed if it exists")
    parser.add_script_argument("--workers", type=int, default=0, help="processes that read data")
    options = parser.parse_args()
    conf, experiment = parser.configuration(options), Path(options.exp_dir)
    configuration.keep(conf, experiment, options.data_dir)
    clip_settings = ClipSettings(
        options.remix, options.every_clip, options.stretched, options.synthetic_songs
    )
    stft = conf.stft()
    params = svs.stft_params(stft)

    def clips(split: str, held_back: bool | None, **arguments: Any) -> Any:
        """Clips of a split that are held back for validation, or not, or (None) all."""
        data = nussl.datasets.MixSourceFolder(str(Path(options.data_dir) / split), **arguments)
        data.items = [item for item in data.items if held_back in (None, item.startswith(VALIDATION_SONGS))]
        data.cache_populated = False  # so that a cache is as long as the items that are left
        return data

    def transform(part: str, excerpt_frames: int | None) -> Any:
        return svs.training_transform(
            excerpt_frames=excerpt_frames,
            cache=experiment / "cache" / part,
            stft=stft,
            phase_sensitive=conf.training.phase_sensitive,
        )

    def songs() -> Any:
        if clip_settings.every_clip:
            found = [clips("train", None), clips("test", None)]
        else:
            found = [clips("train", False)]
        if clip_settings.stretched:
            mixes = [Path(data.folder) / "mix" / item for data in found for item in data.items]
            stretch(mixes, experiment / "stretched", clip_settings.stretched)
            found.append(nussl.datasets.MixSourceFolder(str(experiment / "stretched")))
        if clip_settings.synthetic_songs:
            corpus = experiment / "synthetic"
            make_corpus(
                corpus, clip_settings.synthetic_songs, seconds=30, seed=1, sample_rate=stft.sample_rate
            )
            found.append(nussl.datasets.MUSDB18(str(corpus), is_wav=True))
        return chain(*found)

    with lock(experiment / "cache"):  # which is emptied as soon as it is opened, whoever reads it
        if clip_settings.remix:
            train_data = svs.Remix(
                songs(),
                stft,
                settings=conf.excerpts,
                phase_sensitive=conf.training.phase_sensitive,
                seed=conf.training.seed,
            )
        else:
            steps = transform("train", conf.excerpts.excerpt_frames)
            train_data = clips("train", False, stft_params=params, transform=steps)
        val_data = clips("train", True, stft_params=params, transform=transform("valid", None))

        nussl.utils.seed(conf.training.seed)
        model = nussl.ml.SeparationModel(svs.build_unet_mask_inference(conf.sources, **conf.network))
        print(svs.train(model, train_data, val_data, experiment, conf.training, workers=options.workers))


if __name__ == "__main__":
    configuration.run(main)
