import numpy as np
import pytest
import scipy.signal

from svs_unet_plugin import STFT
from svs_unet_plugin.evaluation.oracles import MIXTURE, IdealRatioMask, ideal_ratio_mask
from svs_unet_plugin.evaluation.runner import Song


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


def test_as_they_take_part() -> None:
    generator = np.random.default_rng(0)
    sources = {name: generator.standard_normal((2, 20_000)) for name in ("vocals", "accompaniment")}
    song = Song("A - B", 16_000, sum(sources.values()), sources)
    entry = IdealRatioMask(STFT(hop_length=256)).entry()
    assert entry.system.name == "Ideal ratio mask, 8192 Hz, hop 256" and entry.system.id == "irm-8192"
    estimates = entry.load()(song)
    assert {name: estimate.shape for name, estimate in estimates.items()} == dict.fromkeys(
        sources, (2, 20_000)
    )
    untouched = MIXTURE.load()(song)
    assert untouched["vocals"] is song.mixture and untouched["accompaniment"] is song.mixture
