"""Audio in memory, whatever holds it, as the rest of the package knows it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

MOST_CHANNELS = 64
"""More channels than this, and more than samples, are refused: they are samples."""


def is_tensor(audio: Any) -> bool:
    """Whether it is a tensor of torch, which need not be installed."""
    return "torch" in sys.modules and isinstance(audio, sys.modules["torch"].Tensor)


def as_array(audio: Any) -> np.ndarray:
    """Numbers, whatever holds them."""
    try:
        if is_tensor(audio):
            audio = audio.detach().cpu()
            audio = audio.float() if audio.is_floating_point() else audio
        return np.asarray(audio)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"audio must be an array of numbers, got {type(audio).__name__}") from error


def as_mixture(array: np.ndarray) -> np.ndarray:
    """The audio as float32 ``(channels, samples)``.

    Raises:
        ValueError, TypeError: if it can't be separated.
    """
    if array.dtype.kind not in "fiub":
        raise TypeError(f"audio must be an array of numbers, got {array.dtype}")
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"audio must be (channels, samples) or (samples,), not empty, got {array.shape}")
    if array.ndim == 2 and len(array) > max(MOST_CHANNELS, array.shape[1]):
        raise ValueError(f"audio must be (channels, samples), got {array.shape}: transpose it")
    if array.dtype.kind != "f":
        raise ValueError(
            f"audio must be floating point with full scale at 1, got {array.dtype}: "
            "svs_unet_plugin.audio.from_integers scales it"
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise ValueError("audio holds samples that are NaN, infinite, or too large for float32")
    return np.atleast_2d(array)
