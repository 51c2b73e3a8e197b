"""The separator as nussl knows separators."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch

from svs_unet_plugin.nussl import compat
from svs_unet_plugin.nussl.model import described, from_network
from svs_unet_plugin.separator import Separator
from svs_unet_plugin.unet import UNet

nussl = compat.import_nussl()


class UNetSeparation(nussl.separation.SeparationBase):  # type: ignore[name-defined]
    """Separates a mixture into vocals and accompaniment, at its own rate, length and channels.

    Unlike ``DeepMaskEstimation`` it takes any mixture from one sample up, in memory that does not grow
    with its length beyond the audio itself, and vocals and accompaniment add up to the mixture. A network
    of more sources has their estimates between the two.

    Args:
        input_audio_signal: a ``nussl.AudioSignal``.
        model_path: a checkpoint, the name of bundled weights, None for the default ones, or a
            `svs_unet_plugin.UNet`.
        device: where the network runs; by default a GPU if there is one.
        mask_type: ``"soft"``, or ``"binary"`` for masks of 0 and 1.
        mask_threshold: in (0, 1), above which a binary mask is 1.
        views: window lengths to average over, see `svs_unet_plugin.Separator`.

    Raises:
        FileNotFoundError, ValueError: see `svs_unet_plugin.Separator`.
    """

    def __init__(
        self,
        input_audio_signal: Any,
        model_path: str | os.PathLike[str] | UNet | None = None,
        device: str | torch.device | None = None,
        mask_type: str = "soft",
        mask_threshold: float = 0.5,
        views: int = 1,
    ) -> None:
        if mask_type not in ("soft", "binary"):
            raise ValueError(f"mask_type must be 'soft' or 'binary', got {mask_type!r}")
        self.separator = Separator(
            model_path,
            device,
            mask_threshold=mask_threshold if mask_type == "binary" else None,
            views=views,
            engine="torch",
        )
        self.estimates: dict[str, np.ndarray] = {}
        super().__init__(input_audio_signal)
        self.metadata.update(
            mask_type=mask_type,
            mask_threshold=mask_threshold,
            views=views,
            sources=list(self.separator.sources),
        )

    @cached_property
    def model(self) -> Any:
        """The network as a ``nussl.ml.SeparationModel`` on the CPU, which `associate_metrics` takes.

        What it saves opens again, with the metrics in it.
        """
        network = cast(UNet, self.separator.network)
        model = from_network(network).eval()
        model.metadata.update(described(network, self.separator.stft))
        return model

    def run(self) -> dict[str, np.ndarray]:
        """Separate the mixture; the estimates ``(channels, samples)`` by name."""
        mixture = self.audio_signal.audio_data.astype(np.float32)
        self.estimates = self.separator.separate(mixture, self.audio_signal.sample_rate)
        return self.estimates

    def make_audio_signals(self) -> list[Any]:
        """The estimates as ``AudioSignal``: vocals first, accompaniment last."""
        if not self.estimates:
            raise nussl.separation.SeparationException("nothing is separated yet: call run() first")
        return [
            self.audio_signal.make_copy_with_audio_data(estimate, verbose=False)
            for estimate in self.estimates.values()
        ]

    def get_metadata(self, to_str: bool = False, **kwargs: Any) -> Any:
        """What was done to the mixture, as a dictionary or, with ``to_str``, as text."""
        return str(self.metadata) if to_str else self.metadata
