import numpy as np
import pytest
import torch

import svs_unet_plugin.nussl as svs
from svs_unet_plugin import STFT, torch_stft
from svs_unet_plugin.nussl import nussl


def random(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(len(shape)))


def test_spectral_snr_loss() -> None:
    estimates, references, mixture = random(2, 5, 7, 1, 3), random(2, 5, 7, 1, 3) / 2, random(2, 5, 7, 1)
    loss = svs.SpectralSNRLoss()(estimates, references, mixture)
    rows = [
        10 * np.log10(((e - r) ** 2).sum() / (m**2).sum() + 1e-3)
        for es, rs, m in zip(estimates.numpy(), references.numpy(), mixture.numpy(), strict=True)
        for e, r in zip(np.moveaxis(es, -1, 0), np.moveaxis(rs, -1, 0), strict=True)
    ]
    assert loss.item() == pytest.approx(np.mean(rows), abs=1e-4)
    # Whatever its level, an excerpt counts as much; and no error at all is -30 dB.
    assert svs.SpectralSNRLoss()(
        *(x / 1000 for x in (estimates, references, mixture))
    ).item() == pytest.approx(loss.item(), abs=1e-3)
    assert svs.SpectralSNRLoss()(references, references, mixture).item() == pytest.approx(-30, abs=1e-4)
    silence = torch.zeros(1, 5, 7, 1)
    mask = torch.full((1, 5, 7, 1, 1), 0.5, requires_grad=True)
    loss = svs.SpectralSNRLoss()(mask * silence[..., None], silence[..., None], silence)
    loss.backward()
    assert torch.isfinite(loss) and torch.equal(mask.grad, torch.zeros_like(mask))


def test_its_best_mask_separates_better_than_the_ratio_of_magnitudes() -> None:
    """The reason for phase-sensitive references, in the audio itself."""
    stft = STFT(hop_length=256)
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(2, 30_000, generator=generator)
    spectra = torch_stft.analyse(stft, sources)
    mixture = spectra.sum(dim=0)
    errors = []
    for magnitude in (svs.phase_sensitive_magnitude(spectra[0], mixture), spectra[0].abs()):
        mask = (magnitude / mixture.abs()).clamp(max=1)
        estimate = torch_stft.synthesise(stft, mask * mixture)[:30_000]
        errors.append(((estimate - sources[0]) ** 2).sum())
    assert 10 * torch.log10(errors[1] / errors[0]) > 1


def test_training_takes_it_by_name() -> None:
    assert svs.TrainSettings(loss="snr").phase_sensitive and not svs.TrainSettings().phase_sensitive
    assert nussl.ml.train.loss.SpectralSNRLoss is svs.SpectralSNRLoss
    with pytest.raises(ValueError, match="loss must be 'l1' or 'snr', got 'MAE'"):
        svs.TrainSettings(loss="MAE")  # type: ignore[arg-type]
