"""asteroid's way to separate, without its change of level."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from svs_unet_plugin import audio
from svs_unet_plugin.asteroid import compat
from svs_unet_plugin.asteroid.model import SVSUNet
from svs_unet_plugin.encoding import Encoding, writers

asteroid = compat.import_asteroid()

Audio = TypeVar("Audio", Tensor, np.ndarray)


def separate_preserving_scale(model: Any, wav: Audio, **kwargs: Any) -> Audio:
    """``asteroid.separate.separate`` without its last step, for any of asteroid's models.

    That step scales all estimates by Σ|mixture| / Σ|estimates|. It makes vocals that stand alone up to 20 dB
    too loud, lets vocals and accompaniment no longer add up to the mixture, and turns silence into NaN.

    Args:
        model: what asteroid calls separatable, such as a ``BaseModel`` or a ``LambdaOverlapAdd`` of one.
        wav: ``(channels, time)`` or ``(batch, channels, time)`` at the model's rate, floating point.
        kwargs: for the model's ``forward_wav``.

    Returns:
        ``(batch, sources, time)``, or ``(batch, sources, 2, time)`` of a model for two channels, on the
        device of ``wav``; an array if an array was given.

    Raises:
        ValueError: if the model takes another number of channels.
    """
    mixture = torch.from_numpy(wav) if isinstance(wav, np.ndarray) else wav
    channels = mixture.shape[-2] if mixture.ndim > 1 else 1
    if model.in_channels not in (None, channels):
        raise ValueError(f"the model takes {model.in_channels} channel(s), the audio has {channels}")
    if model.in_channels == 2 and mixture.ndim == 2:
        mixture = mixture[None]
    like = next(model.parameters(), mixture) if isinstance(model, nn.Module) else mixture
    with torch.no_grad():
        given = mixture.to(like.device, like.dtype)
        estimates = getattr(model, "forward_wav", model)(given, **kwargs).to(mixture.device)
    return estimates.numpy() if isinstance(wav, np.ndarray) else estimates


def separate_song(
    separate: Callable[[np.ndarray], np.ndarray],
    rate: float,
    mixture: np.ndarray,
    sample_rate: int,
    channels: int = 1,
) -> np.ndarray:
    """Separate audio of any rate by what takes one channel, or two together, at its own rate.

    Two channels together are stereo's; of other audio each channel is both.

    Args:
        separate: makes ``(batch, sources, time)`` of ``(batch, 1, time)``, or ``(batch, sources, 2, time)``
            of ``(batch, 2, time)``.
        rate: of it, in Hz.
        mixture: ``(channels, samples)`` at ``sample_rate`` Hz.
        channels: that it takes, 1 or 2.

    Returns:
        ``(sources, channels, samples)`` at ``sample_rate`` Hz.
    """
    low = audio.resample(mixture, sample_rate, int(rate))
    if channels == 2 and len(low) == 2:
        found = separate(low[None])[0]
    else:
        found = separate(np.repeat(low[:, None], channels, axis=1))
        found = (found if channels == 1 else found[:, :, 0]).swapaxes(0, 1)
    return audio.resample(found, int(rate), sample_rate, mixture.shape[-1])


def separate_file_preserving_scale(
    model: Any, path: str | os.PathLike[str], out: str | os.PathLike[str]
) -> list[Path]:
    """Separate a file with any of asteroid's models for one channel, or an `SVSUNet` for two.

    Unlike asteroid's ``file_separate`` it keeps the file's rate and level, takes every channel, and writes
    32-bit float.

    Args:
        model: see `separate_preserving_scale`.
        path: anything that libsndfile or ffmpeg reads.
        out: a folder, made if it is missing; ``<name>_est<i>.wav`` are written there, as asteroid names them.

    Returns:
        The paths written, in the order of the model's sources.

    Raises:
        OSError: if a file can't be read or written.
        ValueError: if it is not whole, finite audio.
    """
    mixture, sample_rate = audio.read(path)
    channels, samples = mixture.shape
    estimates = separate_song(
        partial(separate_preserving_scale, model),
        model.sample_rate,
        mixture,
        sample_rate,
        channels=2 if isinstance(model, SVSUNet) and model.in_channels == 2 else 1,
    )
    Path(out).mkdir(parents=True, exist_ok=True)
    name = audio.track_name(Path(path))
    paths = [Path(out) / f"{name}_est{i}.wav" for i in range(1, len(estimates) + 1)]
    with writers(paths, Encoding(), sample_rate, channels, samples) as writes:
        for write, estimate in zip(writes, estimates, strict=True):
            write(estimate)
    return paths
