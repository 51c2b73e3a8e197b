"""The network as a module of nussl's ``SeparationModel``, its configuration, and how it is saved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from svs_unet_plugin import unet
from svs_unet_plugin.files import check_sources
from svs_unet_plugin.nussl import compat
from svs_unet_plugin.nussl.transforms import inference_transform, stft_params
from svs_unet_plugin.stft import STFT

nussl = compat.import_nussl()


class UNet(unet.UNet):
    """`svs_unet_plugin.UNet` with the axes that nussl has, to be named in a model's configuration.

    A network of two channels sees both channels of stereo together, and a single one alone.
    """

    def forward(self, mix_magnitude: Tensor, mid_side_magnitude: Tensor | None = None) -> Tensor:
        """Masks for a magnitude spectrogram.

        Args:
            mix_magnitude: ``(batch, frames, bins, channels)``, the song's largest value scaled to 1.
            mid_side_magnitude: ``(batch, frames, bins, 2)`` on the same scale, see `MidSide`; for a network
                of two channels.

        Returns:
            ``(batch, frames, bins, channels, sources)``, each in [0, 1].

        Raises:
            ValueError: if a network of two channels gets more.
        """
        batch, frames, bins, channels = mix_magnitude.shape
        magnitude = mix_magnitude.permute(0, 3, 2, 1)
        if self.in_channels == 1:
            magnitude = magnitude.reshape(-1, 1, bins, frames)
        else:
            if channels > 2 or mid_side_magnitude is None:
                raise ValueError(
                    f"the network takes one or two channels and their mid and side, got {channels} channels"
                )
            mid_side = mid_side_magnitude.permute(0, 3, 2, 1)
            magnitude = torch.cat([magnitude.expand(-1, 2, -1, -1), mid_side], dim=1)
        masks = super().forward(magnitude)
        if self.in_channels == 1:
            masks = masks.reshape(batch, channels, -1, bins, frames).transpose(1, 2)
        else:
            masks = masks.reshape(batch, -1, 2, bins, frames)[:, :, :channels]
        return masks.permute(0, 4, 3, 2, 1)


def build_unet_mask_inference(
    sources: Sequence[str] = ("vocals",),
    in_channels: int = 1,
    channels: int = 16,
    bottleneck: str | None = None,
    max_channels: int | None = None,
    residual_blocks: int = 0,
) -> dict[str, Any]:
    """A configuration for ``nussl.ml.SeparationModel``, in the manner of nussl's own builders.

    Args:
        sources: what to estimate; put in alphabetical order, as nussl's transforms have the magnitudes.
        in_channels, channels, bottleneck, max_channels, residual_blocks: see `svs_unet_plugin.UNet`.

    Returns:
        A model of it takes ``mix_magnitude (batch, frames, bins, channels)``, and with two input channels
        ``mid_side_magnitude (batch, frames, bins, 2)``, and returns ``mask`` and ``estimates``, which is
        mask × mixture, both ``(batch, frames, bins, channels, sources)``.

    Example:
        >>> import torch
        >>> model = nussl.ml.SeparationModel(build_unet_mask_inference())
        >>> model({"mix_magnitude": torch.rand(1, 128, 513, 2)})["estimates"].shape
        torch.Size([1, 128, 513, 2, 1])
    """
    check_sources(sources)
    arguments = {
        "sources": sorted(sources),
        "in_channels": in_channels,
        "channels": channels,
        "bottleneck": bottleneck,
        "max_channels": max_channels,
        "residual_blocks": residual_blocks,
    }
    inputs = ["mix_magnitude", "mid_side_magnitude"][:in_channels]
    return {
        "name": "UNetMaskInference",
        "modules": {
            **{name: {} for name in inputs},
            "mask": {"class": "UNet", "args": arguments},
            "estimates": {"class": "Mask"},
        },
        "connections": [["mask", inputs], ["estimates", ["mask", "mix_magnitude"]]],
        "output": ["estimates", "mask"],
    }


def from_network(network: unet.UNet) -> Any:
    """A ``nussl.ml.SeparationModel`` with the weights of a network, and its sources in their order."""
    config = build_unet_mask_inference(**network.arguments())
    config["modules"]["mask"]["args"]["sources"] = list(network.sources)
    model = nussl.ml.SeparationModel(config)
    model.layers["mask"].load_state_dict(network.state_dict())
    return model


def described(network: unet.UNet, stft: STFT) -> dict[str, Any]:
    """The metadata of a ``SeparationModel`` that nussl needs to use it, of a network and its transform."""
    return {
        "sample_rate": stft.sample_rate,
        "num_channels": network.in_channels,
        "stft_params": stft_params(stft),
        "train_dataset": {"transforms": inference_transform(stft, network.in_channels)},
    }


def save(
    model: Any,
    path: str | os.PathLike[str],
    *,
    train_data: Any = None,
    val_data: Any = None,
    trainer: Any = None,
    stft: STFT | None = None,
) -> str:
    """Save a ``nussl.ml.SeparationModel`` with all that it takes to use it, whole or not at all.

    What is written opens again in ``nussl.separation.deep.DeepMaskEstimation``, `UNetSeparation` and
    `svs_unet_plugin.Separator`, in any process.

    Args:
        model: with a `UNet` in it; with ``train_data`` any.
        train_data, val_data: nussl datasets, or loaders of them, whose description is kept as well.
        trainer: an ignite engine, whose epoch and losses are kept as well.
        stft: the transform that the model was made for, where there is no ``train_data``, which has its own.

    Returns:
        The path.

    Raises:
        ValueError: if both ``train_data`` and ``stft`` are given, or neither, or ``stft`` of a model without
            a `UNet`.
    """
    if (train_data is None) == (stft is None):
        raise ValueError(
            "give either train_data, which has its own transform, or the one that the model was made for, "
            "such as stft=svs_unet_plugin.STFT(hop_length=768)"
        )
    metadata = {}
    if stft is not None:
        networks = [layer for layer in model.layers.values() if isinstance(layer, UNet)]
        if not networks:
            raise ValueError("there is no UNet in the model: give train_data, which has its own transform")
        metadata = described(networks[0], stft)
    train_data, val_data = (getattr(data, "dataset", data) for data in (train_data, val_data))
    return model.save(os.fspath(path), metadata, train_data, val_data, trainer)
