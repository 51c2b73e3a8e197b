"""What is compared: this package by each of its doors, and other separators.

The others' weights are random: time does not depend on what a network has learnt. Nothing is downloaded.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from timing import RATE
from torch import Tensor

from svs_unet_plugin import STFT, Separator, UNet, checkpoint

Separate = Callable[[Tensor], object]
"""Separates audio ``(2, samples)`` at `RATE`, both on the CPU."""


def random_unet(**arguments: Any) -> UNet:
    """A `UNet` whose normalisations have seen data, so that no layer's values die out or blow up."""
    torch.manual_seed(0)
    network = UNet(**arguments)
    with torch.no_grad():
        network.train()(torch.rand(1, network.inputs, 513, 128) ** 8)
        network.get_parameter("decoder.5.weight").mul_(20)  # so that the masks are not all one half
    return network.eval()


def plugin(separator: Separator) -> Separate:
    """This package's `Separator`."""
    return lambda audio: separator.separate(audio, RATE)


def unet_separation(device: torch.device) -> Separate:
    """`UNetSeparation`, which is the same in nussl; it is loaded once, and given other songs then."""
    nussl, svs = _nussl()

    def separate(audio: Tensor) -> object:
        separator.audio_signal = nussl.AudioSignal(audio_data_array=audio.numpy(), sample_rate=RATE)
        return separator.run()

    silence = nussl.AudioSignal(audio_data_array=torch.zeros(2, RATE).numpy(), sample_rate=RATE)
    separator = svs.UNetSeparation(silence, device=device)
    return separate


def deep_mask(device: torch.device) -> Separate:
    """nussl's own ``DeepMaskEstimation`` of the bundled weights, whose estimates stay at 8192 Hz."""
    nussl, svs = _nussl()
    loaded = checkpoint.read()
    silence = nussl.AudioSignal(audio_data_array=torch.zeros(2, RATE).numpy(), sample_rate=RATE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pth"
        svs.save(svs.from_network(loaded.network), path, stft=loaded.stft)
        separator = nussl.separation.deep.DeepMaskEstimation(silence, str(path), device=str(device))
    return lambda audio: separator(
        audio_signal=nussl.AudioSignal(audio_data_array=audio.numpy(), sample_rate=RATE)
    )


def open_unmix(device: torch.device, name: str = "umxhq", **arguments: Any) -> Callable[[Tensor], Tensor]:
    """Open-Unmix: stems ``(1, sources, 2, samples)``.

    Args:
        device: where it runs.
        name: ``umxhq``, or ``umxl`` with layers of twice the width, which is the default of its command line.
        **arguments: such as ``targets`` and ``residual``; one EM iteration, and four targets by default.
    """
    with _torchaudio_or_stand_in():
        openunmix = importlib.import_module("openunmix")
    separator = getattr(openunmix, name)(pretrained=False, device=str(device), **arguments).eval()
    return torch.inference_mode()(lambda audio: separator(audio[None].to(device)).cpu())


def ht_demucs(device: torch.device, shifts: int = 0) -> Callable[[Tensor], Tensor]:
    """HT Demucs in the configuration of the released ``htdemucs``, run as its command line runs it.

    Args:
        device: where it runs.
        shifts: of which that has one, at random: it costs half a second of audio more, and makes runs differ.
    """
    with _torchaudio_or_stand_in():  # up to demucs 4.0
        htdemucs = importlib.import_module("demucs.htdemucs")
        apply = importlib.import_module("demucs.apply")
    # Of the class's defaults, the released model changes these three: 41 984 456 parameters.
    network = htdemucs.HTDemucs(
        sources=["drums", "bass", "other", "vocals"],
        bottom_channels=512,
        dconv_mode=3,
        segment=Fraction(39, 5),
    ).eval()
    return torch.inference_mode()(
        lambda audio: apply.apply_model(
            network, audio[None], shifts=shifts, split=True, overlap=0.25, device=device
        )
    )


def x_umx(device: torch.device) -> Separate:
    """asteroid's X-UMX in the configuration of its recipe: four stems, by the mixture's phase."""
    from svs_unet_plugin.asteroid import asteroid  # which runs X-UMX on today's torch

    model = asteroid.models.XUMX(
        sources=["bass", "drums", "other", "vocals"],
        max_bin=int(16_000 / (RATE / 4096)) + 1,
        return_time_signals=True,
    )
    model = model.to(device).eval()
    return torch.inference_mode()(lambda audio: model(audio[None].to(device))[1].cpu())


OURS: Mapping[str, Callable[[torch.device], Separate]] = {
    "the paper's U-Net": lambda device: plugin(Separator(random_unet(), device, stft=STFT())),
    "bundled `vocals`": lambda device: plugin(Separator(device=device)),
    "bundled `small`": lambda device: plugin(Separator("small", device=device)),
}
HOSTS: Mapping[str, Callable[[torch.device], Separate]] = {
    "`vocals` by nussl: UNetSeparation": unet_separation,
    "`vocals` by nussl: DeepMaskEstimation": deep_mask,
}
OTHERS: Mapping[str, Callable[[torch.device], Separate]] = {
    "Open-Unmix": lambda device: open_unmix(device, targets=["vocals"], residual=True),
    "X-UMX": x_umx,
    "HT Demucs": ht_demucs,
}
SYSTEMS = {**OURS, **HOSTS, **OTHERS}
"""Load what separates on a device, by name; they raise ``ImportError`` where a package is missing."""


def _nussl() -> tuple[Any, Any]:
    import svs_unet_plugin.nussl as svs

    return svs.nussl, svs


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
