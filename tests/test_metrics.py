import numpy as np
import pytest
import scipy.signal

from svs_unet_plugin import STFT
from svs_unet_plugin.evaluation.metrics import bss_eval_v3, bss_eval_v4, ideal_ratio_mask, sdr


def test_known_distortion() -> None:
    """Noise that is 20 dB below a source counts as an artefact of 20 dB, by both versions."""
    generator = np.random.default_rng(0)
    references = generator.standard_normal((2, 1, 30_000))
    estimates = references + 0.1 * generator.standard_normal((2, 1, 30_000))
    for scores in (
        bss_eval_v3(references[:, 0], estimates[:, 0]),
        bss_eval_v4(references, estimates, 10_000),
    ):
        # 512 taps explain a little of any noise: 512 of 30,000 (or of 10,000) dimensions, up to 0.5 dB.
        np.testing.assert_allclose(scores.sdr, 20, atol=0.5)
        np.testing.assert_allclose(scores.sar, 20, atol=0.5)
        assert (scores.sir > 30).all()
    # No filter here: one part in a hundred of noise, give or take one in a thousand.
    np.testing.assert_allclose(sdr(references, estimates), 20, atol=0.1)


def test_places_are_kept() -> None:
    """Exchanged estimates are bad ones: there is no search for the best permutation."""
    references = np.random.default_rng(0).standard_normal((2, 20_000))
    assert (bss_eval_v3(references, references[::-1].copy()).sdr < 0).all()


@pytest.mark.parametrize("hop", [768, 256])
def test_ideal_ratio_mask_is_scipys(hop: int) -> None:
    references = np.random.default_rng(0).standard_normal((2, 2, 20_000)) * [[[1.0]], [[0.3]]]
    estimates = ideal_ratio_mask(references, 8192, STFT(hop_length=hop))
    settings = {"window": "hann", "nperseg": 1024, "noverlap": 1024 - hop}
    _, _, spectra = scipy.signal.stft(references, **settings)
    mask = np.abs(spectra[0]) / np.maximum(np.abs(spectra).sum(axis=0), 1e-30)
    _, expected = scipy.signal.istft(mask * spectra.sum(axis=0), **settings)
    np.testing.assert_allclose(estimates[0], expected[:, :20_000], atol=1e-4)
    np.testing.assert_allclose(estimates.sum(axis=0), references.sum(axis=0), atol=1e-4)


def test_ideal_ratio_mask_at_another_rate_and_of_silence() -> None:
    time = np.arange(44_100) / 44_100
    tones = np.stack([np.sin(2 * np.pi * 500 * time), np.sin(2 * np.pi * 1500 * time)])[:, None]
    estimates = ideal_ratio_mask(tones, 44_100, STFT())
    assert estimates.shape == tones.shape
    np.testing.assert_allclose(estimates[..., 4000:-4000], tones[..., 4000:-4000], atol=0.01)
    assert not ideal_ratio_mask(np.zeros((2, 1, 5000)), 44_100, STFT()).any()
