"""A loss in dB, under a name that nussl's closures know."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

FLOOR = 1e-3
"""Error that counts as none, as a share of the mixture's energy: -30 dB, which no mask reaches."""


class SpectralSNRLoss(nn.Module):
    """Energy of the error over that of the mixture, in dB, each excerpt alone: a quiet one counts as much.

    With `phase_sensitive_magnitude` as references this is, up to what no mask can change, the error of the
    separated audio, and so its minimum is the mask of the highest SDR.
    """

    DEFAULT_KEYS: ClassVar = {
        "estimates": "estimates",
        "source_magnitudes": "references",
        "mix_magnitude": "mixture",
    }

    def forward(self, estimates: Tensor, references: Tensor, mixture: Tensor) -> Tensor:
        """The mean over batch and sources, in dB; lower is better.

        Args:
            estimates, references: ``(batch, frames, bins, channels, sources)``.
            mixture: ``(batch, frames, bins, channels)``.
        """
        error = (estimates - references).square().sum(dim=(1, 2, 3))
        energy = mixture.square().sum(dim=(1, 2, 3))[:, None].clamp_min(torch.finfo(mixture.dtype).tiny)
        return 10 * torch.log10(error / energy + FLOOR).mean()
