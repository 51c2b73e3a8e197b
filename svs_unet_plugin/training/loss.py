"""What is trained for beside the paper's L1: the SNR of the audio, from magnitudes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

FLOOR = 1e-3
"""Share of the mixture's energy below which errors count no more: -30 dB, which no mask reaches."""

SILENCE = 1e-12
"""A mixture of less energy is taken for one of this much, so that gradients stay finite."""


def phase_sensitive_magnitude(sources: Tensor, mixture: Tensor) -> Tensor:
    """What a mask in [0, 1] should make of the mixture's magnitude, so that the audio's error is least.

    H. Erdogan, J. R. Hershey, S. Watanabe, J. Le Roux: "Phase-sensitive and recognition-boosted speech
    separation using deep recurrent neural networks", ICASSP 2015, cut off below 0 and above the mixture as
    in nussl's ``PhaseSensitiveSpectrumApproximation``.

    Args:
        sources, mixture: complex spectra that broadcast.
    """
    magnitude = mixture.abs()
    projected = (sources * mixture.conj()).real / magnitude.clamp_min(torch.finfo(magnitude.dtype).tiny)
    return projected.clamp_min(0).minimum(magnitude)


class SpectralSNRLoss(nn.Module):
    """Energy of the error over that of the mixture, in dB, each excerpt alone: a quiet one counts as much.

    With `phase_sensitive_magnitude` as references this is, up to what no mask can change, the error of the
    separated audio, and so its minimum is the mask of the highest SDR.
    """

    #: What nussl's closures give it.
    DEFAULT_KEYS: ClassVar = {
        "estimates": "estimates",
        "source_magnitudes": "references",
        "mix_magnitude": "mixture",
    }

    def forward(self, estimates: Tensor, references: Tensor, mixture: Tensor) -> Tensor:
        """The mean over batch and sources, in dB; lower is better.

        Args:
            estimates, references: ``(batch, …, sources)``, such as nussl's ``(batch, frames, bins, channels,
                sources)``.
            mixture: the same without the last.
        """
        error = (estimates - references).square().flatten(1, -2).sum(dim=1)
        energy = mixture.square().flatten(1).sum(dim=1)[:, None].clamp_min(SILENCE)
        return 10 * torch.log10(error / energy + FLOOR).mean()
