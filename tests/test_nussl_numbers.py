"""Some of what nussl computed on its old stack is what it computes today; see hosts/nussl_numbers.py."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("svs_unet_plugin.nussl")
pytest.importorskip("scaper")

from hosts import nussl_numbers

OLD = json.loads((Path(__file__).parent / "hosts" / "nussl_numbers.json").read_text(encoding="utf-8"))
"""Of NumPy 1.23, SciPy 1.9, librosa 0.8.1 and scikit-learn 1.1, by ``nussl_numbers.py summary``."""


@pytest.mark.parametrize(
    "name",
    [
        "signal: stft, sqrt_hann",
        "signal: rms of frames",
        "signal: loudness",
        "separator: HPSS",
        "separator: Duet",
        "separator: OverlapAdd",
        "separator: NMFMixin",
        "clustering: KMeans",
        "transform: PhaseSensitiveSpectrumApproximation",
        "transform: Cache",
        "metric: BSSEvalScale",
        "module: MelProjection",
        "dataset: mixtures by scaper",
    ],
)
def test_numbers_are_those_of_the_old_stack(name: str) -> None:
    nussl_numbers.nussl.utils.seed(0)
    found = [nussl_numbers.summary(np.asarray(value)) for value in nussl_numbers.CASES[name]()]
    np.testing.assert_allclose(found, OLD[name], rtol=1e-4)


def test_differences_are_told() -> None:
    wave = np.sin(np.arange(100.0))
    assert nussl_numbers.difference(wave, wave) == 0
    assert nussl_numbers.difference(wave, wave[:99]) == np.inf
    assert nussl_numbers.difference(wave, wave + 0.01) == pytest.approx(0.01, rel=1e-3)
    assert nussl_numbers.summary(wave) != pytest.approx(nussl_numbers.summary(np.roll(wave, 1)), rel=1e-4)
