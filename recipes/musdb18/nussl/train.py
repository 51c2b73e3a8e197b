"""Train a U-Net on prepared songs, through nussl's datasets and trainer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import svs_unet_plugin.nussl as svs
from svs_unet_plugin.corpora.musdb import STEMS
from svs_unet_plugin.corpora.prepare import Prepared, open_prepared
from svs_unet_plugin.files import copy, lock
from svs_unet_plugin.mixing.excerpts import mapped_songs
from svs_unet_plugin.mixing.scaper import MixSettings
from svs_unet_plugin.nussl import nussl
from svs_unet_plugin.nussl.datasets import OnTheFly, open_mixtures, whole_songs
from svs_unet_plugin.stft import STFT
from svs_unet_plugin.training import configuration
from svs_unet_plugin.training.configuration import Configuration

MIXING = Literal["remix", "scaper", "on_the_fly"]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_script_argument("--exp_dir", required=True, help="the experiment; it is resumed if it exists")
    parser.add_script_argument("--device", help="cpu, cuda …; default: a GPU if there is one")
    parser.add_script_argument("--workers", type=int, default=0, help="processes that read data")
    options = parser.parse_args()
    conf, experiment = parser.configuration(options), Path(options.exp_dir)
    network, prepared = network_of(conf), open_prepared(options.data_dir)
    model = make_model(conf, network, conf.stft(prepared.settings.sample_rate))
    configuration.keep(conf, experiment, options.data_dir)
    best = train(
        conf,
        prepared,
        experiment,
        model,
        mixtures=options.mixtures,
        device=options.device,
        workers=options.workers,
    )
    copy(best, experiment / "best_model.pth")
    print(experiment / "best_model.pth")


def command_line(description: str | None) -> configuration.RecipeParser:
    """The options of this script and of mix.py: a configuration, songs and mixtures."""
    parser = configuration.RecipeParser(description)
    parser.add_argument("--mixing", type=MIXING, default="remix", help="how the songs are mixed")
    parser.add_class_arguments(MixSettings, "scaper")
    parser.add_script_argument("--data_dir", required=True, help="prepared songs")
    parser.add_script_argument("--mixtures", default="mixtures", help="the folder of scaper's mixtures")
    return parser


def network_of(conf: Configuration) -> dict[str, Any]:
    """The U-Net of a configuration, for ``nussl.ml.SeparationModel``."""
    if not set(conf.sources) <= set(STEMS):
        raise ValueError(f"sources must be among {','.join(STEMS)}, got {','.join(conf.sources)}")
    return svs.build_unet_mask_inference(conf.sources, **conf.network)


def make_model(conf: Configuration, network: dict[str, Any], stft: STFT) -> Any:
    """A ``nussl.ml.SeparationModel`` as the training begins with it.

    Args:
        network: the model's configuration; if it is not that of a `svs_unet_plugin.nussl.UNet`, ``conf``
            names no weights.
        stft: the transform that it is trained on.
    """
    nussl.utils.seed(conf.training.seed)
    model = nussl.ml.SeparationModel(network)
    conf.load_weights(model.layers["mask"], stft)
    return model


def train(
    conf: Configuration,
    prepared: Prepared,
    out: Path,
    model: Any,
    *,
    mixtures: str | Path,
    device: str | None = None,
    workers: int = 0,
    progress: bool = True,
    **validation: Any,
) -> Path:
    """Train a network, and return its best checkpoint; a run that was stopped is resumed.

    Args:
        prepared: the songs.
        out: the folder of the run.
        model: a ``nussl.ml.SeparationModel`` that estimates the configuration's sources, see `make_model`.
        mixtures: the folder that mix.py writes to, if the configuration asks for it.
        device, workers, progress: see `svs_unet_plugin.nussl.train`.
        validation: further arguments of the dataset of songs for validation.
    """
    with lock(out / "cache"):  # which is emptied as soon as it is opened, whoever reads it
        songs = whole_songs(
            prepared.valid,
            stft_params=svs.stft_params(conf.stft(prepared.settings.sample_rate)),
            transform=transform(conf, prepared, None, out / "cache" / "valid"),
            **validation,
        )
        return svs.train(
            model,
            training_data(conf, prepared, out, mixtures),
            songs,
            out,
            conf.training,
            device=device,
            workers=workers,
            progress=progress,
        )


def transform(conf: Configuration, prepared: Prepared, excerpt_frames: int | None, cache: Path | None) -> Any:
    """What stands between songs and the network."""
    stft = conf.stft(prepared.settings.sample_rate)
    return svs.training_transform(
        conf.sources,
        excerpt_frames,
        cache,
        stft,
        conf.training.phase_sensitive,
        conf.network["in_channels"],
    )


def training_data(conf: Configuration, prepared: Prepared, out: Path, mixtures: str | Path) -> Any:
    """The nussl dataset that the key ``mixing`` names."""
    stft, scaper = conf.stft(prepared.settings.sample_rate), MixSettings(**conf.values["scaper"])
    mixing, frames = conf.values["mixing"], conf.excerpts.excerpt_frames
    if mixing == "remix":
        others = [name for name in STEMS if name not in conf.sources]

        def songs() -> Iterator[Any]:
            yield from mapped_songs(prepared.train, [*sorted(conf.sources), *others])
            if scaper.mixtures:
                yield from open_mixtures(mixtures, scaper)

        return svs.Remix(
            songs(),
            stft,
            sources=conf.sources,
            others=others,
            settings=conf.excerpts,
            phase_sensitive=conf.training.phase_sensitive,
            seed=conf.training.seed,
            in_channels=conf.network["in_channels"],
        )
    params = svs.stft_params(stft)
    if mixing == "on_the_fly":
        items = conf.training.epoch_steps * conf.training.batch_size
        steps = transform(conf, prepared, frames, None)
        return OnTheFly(prepared, scaper, items, conf.training.seed, stft_params=params, transform=steps)
    if not scaper.mixtures:
        raise ValueError("with mixing: scaper there must be mixtures to train on: --scaper.mixtures 100")
    steps = transform(conf, prepared, frames, out / "cache" / "train")
    return open_mixtures(mixtures, scaper, stft_params=params, transform=steps)


if __name__ == "__main__":
    configuration.run(main)
