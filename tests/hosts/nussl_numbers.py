"""What nussl computes: the same inputs through everything in it, on two stacks, and what differs.

    python tests/hosts/nussl_numbers.py write new.npz             # with this package installed: today's
    old/bin/python tests/hosts/nussl_numbers.py write old.npz     # without it: nussl as it is
    python tests/hosts/nussl_numbers.py compare old.npz new.npz
    python tests/hosts/nussl_numbers.py summary old.npz > tests/hosts/nussl_numbers.json

The last is what ``make test`` compares with. The old stack is an environment of Python 3.11 with these, and
the same torch, so that what it computes is not compared::

    nussl==1.1.9 numpy==1.23.5 scipy==1.9.3 librosa==0.8.1 numba<0.58 resampy<0.4 zarr<2.14 numcodecs<0.12
    scikit-learn==1.1.3 pandas<2 setuptools<81 scaper==1.6.5 torch==2.13.0

``compare`` prints a Markdown table of the largest differences, relative to the largest value of the old
stack, with those above 1e-4 first, and in dB where a whole signal is compared.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

TODAY = find_spec("svs_unet_plugin") is not None
if TODAY:
    importlib.import_module("svs_unet_plugin.nussl")
else:
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # nussl's own loader, on files made here
nussl: Any = importlib.import_module("nussl")
scaper: Any = importlib.import_module("scaper")
tfm: Any = nussl.datasets.transforms
if not TODAY:
    # As scikit-learn began until 1.0, which has no wheel for Python 3.11; 0.24 then gives the same to 1e-13.
    nussl.ml.NMF = functools.partial(nussl.ml.NMF, init="nndsvd")

RATE = 16_000
SECONDS = 4
LIMIT = 1e-4
"""Of the largest value; what differs by less is rounding."""


def sources() -> dict[str, Any]:
    """Three stereo sources, of sums and products alone: a gliding voice, a beat, and chords that repeat."""
    random = np.random.RandomState(0)
    time = np.arange(RATE * SECONDS) / RATE
    pitch = 220 * 2 ** (np.sin(2 * np.pi * 0.7 * time) / 6 + 0.02 * np.sin(2 * np.pi * 5.5 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 9)) * (np.sin(2 * np.pi * 0.5 * time) > -0.3)
    beat = random.randn(len(time)) * np.exp(-30 * (time % 0.5))
    notes = np.array([[262, 330, 392], [220, 277, 330]])[(time // 1).astype(int) % 2]
    chords = np.sin(2 * np.pi * notes.T * time).sum(axis=0) * np.exp(-2 * (time % 1))
    panned = {"vocals": (voice, 0.5, 0.5), "drums": (beat, 0.8, 0.2), "other": (chords, 0.3, 0.6)}
    return {
        name: nussl.AudioSignal(
            audio_data_array=0.2 * np.stack([left * wave, right * wave]), sample_rate=RATE, label=name
        )
        for name, (wave, left, right) in panned.items()
    }


def mixture() -> Any:
    return sum(sources().values())


def item() -> dict[str, Any]:
    found = sources()
    return {"mix": sum(found.values()), "sources": found, "metadata": {"labels": sorted(found)}, "index": 0}


def audio(signals: Any) -> list[np.ndarray]:
    return [signal.audio_data for signal in (signals if isinstance(signals, list) else [signals])]


def model(builder: str, *arguments: Any, **keywords: Any) -> str:
    """A network of nussl's with random weights, in a file."""
    config = getattr(nussl.ml.networks.builders, builder)(*arguments, **keywords)
    steps = [tfm.MagnitudeSpectrumApproximation(), tfm.GetAudio(), tfm.ToSeparationModel()]
    metadata = {
        "sample_rate": RATE,
        "num_channels": 1,
        "stft_params": nussl.STFTParams(512, 128, "sqrt_hann"),
        "train_dataset": {"transforms": tfm.Compose(steps)},
    }
    path = str(Path(tempfile.mkdtemp()) / "model.pth")
    nussl.ml.SeparationModel(config).save(path, metadata)
    return path


Case = Callable[[], Any]
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    def add(function: Case) -> Case:
        CASES[name] = function
        return function

    return add


def add(name: str, function: Case) -> None:
    CASES[name] = function


# --- signals -----------------------------------------------------------------------------------------------
for _window in ("hann", "sqrt_hann", "hamming", "blackman", "triang", "rectangular"):
    add(f"signal: stft, {_window}", lambda w=_window: [mixture().stft(1024, 256, w)])


@case("signal: istft")
def _() -> Any:
    signal = mixture()
    signal.stft()
    return [signal.istft()]


for _rate in (8000, 11_025, 44_100):
    add(f"signal: resample to {_rate} Hz", lambda r=_rate: audio(_resampled(mixture(), r)))
add("signal: resample, kaiser_fast", lambda: audio(_resampled(mixture(), 8000, res_type="kaiser_fast")))


def _resampled(signal: Any, rate: int, **keywords: Any) -> Any:
    signal.resample(rate, **keywords)
    return signal


@case("signal: write and load a file")
def _() -> Any:
    path = str(Path(tempfile.mkdtemp()) / "a.wav")
    mixture().write_audio_to_file(path)
    return [nussl.AudioSignal(path).audio_data, nussl.AudioSignal(path, offset=1, duration=1).audio_data]


@case("signal: load a file at another rate")
def _() -> Any:
    path = str(Path(tempfile.mkdtemp()) / "a.wav")
    mixture().write_audio_to_file(path)
    return [nussl.AudioSignal(path, sample_rate=11_025).audio_data]


add("signal: rms", lambda: [mixture().rms()])
add("signal: rms of frames", lambda: [mixture().rms(win_len=2048, hop_len=512)])
add("signal: loudness", lambda: [np.array(mixture().loudness())])
add("signal: ipd_ild_features", lambda: list(_with_stft(mixture()).ipd_ild_features()))
add("signal: power spectrogram", lambda: [_with_stft(mixture()).power_spectrogram_data])
add("signal: to_mono", lambda: audio(mixture().to_mono(keep_dims=True)))
add("signal: pan", lambda: audio(nussl.mixing.pan_audio_signal(mixture(), 20)))
add("signal: delay", lambda: audio(nussl.mixing.delay_audio_signal(mixture(), [3, 20])))


def _with_stft(signal: Any) -> Any:
    signal.stft()
    return signal


# --- effects -----------------------------------------------------------------------------------------------
_EFFECTS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "time_stretch": ((1.2,), {}),
    "pitch_shift": ((2,), {}),
    "low_pass": ((1000,), {}),
    "high_pass": ((1000,), {}),
    "tremolo": ((5, 0.4), {}),
    "vibrato": ((5, 0.4), {}),
    "chorus": (([20, 70], [0.9, 0.4], [0.9, 0.6], [1, 2]), {}),
    "phaser": ((), {}),
    "flanger": ((), {}),
    "emphasis": ((1, 1), {"type_": "riaa"}),
    "compressor": ((1,), {}),
    "equalizer": (([{"chn": [0, 1], "f": 500, "w": 100, "g": 5}],), {}),
}
for _name, (_args, _kwargs) in _EFFECTS.items():
    add(
        f"effect: {_name}",
        lambda n=_name, a=_args, k=_kwargs: audio(getattr(mixture(), n)(*a, **k).apply_effects()),
    )

# --- separators --------------------------------------------------------------------------------------------
_s = nussl.separation
_SEPARATORS: dict[str, Callable[[], Any]] = {
    "FT2D": lambda: _s.primitive.FT2D(mixture())(),
    "HPSS": lambda: _s.primitive.HPSS(mixture())(),
    "HPSS, binary": lambda: _s.primitive.HPSS(mixture(), mask_type="binary")(),
    "Repet": lambda: _s.primitive.Repet(mixture())(),
    "RepetSim": lambda: _s.primitive.RepetSim(mixture())(),
    "TimbreClustering": lambda: _s.primitive.TimbreClustering(
        mixture(), 2, 20, nmf_kwargs={"random_state": 0}, random_state=0
    )(),
    "ICA": lambda: _s.factorization.ICA(mixture(), random_state=0)(),
    "RPCA": lambda: _s.factorization.RPCA(mixture(), num_iterations=10)(),
    "Duet": lambda: _s.spatial.Duet(mixture(), 3)(),
    "Projet": lambda: _s.spatial.Projet(mixture(), 2, num_iterations=5)(),
    "SpatialClustering": lambda: _s.spatial.SpatialClustering(mixture(), 2, random_state=0)(),
    "SpatialClustering, GaussianMixture": lambda: _s.spatial.SpatialClustering(
        mixture(), 2, clustering_type="GaussianMixture", random_state=0
    )(),
    "SpatialClustering, MiniBatchKMeans": lambda: _s.spatial.SpatialClustering(
        mixture(), 2, clustering_type="MiniBatchKMeans", random_state=0
    )(),
    "EnsembleClustering": lambda: _s.composite.EnsembleClustering(
        mixture(), 2, [_s.primitive.HPSS(mixture()), _s.primitive.FT2D(mixture())], random_state=0
    )(),
    "OverlapAdd": lambda: _s.composite.OverlapAdd(
        _s.primitive.HPSS(mixture()), window_duration=1, window_type="hann"
    )(),
    "IdealBinaryMask": lambda: _s.benchmark.IdealBinaryMask(mixture(), list(sources().values()))(),
    "IdealRatioMask, msa": lambda: _s.benchmark.IdealRatioMask(
        mixture(), list(sources().values()), approach="msa"
    )(),
    "IdealRatioMask, psa": lambda: _s.benchmark.IdealRatioMask(
        mixture(), list(sources().values()), approach="psa"
    )(),
    "WienerFilter": lambda: _s.benchmark.WienerFilter(mixture(), list(sources().values()))(),
    "HighLowPassFilter": lambda: _s.benchmark.HighLowPassFilter(mixture(), 500)(),
    "MixAsEstimate": lambda: _s.benchmark.MixAsEstimate(mixture(), 3)(),
    "DeepMaskEstimation": lambda: _s.deep.DeepMaskEstimation(
        mixture(), model("build_recurrent_mask_inference", 257, 20, 1, True, 0.0, 2, "sigmoid")
    )(),
    "DeepClustering": lambda: _s.deep.DeepClustering(
        mixture(),
        2,
        model("build_recurrent_dpcl", 257, 20, 1, True, 0.0, 8, ["sigmoid", "unit_norm"]),
        random_state=0,
    )(),
    "DeepAudioEstimation": lambda: _s.deep.DeepAudioEstimation(
        mixture(),
        model("build_dual_path_recurrent_end_to_end", 32, 16, 8, 20, 10, 10, 1, True, 8, 2, "sigmoid"),
    )(),
}
for _name, _separate in _SEPARATORS.items():
    add(f"separator: {_name}", lambda s=_separate: audio(s()))


@case("separator: NMFMixin")
def _() -> Any:
    from nussl.separation.base import NMFMixin

    fitted, components, _ = NMFMixin.fit(mixture().to_mono(keep_dims=True), 8, random_state=0)
    return [components, *NMFMixin.transform(mixture().to_mono(keep_dims=True), fitted)]


# --- transforms --------------------------------------------------------------------------------------------
_TRANSFORMS: dict[str, list[Any]] = {
    "MagnitudeSpectrumApproximation": [tfm.MagnitudeSpectrumApproximation()],
    "PhaseSensitiveSpectrumApproximation": [tfm.PhaseSensitiveSpectrumApproximation()],
    "MagnitudeWeights": [tfm.MagnitudeSpectrumApproximation(), tfm.MagnitudeWeights()],
    "SumSources": [tfm.SumSources([["drums", "other"]]), tfm.MagnitudeSpectrumApproximation()],
    "IndexSources": [tfm.MagnitudeSpectrumApproximation(), tfm.IndexSources("source_magnitudes", 1)],
    "GetAudio": [tfm.GetAudio()],
    "LabelsToOneHot": [tfm.LabelsToOneHot()],
    "ToSeparationModel, GetExcerpt": [
        tfm.MagnitudeSpectrumApproximation(),
        tfm.ToSeparationModel(),
        tfm.GetExcerpt(50),
    ],
}
for _name, _steps in _TRANSFORMS.items():
    add(f"transform: {_name}", lambda steps=_steps: _arrays(tfm.Compose(steps)(item())))


def _arrays(data: dict[str, Any]) -> list[np.ndarray]:
    found = [(key, data[key]) for key in sorted(data) if hasattr(data[key], "shape")]
    return [np.asarray(value) for _, value in found]


@case("transform: Cache")
def _() -> Any:
    cache = tfm.Cache(str(Path(tempfile.mkdtemp()) / "cache"), overwrite=True)
    steps = [tfm.MagnitudeSpectrumApproximation(), tfm.ToSeparationModel(), cache]
    tfm.Compose(steps)(item())
    cache.overwrite = False
    return _arrays(cache({"index": 0}))


# --- metrics, clustering, confidence -----------------------------------------------------------------------
def _estimates() -> list[Any]:
    """The sources with some of each other and some noise."""
    random, true = np.random.RandomState(1), list(sources().values())
    total = sum(true)
    return [
        s.make_copy_with_audio_data(
            0.8 * s.audio_data + 0.1 * total.audio_data + 0.01 * random.randn(*s.audio_data.shape),
            verbose=False,
        )
        for s in true
    ]


def _scores(scores: dict[str, Any]) -> list[np.ndarray]:
    return [
        np.asarray(values, dtype=float)
        for name, found in scores.items()
        if isinstance(found, dict)
        for _, values in sorted(found.items())
    ]


_e = nussl.evaluation
add(
    "metric: BSSEvalScale",
    lambda: _scores(_e.BSSEvalScale(list(sources().values()), _estimates()).evaluate()),
)
add("metric: BSSEvalV4", lambda: _scores(_e.BSSEvalV4(list(sources().values()), _estimates()).evaluate()))
add(
    "metric: BSSEvalScale, permutation",
    lambda: _scores(
        _e.BSSEvalScale(list(sources().values()), _estimates()[::-1], compute_permutation=True).evaluate()
    ),
)


def _masks(signals: list[Any]) -> list[Any]:
    magnitudes = np.stack([np.abs(signal.stft()) for signal in signals])
    return [nussl.core.masks.BinaryMask(magnitude == magnitudes.max(axis=0)) for magnitude in magnitudes]


add(
    "metric: PrecisionRecallFScore",
    lambda: _scores(
        _e.PrecisionRecallFScore(_masks(list(sources().values())), _masks(_estimates())).evaluate()
    ),
)


@case("metric: aggregate_score_files, report_card")
def _() -> Any:
    path = Path(tempfile.mkdtemp()) / "a.json"
    scores = _e.BSSEvalScale(list(sources().values()), _estimates()).evaluate()
    path.write_text(json.dumps(scores, default=float))
    frame = _e.aggregate_score_files([str(path)])
    digits = "".join(c if c.isdigit() or c in ".- " else " " for c in _e.report_card(frame))
    numbers = [
        float(word) for word in digits.split() if any(c.isdigit() for c in word) and word.count(".") == 1
    ]
    # pandas 1 put the columns in alphabetical order.
    return [frame.select_dtypes("number").sort_index(axis=1).to_numpy(), np.sort(numbers)]


for _name in ("KMeans", "GaussianMixture", "MiniBatchKMeans"):
    add(f"clustering: {_name}", lambda n=_name: [_clustered(n)])


def _features() -> np.ndarray:
    random = np.random.RandomState(2)
    centres = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    return np.concatenate([centre + random.randn(300, 2) for centre in centres])


def _clustered(name: str) -> np.ndarray:
    clusterer = getattr(nussl.ml.cluster, name)(3, random_state=0)
    clusterer.fit(_features())
    # The clusters' order is chance.
    return np.sort(clusterer.means_ if name == "GaussianMixture" else clusterer.cluster_centers_, axis=0)


for _name in ("jensen_shannon", "posterior", "silhouette", "loudness", "whitened_kmeans", "dpcl_classic"):
    add(f"confidence: {_name}", lambda n=_name: [_confidence(n)])


def _confidence(name: str) -> np.ndarray:
    signal = mixture()
    random = np.random.RandomState(3)
    magnitude = np.abs(signal.stft())[..., None]
    features = np.concatenate([magnitude / magnitude.max(), random.rand(*magnitude.shape)], axis=-1)
    return np.array(getattr(nussl.ml.confidence, f"{name}_confidence")(signal, features, 2))


add(
    "module: MelProjection",
    lambda: [nussl.ml.networks.modules.MelProjection(RATE, 513, 40).transform.weight.detach().numpy()],
)


@case("dataset: mixtures by scaper")
def _() -> Any:
    folder = Path(tempfile.mkdtemp())
    for name, signal in sources().items():
        (folder / name).mkdir()
        signal.write_audio_to_file(str(folder / name / "a.wav"))
    mixer = scaper.Scaper(2.0, str(folder), str(folder), random_state=0)
    mixer.sr, mixer.n_channels, mixer.ref_db = RATE, 1, -20
    for name in sources():
        # Only by soxbindings: what sox and Rubber Band make of a pitch is theirs.
        mixer.add_event(
            ("const", name),
            ("choose", []),
            ("uniform", 0, 1),
            ("const", 0),
            ("const", 2.0),
            ("uniform", -5, 5),
            None,
            None,
        )
    mixed, _, _, events = mixer.generate(fix_clipping=True)
    return [mixed, *events]


def write(path: str) -> None:
    """Run every case and write what it gives; a case that fails leaves its error."""
    logging.disable(logging.WARNING)
    found: dict[str, np.ndarray] = {}
    for name, function in CASES.items():
        nussl.utils.seed(0)
        torch.set_num_threads(1)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for index, value in enumerate(function()):
                    found[f"{name}|{index}"] = np.asarray(value)
        except Exception as error:
            found[f"{name}|error"] = np.array(f"{type(error).__name__}: {str(error).splitlines()[0]}")
            print(f"{name}: {found[f'{name}|error']}", file=sys.stderr)
    packages = ("numpy", "scipy", "librosa", "scikit-learn", "torch", "museval", "scaper")
    found["versions"] = np.array(" ".join(f"{package} {version(package)}" for package in packages))
    np.savez_compressed(path, **found)


def difference(old: np.ndarray, new: np.ndarray) -> float:
    """The largest difference relative to the old one's largest value; infinite where shapes or NaN differ."""
    if old.shape != new.shape or not np.array_equal(np.isfinite(old), np.isfinite(new)):
        return np.inf
    if not old.size:
        return 0.0
    old, new = np.nan_to_num(old), np.nan_to_num(new)
    scale = float(np.abs(old).max())
    return float(np.abs(old - new).max()) / scale if scale else float(np.abs(new).max())


def worst_of(name: str, old: list[np.ndarray], new: list[np.ndarray]) -> tuple[float, str]:
    """The largest difference of a case, and what it means."""
    worst, note = 0.0, ""
    for a, b in zip(old, new, strict=True):
        if (gap := difference(a, b)) > worst:
            worst = gap
            if a.shape != b.shape:
                note = f"shapes {a.shape} and {b.shape}"
            elif name.startswith(("signal", "separator", "effect")) and np.isrealobj(a):
                note = f"SNR {10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()):.1f} dB"
            elif name.startswith("metric"):
                note = f"{np.nanmax(np.abs(a - b)):.3g} dB"
    return worst, note


def compare(old: str, new: str) -> Iterator[str]:
    """The table, line by line."""
    before, after = np.load(old), np.load(new)
    yield f"old: {before['versions']}\n"
    yield f"new: {after['versions']}\n"
    rows = []
    for name in dict.fromkeys(key.rpartition("|")[0] for key in (*before, *after) if "|" in key):
        keys = sorted(key for key in {*before, *after} if key.rpartition("|")[0] == name)
        if errors := [key for key in keys if key.endswith("|error")]:
            where = {True: "both", False: "one"}[all(key in before and key in after for key in errors)]
            text = "; ".join(f"{before[key] if key in before else after[key]}" for key in errors)
            rows.append((np.inf, name, f"error on {where}: {text}"))
            continue
        a, b = ([found[key] if key in found else np.empty(0) for key in keys] for found in (before, after))
        worst, note = worst_of(name, a, b)
        if worst > LIMIT and name.startswith("separator"):
            # Of clusters the order is chance, and of independent components the sign as well.
            for order in itertools.permutations(range(len(b))):
                moved = [b[i] for i in order]
                signs = [
                    np.sign((x * y).sum()) if x.shape == y.shape else 1 for x, y in zip(a, moved, strict=True)
                ]
                signed = [sign * value for sign, value in zip(signs, moved, strict=True)]
                if (found := worst_of(name, a, signed))[0] < worst:
                    worst, note = found[0], f"{found[1]}, in another order or of another sign"
        rows.append((worst, name, note))
    rows.sort(key=lambda row: (-row[0], row[1]))
    different = [row for row in rows if row[0] > LIMIT]
    yield f"{len(rows)} cases, {len(different)} differ by more than {LIMIT:g}\n"
    yield "| case | largest difference | |"
    yield "|---|---|---|"
    for worst, name, note in rows:
        yield f"| {name} | {worst:.1e} | {note if worst > LIMIT or 'order' in note else ''} |"


def summary(value: np.ndarray) -> list[float]:
    """Three numbers that change with any of an array's, but for rounding: its norm, and two of its sums."""
    flat = np.nan_to_num(np.abs(value)).astype(float).ravel()
    weights = np.arange(1, flat.size + 1) / flat.size
    return [float(np.sqrt((flat**2).sum())), float(flat.sum()), float((weights * flat).sum())]


def summaries(path: str) -> dict[str, list[list[float]]]:
    """The `summary` of each array of each case in a file that `write` wrote."""
    found = np.load(path)
    result: dict[str, list[list[float]]] = {}
    for key in found:
        name, _, index = key.rpartition("|")
        if name and index != "error":
            result.setdefault(name, []).append(summary(found[key]))
    return dict(sorted(result.items()))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Compare what nussl computes on two stacks.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write", help="run everything here").add_argument("out")
    comparison = commands.add_parser("compare", help="print what differs")
    comparison.add_argument("old")
    comparison.add_argument("new")
    commands.add_parser("summary", help="print a few numbers of each case").add_argument("file")
    options = parser.parse_args()
    if options.command == "write":
        write(options.out)
    elif options.command == "summary":
        lines = [
            f"{json.dumps(name)}: {json.dumps(value)}" for name, value in summaries(options.file).items()
        ]
        print("{\n" + ",\n".join(lines) + "\n}")
    else:
        print("\n".join(compare(options.old, options.new)))


if __name__ == "__main__":
    main()
