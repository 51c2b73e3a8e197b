"""Train a U-Net on the clips of MIR-1K, through nussl's datasets and trainer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

import svs_unet_plugin.nussl as svs
from svs_unet_plugin import audio
from svs_unet_plugin.corpora.mir1k import stretch
from svs_unet_plugin.corpora.musdb import find_tracks
from svs_unet_plugin.corpora.prepare import open_prepared
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.files import lock
from svs_unet_plugin.mixing.excerpts import Collection
from svs_unet_plugin.nussl import nussl
from svs_unet_plugin.nussl.datasets import whole_songs
from svs_unet_plugin.training import configuration

VALIDATION_SONGS = ("abjones_5", "amy_9")
"""Songs of the training singers that are only for choosing the best epoch."""

ACCOMPANIMENT = 0.1
"""Root mean square that music without voices is brought to, -20 dB: above most vocals, as in most songs."""


@dataclass(frozen=True)
class ClipSettings:
    """What is trained on.

    Args:
        remix: whether new mixtures are drawn from the clips, rather than excerpts of them as they are.
        clips: whether the clips are trained on, rather than what else there is alone. The validation is by
            clips all the same.
        every_clip: whether the clips for validation and those of the test singers are trained on, too: for
            weights to be used, not scored. The validation loss then says nothing about other songs.
        stretched: versions of each clip at other pitches and tempos, ≥ 0.
        synthetic_songs: how many, ≥ 0.
        soundfont: a file whose instruments play their bands, see `svs-unet data demo --soundfont`; None for
            sounds by rule.
        songs: a folder of songs with stems that `svs-unet data prepare` wrote; all but the test songs are
            used.
        voices: a folder of audio files, each a voice alone.
        accompaniments: a folder of audio files, each music in which nobody sings; they are brought to one
            level.
        synthetic_share, songs_share, voices_share, accompaniments_share: how often each of these kinds is
            drawn for each time that the clips are or would be, > 0.
    """

    remix: bool = True
    clips: bool = True
    every_clip: bool = False
    stretched: int = 0
    synthetic_songs: int = 0
    soundfont: str | None = None
    songs: str | None = None
    voices: str | None = None
    accompaniments: str | None = None
    synthetic_share: float = 1.0
    songs_share: float = 1.0
    voices_share: float = 1.0
    accompaniments_share: float = 1.0

    def __post_init__(self) -> None:
        for name in ("stretched", "synthetic_songs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        others = ("every_clip", "stretched", "synthetic_songs", "songs", "voices", "accompaniments")
        if not self.remix and any(getattr(self, name) for name in others):
            raise ValueError(f"{', '.join(others)} need remix: true")
        if not self.clips and (self.every_clip or self.stretched or not self.remix):
            raise ValueError("every_clip, stretched and remix: false need clips: true")


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
    if conf.sources != ("vocals",):
        raise ValueError(f"sources must be vocals, got {','.join(conf.sources)}: clips have no other stems")
    nussl.utils.seed(conf.training.seed)
    model = nussl.ml.SeparationModel(svs.build_unet_mask_inference(conf.sources, **conf.network))
    stft = conf.stft()
    conf.load_weights(model.layers["mask"], stft)
    configuration.keep(conf, experiment, options.data_dir)
    clip_settings = configuration.picked(ClipSettings, vars(options))
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
            in_channels=conf.network["in_channels"],
        )

    def collections() -> Iterator[Collection]:
        """What there is of clips, synthetic songs, songs and voices."""
        if clip_settings.every_clip:
            found = [clips("train", None), clips("test", None)]
        elif clip_settings.clips:
            found = [clips("train", False)]
        else:
            found = []
        if clip_settings.stretched:
            mixes = [Path(data.folder) / "mix" / item for data in found for item in data.items]
            stretch(mixes, experiment / "stretched", clip_settings.stretched)
            found.append(nussl.datasets.MixSourceFolder(str(experiment / "stretched")))
        if found:
            yield Collection(chain(*found))
        if clip_settings.synthetic_songs:
            corpus = experiment / "synthetic"
            make_corpus(
                corpus,
                clip_settings.synthetic_songs,
                seconds=30,
                seed=1,
                sample_rate=stft.sample_rate,
                soundfont=Path(clip_settings.soundfont) if clip_settings.soundfont else None,
            )
            yield Collection(whole_songs(find_tracks(corpus)), clip_settings.synthetic_share)
        if clip_settings.songs:
            prepared = open_prepared(clip_settings.songs)
            yield Collection(whole_songs([*prepared.train, *prepared.valid]), clip_settings.songs_share)
        if clip_settings.voices:
            alone = [{"vocals": read_at(path, stft.sample_rate)} for path in files_in(clip_settings.voices)]
            yield Collection(alone, clip_settings.voices_share)
        if clip_settings.accompaniments:
            music = (read_at(path, stft.sample_rate) for path in files_in(clip_settings.accompaniments))
            bands = [
                {"accompaniment": signal * (ACCOMPANIMENT / max(audio.rms(signal), 1e-6))} for signal in music
            ]
            yield Collection(bands, clip_settings.accompaniments_share)

    with lock(experiment / "cache"):  # which is emptied as soon as it is opened, whoever reads it
        if clip_settings.remix:
            train_data = svs.Remix(
                collections(),
                stft,
                settings=conf.excerpts,
                phase_sensitive=conf.training.phase_sensitive,
                seed=conf.training.seed,
                in_channels=conf.network["in_channels"],
            )
        else:
            steps = transform("train", conf.excerpts.excerpt_frames)
            train_data = clips("train", False, stft_params=params, transform=steps)
        val_data = clips("train", True, stft_params=params, transform=transform("valid", None))
        print(svs.train(model, train_data, val_data, experiment, conf.training, workers=options.workers))


def files_in(folder: str) -> list[Path]:
    """The audio files of a folder, by name.

    Raises:
        ValueError: if there are none.
    """
    found = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in audio.EXTENSIONS)
    if not found:
        raise ValueError(f"{folder} holds no audio files")
    return found


def read_at(path: Path, sample_rate: int) -> np.ndarray:
    """The audio of a file, ``(channels, samples)``, at a sample rate in Hz."""
    samples, rate = audio.read(path)
    return audio.resample(samples, rate, sample_rate)


if __name__ == "__main__":
    configuration.run(main)
