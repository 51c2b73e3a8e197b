"""Excerpts to look at and to listen to, small enough to be part of a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svs_unet_plugin import audio, spectrogram
from svs_unet_plugin.encoding import Encoding
from svs_unet_plugin.evaluation.report.tables import SOURCES, ordered
from svs_unet_plugin.evaluation.store import REFERENCE, System, audio_files, audio_tracks
from svs_unet_plugin.stft import STFT

PICTURE_SIZE = (360, 132)
"""Width and height of a spectrogram in pixels."""

LOWEST_HZ, HIGHEST_HZ = 60.0, 16_000.0
"""Edges of a spectrogram, whose axis is logarithmic."""

RANGE_DB = 70.0
"""What a spectrogram shows below the largest magnitude of the mixture."""


@dataclass(frozen=True)
class Player:
    """A spectrogram and its sound, both as data URIs."""

    name: str
    kind: str
    picture: str
    sound: str


@dataclass(frozen=True)
class Excerpt:
    """One source of a track: the mixture, the source, and what systems estimate.

    Args:
        seconds: its length.
    """

    track: str
    source: str
    seconds: float
    players: tuple[Player, ...]


def read_excerpts(
    results: Path, systems: Sequence[System], most_bytes: int, tracks: Collection[str] | None = None
) -> tuple[tuple[Excerpt, ...], tuple[str, ...]]:
    """The excerpts in a folder of results, and the names of those tracks for which there was no room.

    Args:
        results: see `svs_unet_plugin.evaluation.store`.
        systems: in the order in which to show them.
        most_bytes: of all pictures and sounds together; tracks are left out, but never a part of one.
        tracks: names of those to take; all by default.
    """
    found: list[Excerpt] = []
    left_out: list[str] = []
    room = most_bytes
    for track in audio_tracks(results):
        if tracks is not None and track not in tracks:
            continue
        of_track = _of_track(results, systems, track)
        size = sum(len(p.picture) + len(p.sound) for excerpt in of_track for p in excerpt.players)
        if size <= room:
            room -= size
            found.extend(of_track)
        else:
            left_out.append(track)
    return tuple(found), tuple(left_out)


def _of_track(results: Path, systems: Sequence[System], track: str) -> list[Excerpt]:
    references = audio_files(results, REFERENCE, track)
    mixture, rate = audio.read(references.pop("mixture"))
    loudest = float(_magnitudes(mixture, rate).max())
    shared = _player("Mixture", "reference", mixture, rate, loudest)
    found = []
    for source in ordered(references, SOURCES):
        players = [shared, _player("True source", "reference", *audio.read(references[source]), loudest)]
        for system in systems:
            estimate = audio_files(results, system.id, track).get(source)
            if estimate is not None and system.kind != "bound":
                players.append(_player(system.name, system.kind, *audio.read(estimate), loudest))
        found.append(Excerpt(track, source, mixture.shape[1] / rate, tuple(players)))
    return found


def _player(name: str, kind: str, samples: np.ndarray, rate: int, loudest: float) -> Player:
    return Player(name, kind, picture(samples, rate, loudest), sound(samples, rate))


def sound(samples: np.ndarray, rate: int) -> str:
    """Audio as the data URI of an MP3, which every browser plays.

    Args:
        samples: ``(channels, samples)``; MP3 takes one or two channels.
        rate: in Hz.
    """
    import soundfile

    higher = Encoding("mp3").file_rate(rate)
    samples, rate = audio.resample(samples, rate, higher), higher
    file = io.BytesIO()
    soundfile.write(
        file,
        np.clip(samples, -1, 1).T,
        rate,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=0.8,  # some 80 kbit/s
        bitrate_mode="CONSTANT",
    )
    return _data_uri("audio/mpeg", file.getvalue())


def picture(samples: np.ndarray, rate: int, loudest: float) -> str:
    """A spectrogram as the data URI of an image, `PICTURE_SIZE` pixels large.

    Args:
        samples: ``(channels, samples)``, whose mean is shown.
        rate: in Hz.
        loudest: the magnitude that is drawn brightest.
    """
    power = _magnitudes(samples, rate) ** 2
    rows = spectrogram.log_rows(power, rate, PICTURE_SIZE[1], LOWEST_HZ, HIGHEST_HZ)
    brightness = spectrogram.brightness(rows, loudest**2, RANGE_DB)
    return _data_uri("image/webp", spectrogram.image(brightness, PICTURE_SIZE))


def _magnitudes(samples: np.ndarray, rate: int) -> np.ndarray:
    """``(bins, frames)`` of the mean of the channels, with windows of some 50 ms."""
    length = 2 ** round(np.log2(0.05 * rate))
    mean = samples.mean(axis=0, dtype=np.float32)
    return np.abs(STFT(rate, length, length // 4).analyse(mean))


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
