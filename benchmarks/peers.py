"""Open-Unmix and HT Demucs with random weights: time does not depend on what a network has learnt."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

Separate = Callable[[Tensor], Tensor]
"""Stems ``(1, sources, 2, samples)`` of audio ``(2, samples)`` at 44.1 kHz."""


def open_unmix(name: str, **arguments: Any) -> Separate:
    """Open-Unmix.

    Args:
        name: ``umxhq``, or ``umxl`` with layers of twice the width, which is the default of its command line.
        **arguments: such as ``targets`` and ``residual``; one EM iteration, and four targets by default.
    """
    with _torchaudio_or_stand_in():
        openunmix = _import("openunmix", "openunmix")
    separator = getattr(openunmix, name)(pretrained=False, device="cpu", **arguments).eval()
    return torch.inference_mode()(lambda audio: separator(audio[None]))


def ht_demucs(shifts: int) -> Separate:
    """HT Demucs in the configuration of the released ``htdemucs``, run as its command line runs it.

    Args:
        shifts: of which that has one, at random: it costs half a second of audio more, and makes runs differ.
    """
    with _torchaudio_or_stand_in():  # up to demucs 4.0
        htdemucs = _import("demucs.htdemucs", "demucs")
        apply = _import("demucs.apply", "demucs")
    # Of the class's defaults, the released model changes these three: 41 984 456 parameters.
    network = htdemucs.HTDemucs(
        sources=["drums", "bass", "other", "vocals"],
        bottom_channels=512,
        dconv_mode=3,
        segment=Fraction(39, 5),
    ).eval()
    return torch.inference_mode()(
        lambda audio: apply.apply_model(network, audio[None], shifts=shifts, split=True, overlap=0.25)
    )


def _import(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        print(
            f"{package} can't be imported, {error.name} is not installed: "
            "pip install einops julius && pip install --no-deps openunmix demucs (see benchmarks/README.md)",
            file=sys.stderr,
        )
        sys.exit(2)


@contextmanager
def _torchaudio_or_stand_in() -> Iterator[None]:
    """Let a package be imported that imports torchaudio, where there is none that can be.

    PyPI's torchaudio is built for CUDA and raises OSError beside a torch for the CPU. The networks and
    their transforms are torch's alone; torchaudio is for files and training, which are not used here.
    """
    try:
        importlib.import_module("torchaudio")
        missing = False
    except (ImportError, OSError):
        missing = True
        sys.modules["torchaudio"] = ModuleType("torchaudio")
    try:
        yield
    finally:
        if missing:
            del sys.modules["torchaudio"]
