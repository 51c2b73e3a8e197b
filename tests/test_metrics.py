import subprocess
import sys

import numpy as np
import pytest

from svs_unet_plugin.evaluation.metrics import (
    SCALE_METRICS,
    bss_eval_v3,
    museval_scores,
    scale_scores,
    sdr,
)

RATE = 10_000
PAIR = ("vocals", "accompaniment")


def noise(seed: int, channels: int = 2, samples: int = 30_000) -> dict[str, np.ndarray]:
    """Two sources of noise."""
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal((channels, samples)) for name in PAIR}


def test_known_distortion() -> None:
    """Noise that is 20 dB below a source counts as an artefact of 20 dB, by every metric."""
    references, other = noise(0, 1), noise(1, 1)
    estimates = {name: signal + 0.1 * other[name] for name, signal in references.items()}
    true, found = (np.stack(list(signals.values())) for signals in (references, estimates))
    third = bss_eval_v3(true[:, 0], found[:, 0])
    fourth = museval_scores("A - B", references, estimates, RATE).df.groupby("metric").score.median()
    # 512 taps explain a little of any noise: 512 of 30,000 (or of 10,000) dimensions, up to 0.5 dB.
    for values in (third.sdr, third.sar, fourth.SDR, fourth.SAR):
        np.testing.assert_allclose(values, 20, atol=0.5)
    assert (third.sir > 30).all() and fourth.SIR > 30
    # No filter here: one part in a hundred of noise, give or take one in a thousand.
    np.testing.assert_allclose(sdr(true, found), 20, atol=0.1)
    scale = scale_scores(references, estimates)
    for name in PAIR:
        for metric in ("SI-SDR", "SI-SAR", "SD-SDR", "SNR"):
            assert scale[name][metric][0] == pytest.approx(20, abs=0.1)
        assert scale[name]["SNRi"][0] == pytest.approx(20, abs=0.2)  # the mixture has 0 dB


def silent_in_one_channel(sources: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**sources, "vocals": sources["vocals"] * [[1.0], [0.0]]}


@pytest.mark.parametrize(
    "references",
    [
        noise(0),
        noise(0, 1),
        silent_in_one_channel(noise(0)),
        {**noise(0), "vocals": noise(0)["accompaniment"]},  # one source twice: a singular system
        {
            "vocals": noise(0)["vocals"],
            "accompaniment": 0.7 * noise(0)["vocals"] + 0.3 * noise(1)["vocals"] + 0.1,
        },
        {**noise(0), "drums": noise(3)["vocals"], "bass": noise(4)["vocals"]},
    ],
    ids=[
        "stereo",
        "mono",
        "a silent channel",
        "the same twice",
        "correlated, with an offset",
        "four sources",
    ],
)
@pytest.mark.parametrize("estimate", ["noisy", "exact", "mixture", "silent"])
def test_scale_scores_are_nussls(references: dict[str, np.ndarray], estimate: str) -> None:
    from svs_unet_plugin.nussl import nussl

    mixture = sum(references.values())
    estimates = {
        name: {
            "noisy": 0.8 * source + 0.1 * np.random.default_rng(9).standard_normal(source.shape),
            "exact": source,
            "mixture": mixture,
            "silent": np.zeros_like(source),
        }[estimate]
        for name, source in references.items()
    }
    signals = [
        [nussl.AudioSignal(audio_data_array=kind[name].copy(), sample_rate=RATE) for name in references]
        for kind in (references, estimates)
    ]

    def evaluate(**options: bool) -> dict:
        evaluator = nussl.evaluation.BSSEvalScale(
            *signals, source_labels=list(references), compute_permutation=False, **options
        )
        with np.errstate(all="ignore"):
            return evaluator.evaluate()

    try:
        expected = evaluate()
    except np.linalg.LinAlgError:
        expected = evaluate(compute_sir_sar=False)
    found = scale_scores(references, estimates)
    for name in references:
        for channel in range(len(mixture)):
            if found[name]["SI-SDR"][channel] > 200:  # exact to rounding, whose last bits are not determined
                assert not expected[name]["SI-SDR"][channel] < 200
                continue
            for metric in SCALE_METRICS:
                ours, theirs = (scores[name][metric][channel] for scores in (found, expected))
                if abs(theirs) > 200:  # and so is the mixture's error here
                    theirs = np.nan
                assert ours == pytest.approx(theirs, abs=1e-6, nan_ok=True) or abs(ours) > 200, (name, metric)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_source_that_the_others_make_up(dtype: type) -> None:
    """A system that is singular but for rounding determines nothing; a source that is only quiet, all."""
    vocals, other = (signal.astype(dtype) for signal in noise(0).values())
    for accompaniment, defined in ((dtype(0.37) * vocals, False), (dtype(1e-7) * other, True)):
        references = {"vocals": vocals, "accompaniment": accompaniment}
        scores = scale_scores(references, {"vocals": vocals + other / 9, "accompaniment": other})["vocals"]
        for metric in ("SI-SIR", "SI-SAR"):
            assert (np.isfinite(scores[metric]) == defined).all()
        assert np.isfinite(scores["SI-SDR"]).all()


def test_a_singular_system_does_not_end_museval(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy 2 has no ``np.linalg.linalg``, which museval names where a system is singular."""
    import museval.metrics

    def singular(*_: object) -> None:
        raise np.linalg.LinAlgError

    sources = noise(0, 1, 2_000)
    expected = museval_scores("A - B", sources, sources, 1_000).df
    monkeypatch.setattr(np.linalg, "solve", singular)
    found = museval_scores("A - B", sources, sources, 1_000).df
    assert (found.score > 60).sum() == (expected.score > 60).sum() > 0
    monkeypatch.setattr(museval.metrics, "np", np)
    assert not hasattr(np.linalg, "linalg")  # the repair is museval's alone
    with pytest.raises(AttributeError, match="linalg"):
        museval.metrics.bss_eval(*2 * [np.stack([*sources.values()]).swapaxes(1, 2)])


def test_scores_need_no_host() -> None:
    script = """
import sys
sys.modules["nussl"] = sys.modules["asteroid"] = None
import numpy as np
from pathlib import Path
from svs_unet_plugin.evaluation.runner import Song, score
generator = np.random.default_rng(0)
sources = {name: generator.standard_normal((2, 20_000)) for name in ("vocals", "accompaniment")}
score(Path(sys.argv[1]), "some", Song("A - B", 10_000, sum(sources.values()), sources), sources)
"""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_places_are_kept() -> None:
    """Exchanged estimates are bad ones: there is no search for the best permutation."""
    references = np.random.default_rng(0).standard_normal((2, 20_000))
    assert (bss_eval_v3(references, references[::-1].copy()).sdr < 0).all()
