"""Train a U-Net on prepared songs, through nussl's datasets and trainer."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from configuration import Conf, add_options, read_conf

import svs_unet_plugin.nussl as svs
from svs_unet_plugin import STFT
from svs_unet_plugin.corpora.prepare import Prepared, open_prepared
from svs_unet_plugin.files import atomic_write
from svs_unet_plugin.mixing import scaper as mixing
from svs_unet_plugin.nussl import nussl

STEMS = ("vocals", "drums", "bass", "other")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exp_dir", type=Path, required=True, help="the experiment; goes on if it was begun")
    parser.add_argument("--prepared", type=Path, required=True, help="what `svs-unet data prepare` wrote")
    parser.add_argument("--mixtures_dir", type=Path, help="what mix.py wrote")
    parser.add_argument("--device", help="cpu, cuda …; default: a GPU if there is one")
    parser.add_argument("--workers", type=int, default=0, help="processes that read data (default 0)")
    add_options(parser)
    options = parser.parse_args()

    conf = read_conf(options)
    options.exp_dir.mkdir(parents=True, exist_ok=True)
    for name, text in (("conf.yml", yaml.safe_dump(conf, sort_keys=False)), ("versions.txt", versions())):
        if not (options.exp_dir / name).exists():
            with atomic_write(options.exp_dir / name) as beside:
                beside.write_text(text)
    best = train(
        network_config(conf),
        conf,
        open_prepared(options.prepared),
        options.exp_dir,
        mixtures=options.mixtures_dir,
        device=options.device,
        workers=options.workers,
    )
    with atomic_write(options.exp_dir / "best_model.pth") as beside:
        shutil.copyfile(best, beside)
    print(options.exp_dir / "best_model.pth")


def network_config(conf: Conf) -> dict[str, Any]:
    """The U-Net of a configuration, for ``nussl.ml.SeparationModel``."""
    return svs.build_unet_mask_inference(sources_of(conf), **conf["network"])


def sources_of(conf: Conf) -> tuple[str, ...]:
    sources = tuple(conf["sources"].split(","))
    if "vocals" not in sources or not set(sources) <= set(STEMS) or len(set(sources)) < len(sources):
        raise ValueError(
            f"sources must be vocals, or vocals and others of {','.join(STEMS)} with commas between, "
            f"got {conf['sources']!r}"
        )
    return sources


def train(
    network: dict[str, Any],
    conf: Conf,
    prepared: Prepared,
    out: Path,
    *,
    mixtures: Path | None = None,
    device: str | None = None,
    workers: int = 0,
    progress: bool = True,
) -> Path:
    """Train a network, and return its best checkpoint; a run that was stopped goes on.

    Args:
        network: a configuration for ``nussl.ml.SeparationModel`` that estimates the configuration's sources.
        conf: such as ``local/conf.yml``.
        prepared: the songs.
        out: the folder of the run.
        mixtures: what mix.py wrote, if the configuration asks for it.
        device, workers, progress: see `svs_unet_plugin.nussl.train`.
    """
    sources, stft = sources_of(conf), STFT(prepared.settings.sample_rate, hop_length=conf["hop_length"])
    settings = svs.TrainSettings(**conf["training"])
    nussl.utils.seed(settings.seed)
    model = nussl.ml.SeparationModel(network)
    val_data = mixing.whole_songs(
        prepared.valid,
        stft_params=svs.stft_params(stft),
        transform=transform_of(conf, sources, stft, cache=out / "cache" / "valid"),
    )
    train_data = training_data(conf, sources, stft, prepared, out, mixtures)
    return svs.train(
        model, train_data, val_data, out, settings, device=device, workers=workers, progress=progress
    )


def transform_of(
    conf: Conf,
    sources: Sequence[str],
    stft: STFT,
    excerpt_frames: int | None = None,
    cache: Path | None = None,
) -> Any:
    """What stands between songs and the network; whole songs, unless it is told otherwise."""
    return svs.training_transform(sources, excerpt_frames, cache, stft, conf["phase_sensitive"])


def training_data(
    conf: Conf, sources: Sequence[str], stft: STFT, prepared: Prepared, out: Path, mixtures: Path | None
) -> Any:
    """The nussl dataset that ``conf["mixing"]`` names."""
    scaper = mixing.MixSettings(**conf["scaper"])
    if scaper.mixtures and conf["mixing"] != "on_the_fly" and mixtures is None:
        raise ValueError(
            f"{scaper.mixtures} mixtures are to be trained on: name their folder, --mixtures_dir"
        )
    arguments: dict[str, Any] = {"stft_params": svs.stft_params(stft)}

    def mixtures_dir() -> Path:
        if mixtures is None:
            raise ValueError(f"{scaper.mixtures} mixtures are to be trained on: name their folder")
        return mixtures

    if conf["mixing"] == "remix":
        others = [name for name in STEMS if name not in sources]

        def songs() -> Iterator[Any]:
            yield from mixing.mapped_songs(prepared.train, [*sorted(sources), *others])
            if scaper.mixtures:
                yield from mixing.open_mixtures(mixtures_dir(), scaper)

        return svs.Remix(
            songs(),
            stft,
            sources=sources,
            others=others,
            excerpt_frames=conf["excerpt_frames"],
            phase_sensitive=conf["phase_sensitive"],
            **conf["remix"],
        )
    if conf["mixing"] == "scaper":
        if not scaper.mixtures:
            raise ValueError("mixing: scaper trains on scaper's mixtures, and scaper: mixtures is 0")
        transform = transform_of(conf, sources, stft, conf["excerpt_frames"], out / "cache" / "train")
        return mixing.open_mixtures(mixtures_dir(), scaper, transform=transform, **arguments)
    if conf["mixing"] == "on_the_fly":
        transform = transform_of(conf, sources, stft, conf["excerpt_frames"])
        number = conf["training"]["epoch_steps"] * conf["training"]["batch_size"]
        return mixing.on_the_fly(prepared, scaper, number, transform=transform, **arguments)
    raise ValueError(f"mixing must be remix, scaper or on_the_fly, got {conf['mixing']!r}")


def versions() -> str:
    """The versions that a run depends on, one a line."""
    packages = ("svs_unet_plugin", "nussl", "torch", "numpy", "scipy", "librosa", "soxr", "scaper", "museval")
    lines = [f"python {sys.version.split()[0]}", *(f"{name} {version(name)}" for name in packages)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
