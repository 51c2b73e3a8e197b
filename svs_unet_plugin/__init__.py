"""Singing-voice separation with the U-Net of Jansson et al. (ISMIR 2017): for nussl, asteroid and on its own.

What it offers is imported when it is asked for. Bundled weights and ONNX models take no torch.

>>> import svs_unet_plugin
>>> stems = svs_unet_plugin.separate(mixture, 44_100, "vocals.pth")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from svs_unet_plugin.separator import Separator, separate
    from svs_unet_plugin.stft import STFT
    from svs_unet_plugin.streaming import Streamer
    from svs_unet_plugin.unet import UNet

__version__ = "0.1.0"

__all__ = ["STFT", "Separator", "Streamer", "UNet", "__version__", "separate"]

_HOMES = {
    "STFT": "stft",
    "Separator": "separator",
    "Streamer": "streaming",
    "UNet": "unet",
    "separate": "separator",
}
"""The modules that hold what this package offers."""

_MODULES = ("audio", "checkpoint", "encoding", "files", "separator", "stft", "streaming", "unet")
"""The core, which is at hand as ``svs_unet_plugin.audio`` and so on without another import."""


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _HOMES:
        globals()[name] = value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        return value
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
