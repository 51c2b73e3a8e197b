"""The U-Net in nussl: importing this repairs nussl for today's Python and registers all it adds.

`UNet` can be named in a model's configuration, the transforms are in ``nussl.datasets.transforms``, and
`UNetSeparation` is in ``nussl.separation.deep``.
"""

from svs_unet_plugin.mixing.excerpts import ExcerptSettings
from svs_unet_plugin.nussl import compat
from svs_unet_plugin.nussl.datasets import Remix
from svs_unet_plugin.nussl.model import UNet, build_unet_mask_inference, from_network, save
from svs_unet_plugin.nussl.separation import UNetSeparation
from svs_unet_plugin.nussl.training import collate, train
from svs_unet_plugin.nussl.transforms import (
    MidSide,
    NormalizeMagnitude,
    SelectSources,
    ToSampleRate,
    inference_transform,
    stft_params,
    training_transform,
)
from svs_unet_plugin.training.loss import SpectralSNRLoss, phase_sensitive_magnitude
from svs_unet_plugin.training.settings import TrainSettings

nussl = compat.import_nussl()

nussl.ml.register_module(UNet)
nussl.ml.register_loss(SpectralSNRLoss)
nussl.separation.deep.UNetSeparation = UNetSeparation
for _transform in (SelectSources, ToSampleRate, NormalizeMagnitude, MidSide):
    setattr(nussl.datasets.transforms, _transform.__name__, _transform)

__all__ = [
    "ExcerptSettings",
    "MidSide",
    "NormalizeMagnitude",
    "Remix",
    "SelectSources",
    "SpectralSNRLoss",
    "ToSampleRate",
    "TrainSettings",
    "UNet",
    "UNetSeparation",
    "build_unet_mask_inference",
    "collate",
    "from_network",
    "inference_transform",
    "phase_sensitive_magnitude",
    "save",
    "stft_params",
    "train",
    "training_transform",
]
