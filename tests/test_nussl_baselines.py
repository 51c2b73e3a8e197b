import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from svs_unet_plugin.corpora.musdb import STEMS
from svs_unet_plugin.nussl import baselines, nussl
from svs_unet_plugin.nussl.baselines import FrequencyInformedNMF, HPSSBassRepetSim

RATE = 22_050


@pytest.fixture(scope="module")
def stems() -> dict[str, np.ndarray]:
    """Six seconds of what each stem is to the separators: ``(2, samples)`` at `RATE`.

    Clicks and a chord that repeat every second, a low note, and a voice-like tone that never comes back.
    """
    time = np.arange(6 * RATE) / RATE
    generator = np.random.default_rng(0)
    click = np.exp(-(time % 0.5) * 200) * generator.standard_normal(len(time))
    chord = sum(np.sin(2 * np.pi * f * time) for f in (880, 1_108, 1_318)) * ((time % 1) < 0.5)
    melody = 300 + 40 * time + 10 * np.sin(2 * np.pi * 0.37 * time**1.5)
    phase = 2 * np.pi * np.cumsum(melody) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 12)) * (np.sin(2 * np.pi * 0.29 * time) > -0.4)
    mono = {
        "vocals": 0.15 * voice,
        "drums": 0.2 * click,
        "bass": 0.2 * np.sin(2 * np.pi * 70 * time) + 0.1 * np.sin(2 * np.pi * 140 * time),
        "other": 0.05 * chord,
    }
    balance = {"vocals": (1.0, 1.0), "drums": (1.0, 0.8), "bass": (1.0, 1.0), "other": (0.5, 1.0)}
    return {name: np.outer(balance[name], mono[name]) for name in STEMS}


def _signal(samples: np.ndarray) -> Any:
    return nussl.AudioSignal(audio_data_array=samples, sample_rate=RATE)


def _snr(reference: np.ndarray, estimate: np.ndarray) -> float:
    return float(10 * np.log10((reference**2).sum() / ((reference - estimate) ** 2).sum()))


@pytest.mark.parametrize("separator", [HPSSBassRepetSim, FrequencyInformedNMF])
def test_four_stems(separator: Any, stems: dict[str, np.ndarray]) -> None:
    """Each stem is nearer to the truth than the mixture is, by far, and all add up to the mixture."""
    mixture = sum(stems.values())
    estimates = [estimate.audio_data for estimate in separator(_signal(mixture))()]
    np.testing.assert_allclose(sum(estimates), mixture, atol=1e-9)
    for name, estimate in zip(STEMS, estimates, strict=True):
        gain = _snr(stems[name], estimate) - _snr(stems[name], mixture)
        assert gain > 4, f"{name} got better by {gain:.1f} dB"


@pytest.mark.parametrize("separator", [HPSSBassRepetSim, FrequencyInformedNMF])
def test_masks(separator: Any, stems: dict[str, np.ndarray]) -> None:
    mixture = sum(stems.values())[:, : 2 * RATE]
    masks = np.stack([mask.mask for mask in separator(_signal(mixture)).run()])
    assert masks.min() >= 0 and masks.max() <= 1 + 1e-9
    np.testing.assert_allclose(masks.sum(axis=0), 1)
    binary = separator(_signal(mixture), mask_type="binary")
    hard = np.stack([mask.mask for mask in binary.run()])
    assert (hard.sum(axis=0) == 1).all()
    assert (masks[hard.astype(bool)] >= masks.max(axis=0).T.ravel().min()).all()
    assert len(binary()) == 4
    again = np.stack([mask.mask for mask in separator(_signal(mixture)).run()])
    np.testing.assert_array_equal(again, masks)


@pytest.mark.parametrize("separator", [HPSSBassRepetSim, FrequencyInformedNMF])
def test_silence_and_one_channel(separator: Any) -> None:
    for samples in (np.zeros((1, 3 * RATE)), np.zeros((2, 3 * RATE))):
        estimates = separator(_signal(samples))()
        assert len(estimates) == 4
        assert not any(estimate.audio_data.any() for estimate in estimates)


def test_every_baseline(stems: dict[str, np.ndarray]) -> None:
    """As long as the mixture and at its place; a vocals' estimate and what is left of the mixture."""
    mixture = sum(stems.values())
    found = baselines.baselines()
    assert set(found) >= {
        *("repet", "repet-sim", "ft2d", "hpss", "rpca", "high-low-pass", "hpss-bass-repet-sim", "nmf"),
        *("ibm", "irm-full-band", "wiener"),
    }
    snr = {}
    for name, baseline in found.items():
        estimates = baseline.separate(
            mixture[:, : 3 * RATE], {k: v[:, : 3 * RATE] for k, v in stems.items()}, RATE
        )
        assert all(estimate.shape == (2, 3 * RATE) for estimate in estimates.values())
        assert all(np.isfinite(estimate).all() for estimate in estimates.values())
        # Wiener's masks are those of magnitudes, whose sum is nearly one only.
        tolerance = 0.1 if name == "wiener" else 1e-4
        total = estimates["vocals"] + estimates["accompaniment"]
        np.testing.assert_allclose(total, mixture[:, : 3 * RATE], atol=tolerance)
        snr[name] = _snr(stems["vocals"][:, : 3 * RATE], estimates["vocals"])
        assert (len(estimates) == 5) is (set(STEMS) <= set(estimates))
    best = max(value for name, value in snr.items() if found[name].kind == "classical")
    assert min(snr[name] for name in ("ibm", "irm-full-band", "wiener")) > best
    assert snr["repet-sim"] > _snr(stems["vocals"][:, : 3 * RATE], mixture[:, : 3 * RATE])


def test_oracles_alone_look_at_the_sources(stems: dict[str, np.ndarray]) -> None:
    mixture = sum(stems.values())[:, :RATE]
    for baseline in baselines.baselines().values():
        if baseline.kind == "oracle":
            with pytest.raises(KeyError):
                baseline.separate(mixture, {}, RATE)


def test_vocals_are_nussls_own(stems: dict[str, np.ndarray]) -> None:
    """The table takes the right one of a separator's estimates, and changes nothing of it."""
    mixture = sum(stems.values())
    ours = baselines.baselines()["repet-sim"].separate(mixture, {}, RATE)
    background, foreground = nussl.separation.primitive.RepetSim(_signal(mixture))()
    np.testing.assert_allclose(ours["vocals"], foreground.audio_data)
    np.testing.assert_allclose(ours["accompaniment"], background.audio_data, atol=1e-9)


def test_melodia_where_vamp_is(stems: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the plugin, which can't be had from a registry: it gives the voice's true pitch."""
    assert "melodia" not in baselines.baselines() or nussl.vamp_imported
    times = np.arange(0, 6, 128 / 44_100)  # the hop that nussl counts on

    def collect(data: np.ndarray, rate: int, plugin: str, parameters: dict) -> dict:
        pitch = 300 + 40 * times + 10 * np.sin(2 * np.pi * 0.37 * times**1.5)
        voiced = np.sin(2 * np.pi * 0.29 * times) > -0.4
        return {"vector": (128 / 44_100, np.where(voiced, pitch, -pitch))}

    vamp = SimpleNamespace(list_plugins=lambda: ["mtg-melodia:melodia"], collect=collect)
    monkeypatch.setitem(sys.modules, "vamp", vamp)
    monkeypatch.setattr(nussl, "vamp_imported", True)
    module = sys.modules["nussl.separation.primitive.melodia"]
    monkeypatch.setattr(module, "vamp", vamp, raising=False)
    melodia = baselines.baselines()["melodia"]
    mixture = sum(stems.values())
    estimates = melodia.separate(mixture, {}, RATE)
    assert _snr(stems["vocals"], estimates["vocals"]) > _snr(stems["vocals"], mixture) + 3
