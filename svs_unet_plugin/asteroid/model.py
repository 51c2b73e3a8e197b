"""The network as a model of asteroid: waveforms in, waveforms out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from svs_unet_plugin import torch_stft
from svs_unet_plugin.asteroid import compat
from svs_unet_plugin.separator import ACCOMPANIMENT, stem_order
from svs_unet_plugin.stft import STFT, network_magnitudes
from svs_unet_plugin.training.loss import phase_sensitive_magnitude
from svs_unet_plugin.unet import UNet

asteroid = compat.import_asteroid()
from asteroid.models.base_models import (  # noqa: E402
    BaseModel,
    _shape_reconstructed,
    _unsqueeze_to_3d,
)
from asteroid.utils.torch_utils import jitable_shape  # noqa: E402


class SVSUNet(BaseModel):
    """The U-Net between the STFT and its inverse, with the mixture's phase.

    asteroid's ``separate()`` and ``asteroid-infer`` scale what a model returns until its absolute values add
    up to those of the mixture, by which levels are lost and silence becomes NaN: see
    `separate_preserving_scale`. Songs of any rate, in stereo, an hour long, are for
    `svs_unet_plugin.Separator`, which opens the same files.

    Args:
        sample_rate, window_length, hop_length: see `svs_unet_plugin.STFT`.
        sources, channels, bottleneck, max_channels, residual_blocks, in_channels: see
            `svs_unet_plugin.UNet`; "vocals" must be among the sources.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> model = SVSUNet(channels=4).eval()
        >>> model(torch.rand(3, 8192)).shape
        torch.Size([3, 2, 8192])
        >>> model.sources
        ('vocals', 'accompaniment')
    """

    def __init__(
        self,
        sources: Sequence[str] = ("vocals",),
        channels: int = 16,
        bottleneck: str | None = None,
        sample_rate: float = STFT.sample_rate,
        window_length: int = STFT.window_length,
        hop_length: int = STFT.hop_length,
        max_channels: int | None = None,
        residual_blocks: int = 0,
        in_channels: int = 1,
    ) -> None:
        super().__init__(sample_rate=float(sample_rate), in_channels=in_channels)
        if sample_rate != int(sample_rate):
            raise ValueError(f"sample_rate must be a whole number of Hz, got {sample_rate}")
        self.stft = STFT(int(sample_rate), window_length, hop_length)
        self.network = UNet(in_channels, sources, channels, bottleneck, max_channels, residual_blocks)
        self._estimated, indices = stem_order(self.network.sources)
        self._indices = list(indices)

    @classmethod
    def from_network(cls, network: UNet, stft: STFT) -> SVSUNet:
        """A model with the weights of a network, in evaluation mode.

        Raises:
            ValueError: if it does not estimate vocals.
        """
        model = cls(**_arguments(network, stft))
        model.network.load_state_dict(network.state_dict())
        return model.eval()

    @property
    def sources(self) -> tuple[str, ...]:
        """What the model returns, in order: vocals first, accompaniment last, as `Separator` has them."""
        return (*self._estimated, ACCOMPANIMENT)

    def forward(self, wav: Tensor) -> Tensor:
        """Separate waveforms; each item of a batch is a song of its own.

        Args:
            wav: ``(time,)``, ``(batch, time)``, ``(batch, 1, time)`` or, if ``in_channels`` is 2,
                ``(batch, 2, time)`` at the model's sample rate, not empty.

        Returns:
            ``(batch, sources, time)``, or ``(sources, time)`` of a single waveform ``(time,)``, or
            ``(batch, sources, 2, time)`` of two channels. The accompaniment is the mixture less the vocals.

        Raises:
            ValueError: if the waveform has more channels, or no samples.
        """
        shape = jitable_shape(wav)
        mixture = _unsqueeze_to_3d(wav)  # (batch, channels, time)
        if not torch.jit.is_tracing():
            self._check(wav, mixture)
        spectrum, masks, _ = self._analyse(mixture)
        estimates = torch_stft.synthesise(self.stft, masks[:, self._indices] * spectrum[:, None])
        estimates = estimates[..., : mixture.shape[-1]]
        separated = torch.cat([estimates, (mixture - estimates[:, 0])[:, None]], dim=1)
        return separated if mixture.shape[1] == 2 else _shape_reconstructed(separated[:, :, 0], shape)

    def magnitudes(
        self, mixture: Tensor, references: Tensor, phase_sensitive: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What losses compare: mask × mixture, source, and the mixture, on the scale that the network sees.

        Args:
            mixture: ``(batch, channels, time)``.
            references: ``(batch, sources, channels, time)``, in the order of ``network.sources``.
            phase_sensitive: whether the references' magnitudes are
                `phase_sensitive_magnitude` instead of the plain ones of the paper.

        Returns:
            Estimates and references, ``(batch, channels, bins, frames, sources)`` each, and the mixture
            without the last, the largest of which is 1.
        """
        spectrum, masks, peak = self._analyse(mixture)
        sources = torch_stft.analyse(self.stft, references)
        mixed = spectrum[:, None]
        wanted = phase_sensitive_magnitude(sources, mixed) if phase_sensitive else sources.abs()
        magnitude = spectrum.abs() / peak
        return (masks * magnitude[:, None]).movedim(1, -1), (wanted / peak[:, None]).movedim(1, -1), magnitude

    def _analyse(self, mixture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The spectrum, the masks, and the largest magnitudes, by which the network's input is divided.

        Returns:
            ``(batch, channels, bins, frames)``, ``(batch, sources, channels, bins, frames)`` and
            ``(batch, 1, 1, 1)``.
        """
        spectrum = torch_stft.analyse(self.stft, mixture)
        magnitude = spectrum.abs()
        peak = magnitude.amax(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(magnitude.dtype).tiny)
        seen = network_magnitudes(spectrum, self.network.in_channels) / peak
        masks = self.network(seen).to(magnitude.dtype)  # of bfloat16, in mixed precision
        masks = masks.unflatten(1, (len(self.network.sources), self.network.in_channels))
        return spectrum, masks[:, :, : mixture.shape[1]], peak

    def _check(self, wav: Tensor, mixture: Tensor) -> None:
        channels = self.network.in_channels
        if mixture.ndim != 3 or not 1 <= mixture.shape[1] <= channels or mixture.shape[-1] == 0:
            shapes = "(time,), (batch, time) or " + " or ".join(
                f"(batch, {number}, time)" for number in range(1, channels + 1)
            )
            raise ValueError(
                f"the waveform must be {shapes}, not empty, got {tuple(wav.shape)}; "
                "svs_unet_plugin.Separator takes several channels"
            )

    def get_model_args(self) -> dict[str, Any]:
        """The arguments that make this model again, plain text and numbers."""
        return _arguments(self.network, self.stft)


def _arguments(network: UNet, stft: STFT) -> dict[str, Any]:
    if (stft.window_type, stft.normalized) != (STFT.window_type, STFT.normalized):
        raise ValueError(
            "asteroid's model has a Hann window and divides magnitudes by the song's largest; "
            f"the network was trained for {stft}"
        )
    return {
        **network.arguments(),
        "sample_rate": float(stft.sample_rate),
        "window_length": stft.window_length,
        "hop_length": stft.hop_length,
    }
