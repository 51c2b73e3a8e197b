"""Each repair of nussl: what it brings back. A repair that is taken out of ``REPAIRS`` fails tests here."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import typing
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

if importlib.util.find_spec("nussl") is None:
    pytest.skip("needs svs_unet_plugin[nussl]", allow_module_level=True)

import librosa
import scipy.signal
import sklearn.base
import sklearn.cluster
from tones import RATE, STFT_PARAMS, item, tone

from svs_unet_plugin.nussl import compat

nussl = compat.import_nussl()
tfm = nussl.datasets.transforms


def dataset(*more_transforms, **kwargs):
    transform = tfm.Compose(
        [tfm.PhaseSensitiveSpectrumApproximation(), tfm.ToSeparationModel(), *more_transforms]
    )
    return nussl.datasets.OnTheFly(item, 3, transform=transform, stft_params=STFT_PARAMS, **kwargs)


def level(samples: np.ndarray, frequency: float) -> float:
    """Amplitude of one frequency in ``(samples,)``: a single bin of a windowed Fourier sum."""
    window = np.hanning(samples.size)
    wave = np.exp(-2j * np.pi * frequency * np.arange(samples.size) / RATE)
    return float(2 * abs(np.sum(window * samples * wave)) / window.sum())


def outside() -> dict[str, object]:
    """What other packages offer to everybody, and what nussl misses there."""
    import zarr

    return {
        "scipy": [hasattr(scipy.signal, name) for name in ("hamming", "hann", "blackman")],
        "numpy": [hasattr(np, name) for name in ("Inf", "mat")],
        "librosa": (librosa.resample, librosa.feature.rms, librosa.filters.mel),
        "torch.load": torch.load,
        # torch puts more there whenever one of its parts is imported, from release to release
        "safe globals": [e for e in torch.serialization.get_safe_globals() if e in compat.safe_globals()],
        "zarr": hasattr(zarr, "ThreadSynchronizer"),
    }


@pytest.fixture(autouse=True)
def nothing_outside_nussl_changes():
    before = outside()
    yield
    assert outside() == before


class TestImport:
    def test_plain_import_fails_and_ours_works_and_leaves_the_rest_alone(self):
        script = """
import numpy, scipy.signal, torch, zarr
names = [f"scipy.signal.{n}" for n in ("hamming", "hann", "blackman")] + ["zarr.ThreadSynchronizer"]
def present():
    return [n for n in names if hasattr(eval(n.rpartition(".")[0]), n.rpartition(".")[2])]
before, load, safe = present(), torch.load, torch.serialization.get_safe_globals()
try:
    import nussl
except AttributeError as error:
    print("plain:", error)
from svs_unet_plugin.nussl import compat
first = compat.import_nussl()
import nussl
assert nussl is first is compat.import_nussl()
assert nussl.constants.WINDOW_HAMMING == "hamming"
assert present() == before and torch.load is load and not hasattr(numpy, "Inf")
added = [entry for entry in torch.serialization.get_safe_globals() if entry not in safe]
assert not [entry for entry in added if entry in compat.safe_globals()], added
print("ours: works")
"""
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
        assert "ours: works" in result.stdout, result.stderr
        assert "plain: module 'scipy.signal' has no attribute 'hamming'" in result.stdout

    def test_after_a_shim_of_the_users_own(self):
        """Whoever put the names there keeps them, and an nussl that was imported so is repaired as well."""
        script = """
import scipy.signal
scipy.signal.hamming = scipy.signal.windows.hamming
scipy.signal.hann = scipy.signal.windows.hann
scipy.signal.blackman = scipy.signal.windows.blackman
import nussl, numpy
import svs_unet_plugin.nussl
assert scipy.signal.hamming is scipy.signal.windows.hamming
signal = nussl.AudioSignal(audio_data_array=numpy.full((1, 1024), 0.5), sample_rate=1024)
signal.resample(512)
print(signal, nussl.separation.deep.UNetSeparation.__name__)
"""
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
        assert "1.000 sec @ path unknown, 512 Hz, 1 ch. UNetSeparation" in result.stdout, result.stderr

    def test_names_in_scipy_are_taken_back_when_the_import_fails(self):
        with pytest.raises(RuntimeError), compat._windows_in_scipy_signal():
            assert scipy.signal.hamming is scipy.signal.windows.hamming
            raise RuntimeError
        assert not hasattr(scipy.signal, "hamming")

    def test_repairs_are_made_once(self):
        before = nussl.AudioSignal.get_window, tfm.Cache._open_cache
        assert compat.import_nussl() is nussl
        assert (nussl.AudioSignal.get_window, tfm.Cache._open_cache) == before

    def test_without_nussl_the_sentence_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "nussl", None)
        with pytest.raises(ImportError, match=r"pip install 'svs_unet_plugin\[nussl\]'"):
            compat.import_nussl()


class TestSignals:
    def test_duet_finds_two_tones_by_their_pan(self):
        mix = tone(440, 0.4, 0.2) + tone(1500, 0.2, 0.4)
        estimates = nussl.separation.spatial.Duet(mix, num_sources=2)()
        ratios = sorted(level(e.audio_data[0], 440) / level(e.audio_data[0], 1500) for e in estimates)
        # In the left channel the tones are 2 : 1; each estimate keeps one of them, by 20 dB at the least.
        assert ratios[0] < 0.2 and ratios[1] > 20

    def test_resample_keeps_the_tone(self):
        signal = tone(440)
        signal.resample(RATE // 2)
        assert signal.sample_rate == RATE // 2
        assert signal.audio_data.shape == (2, RATE // 2)
        middle = signal.audio_data[0, 1024:-1024]
        expected = 0.3 * np.sin(2 * np.pi * 440 * np.arange(1024, RATE // 2 - 1024) / (RATE // 2))
        np.testing.assert_allclose(middle, expected, atol=1e-3)  # -50 dB; soxr's own ripple is far below

    def test_load_at_another_rate(self, tmp_path):
        path = str(tmp_path / "tone.wav")
        tone(440).write_audio_to_file(path)
        with pytest.warns(UserWarning, match="Resampling"):
            assert nussl.AudioSignal(path, sample_rate=4096).audio_data.shape == (2, 4096)

    def test_windowed_rms(self):
        signal = nussl.AudioSignal(audio_data_array=np.full((1, RATE), 0.5), sample_rate=RATE)
        rms = signal.rms(win_len=512, hop_len=256)
        np.testing.assert_allclose(rms, 0.5)  # also where a frame reaches beyond the end, to its mirror image

    def test_mel_projection(self):
        mel = nussl.ml.networks.modules.MelProjection(RATE, 513, 40)
        assert mel.transform.weight.shape == (40, 513)
        np.testing.assert_allclose(mel.transform.weight.sum(dim=1).numpy(), 1, rtol=1e-3)

    def test_hanning_is_hann(self):
        window = nussl.AudioSignal.get_window("hanning", 64)
        np.testing.assert_array_equal(window, scipy.signal.windows.hann(64, sym=False))
        assert nussl.AudioSignal.get_window("sqrt_hann", 64)[32] == 1

    def test_overlap_add_with_its_defaults(self):
        mix = tone(440, seconds=3)
        inner = nussl.separation.benchmark.MixAsEstimate(mix, num_sources=2)
        estimates = nussl.separation.composite.OverlapAdd(inner, window_duration=1)()
        # Periodic Hann windows that overlap by half add up to one.
        np.testing.assert_allclose(estimates[0].audio_data, mix.audio_data, atol=1e-12)


class TestClusterers:
    """Factors and clusters are found from the beginnings that nussl was written with."""

    def test_nmf_begins_by_nndsvd(self):
        from sklearn.decomposition import NMF

        data = np.random.default_rng(0).random((30, 20))
        model = nussl.ml.NMF(5, random_state=0)
        expected = NMF(5, init="nndsvd", random_state=0).fit_transform(data)
        np.testing.assert_array_equal(model.fit_transform(data), expected)
        np.testing.assert_array_equal(sklearn.base.clone(model).fit(data).components_, model.components_)
        assert model.init is None
        given = nussl.ml.NMF(5, init="random", random_state=0).fit_transform(data)
        assert np.abs(given - expected).max() > 0.01
        many = nussl.ml.NMF(25, random_state=0).fit_transform(data)  # more than NNDSVD can begin with
        assert many.shape == (30, 25) and not np.array_equal(many[:, :5], expected)

    @pytest.mark.parametrize("name, starts", [("KMeans", 10), ("MiniBatchKMeans", 3)])
    def test_k_means_begins_more_than_once(self, name, starts):
        kind = getattr(nussl.ml.cluster, name)
        assert kind(2).n_init == starts and kind(2, n_init=1).n_init == 1
        assert isinstance(kind(2), getattr(sklearn.cluster, name))
        fitted = pickle.loads(pickle.dumps(kind(2, random_state=0))).fit([[0.0], [0.1], [5.0], [5.1]])
        assert sorted(fitted.cluster_centers_[:, 0]) == pytest.approx([0.05, 5.05], abs=0.02)
        assert sklearn.base.clone(fitted).n_init == starts

    def test_mixtures_of_boolean_features(self):
        features = np.array([[True, False], [False, True]] * 4)
        model = nussl.ml.cluster.GaussianMixture(2, random_state=0).fit(features)
        model = pickle.loads(pickle.dumps(model))
        np.testing.assert_allclose(
            model.predict_proba(features)[:, model.predict(features[:1])[0]], [1, 0] * 4
        )
        np.testing.assert_array_equal(
            model.score_samples(features), model.score_samples(features.astype(float))
        )

    def test_confidence_uses_it_too(self):
        assert nussl.ml.confidence.KMeans is nussl.ml.cluster.KMeans
        assert nussl.ml.confidence.GaussianMixture is nussl.ml.cluster.GaussianMixture


class TestOthers:
    """What nussl's users have beside it."""

    def test_scaper_mixes_whoever_imports_it(self, tmp_path):
        """In a process of its own: here scaper may have been imported, and repaired, by another test."""
        pytest.importorskip("scaper")
        for name in ("voice", "drums"):
            (tmp_path / name).mkdir()
            tone(440).write_audio_to_file(str(tmp_path / name / "a.wav"))
        script = f"""
import svs_unet_plugin.nussl, scaper, numpy
mixer = scaper.Scaper(0.5, {str(tmp_path)!r}, {str(tmp_path)!r}, random_state=0)
mixer.sr, mixer.ref_db = {RATE}, -30
for name in ("voice", "drums"):
    mixer.add_event(("const", name), ("choose", []), ("const", 0), ("const", 0), ("const", 0.5),
                    ("const", 0), None, None)
mixture, _, _, events = mixer.generate()
print(mixture.shape, numpy.allclose(sum(events), mixture), hasattr(numpy, "Inf"))
"""
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
        assert result.stdout == "(4096, 1) True False\n", result.stderr

    def test_a_singular_system_does_not_end_bss_eval_v4(self, monkeypatch):
        """NumPy 2.0 has no ``np.linalg.linalg``, where museval looks for the error."""

        def singular(*_):
            raise np.linalg.LinAlgError

        monkeypatch.setattr(np.linalg, "solve", singular)
        true = [tone(440), tone(1500)]
        scores = nussl.evaluation.BSSEvalV4(true, true[::-1]).evaluate()
        assert np.isfinite(scores["source_0"]["SDR"]).all()


class TestScores:
    @pytest.mark.parametrize("kind", ["BSSEvalScale", "BSSEvalV4"])
    def test_scores_of_float32_audio_can_be_written(self, kind):
        noise = np.random.default_rng(0).standard_normal((2, 2, RATE)) * 0.01
        truth = [tone(440), tone(1500)]
        estimates = [s.make_copy_with_audio_data(s.audio_data + n) for s, n in zip(truth, noise, strict=True)]
        for signal in truth + estimates:
            signal.audio_data = signal.audio_data.astype(np.float32)
        scores = getattr(nussl.evaluation, kind)(truth, estimates).evaluate()
        assert json.loads(json.dumps(scores))["source_0"] == scores["source_0"]

    def test_report_card(self, tmp_path):
        paths = []
        for track, sdr in enumerate([5.0, 7.0]):
            paths.append(tmp_path / f"{track}.json")
            paths[-1].write_text(json.dumps({"vocals": {"SDR": [sdr]}, "drums": {"SDR": [sdr + 10]}}))
        card = nussl.evaluation.report_card(nussl.evaluation.aggregate_score_files(paths))
        # means: 11 overall, 16 for drums, 6 for vocals; deviation of (5, 7) with one degree of freedom: 1.41
        row = next(line for line in card.splitlines() if "SDR" in line)
        assert [" ".join(cell.split()) for cell in row.split("│")[2:-1]] == [
            "11.00 +/- 5.88",
            "16.00 +/- 1.41",
            "6.00 +/- 1.41",
        ]


class OwnTransform:
    """A transform that nussl does not know."""

    def __call__(self, data):
        return data


class Touch:
    """Unpickling this runs a shell command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def save_model(path, *more_transforms, **metadata) -> None:
    config = nussl.ml.networks.builders.build_recurrent_mask_inference(513, 4, 1, False, 0.0, 2, "sigmoid")
    model = nussl.ml.SeparationModel(config)
    model.metadata.update(metadata)
    model.save(str(path), train_data=dataset(*more_transforms, num_channels=1, sample_rate=RATE))


class TestCheckpoints:
    def test_nussl_saves_what_has_a_datasets_four_attributes(self, tmp_path):
        class Data:
            stft_params, sample_rate, num_channels = STFT_PARAMS, RATE, 1
            metadata: typing.ClassVar = {"transforms": tfm.Compose([tfm.ToSeparationModel()])}

        config = nussl.ml.networks.builders.build_recurrent_mask_inference(
            513, 4, 1, False, 0.0, 2, "sigmoid"
        )
        path = str(tmp_path / "model.pth")
        nussl.ml.SeparationModel(config).save(path, train_data=Data(), val_data=Data())
        _, metadata = nussl.ml.SeparationModel.load(path)
        assert (metadata["sample_rate"], metadata["stft_params"]) == (RATE, STFT_PARAMS)
        Data.sample_rate = Data.num_channels = Data.stft_params = None  # as before a file was met
        nussl.ml.SeparationModel(config).save(path, train_data=Data())
        assert nussl.ml.SeparationModel.load(path)[1]["num_channels"] != 1

    def test_a_trained_model_loads_and_separates(self, tmp_path):
        path = tmp_path / "model.pth"
        history = {"train/loss": [np.float64(0.5), np.float32(0.25), np.int64(3), np.bool_(True)]}
        save_model(path, **{"trainer.state.epoch_history": history})
        _, metadata = nussl.ml.SeparationModel.load(str(path))
        assert metadata["trainer.state.epoch_history"] == history
        assert metadata["stft_params"] == STFT_PARAMS
        mix = tone(440)
        estimates = nussl.separation.deep.DeepMaskEstimation(mix, str(path))()
        assert [e.audio_data.shape for e in estimates] == [mix.audio_data.shape] * 2

    def test_history_of_a_numpy_1_checkpoint(self, tmp_path):
        save_model(tmp_path / "new.pth", **{"trainer.state.epoch_history": {"train/loss": [np.float64(0.5)]}})
        old = tmp_path / "old.pth"
        with zipfile.ZipFile(tmp_path / "new.pth") as source, zipfile.ZipFile(old, "w") as target:
            for name in source.namelist():
                content = source.read(name)
                if name.endswith("data.pkl"):
                    assert b"numpy._core.multiarray" in content
                    content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
                target.writestr(name, content)
        _, metadata = nussl.ml.SeparationModel.load(str(old))
        assert metadata["trainer.state.epoch_history"] == {"train/loss": [0.5]}

    def test_code_in_a_checkpoint_is_refused_by_name_and_does_not_run(self, tmp_path):
        path, trace = tmp_path / "evil.pth", tmp_path / "trace"
        save_model(path, **{"trainer.state.epoch_history": {"x": Touch(trace)}})
        with pytest.raises(ValueError, match=rf"evil\.pth .*{os.system.__module__}\.system"):
            nussl.ml.SeparationModel.load(str(path))
        assert not trace.exists()
        torch.load(path, weights_only=False)  # the file is what it claims to be
        assert trace.exists()

    def test_own_transforms_are_let_in_by_allow(self, tmp_path, monkeypatch):
        monkeypatch.setattr(compat, "_allowed", [])
        path = tmp_path / "model.pth"
        save_model(path, OwnTransform())
        with pytest.raises(ValueError, match="OwnTransform"):
            nussl.ml.SeparationModel.load(str(path))
        compat.allow(OwnTransform, OwnTransform)
        assert compat.safe_globals().count(OwnTransform) == 1
        _, metadata = nussl.ml.SeparationModel.load(str(path))
        assert isinstance(metadata["train_dataset"]["transforms"].transforms[-1], OwnTransform)

    def test_every_transform_of_nussl_but_cache_is_let_in(self, tmp_path):
        allowed = [entry for entry in compat.safe_globals() if isinstance(entry, type)]
        assert {nussl.STFTParams, tfm.Compose, tfm.GetExcerpt, tfm.SumSources} <= set(allowed)
        cache = tfm.Cache(str(tmp_path / "cache"), overwrite=True)
        torch.save({"state_dict": {}, "metadata": {"transforms": cache}}, tmp_path / "model.pth")
        with pytest.raises(ValueError, match="Cache"):
            nussl.ml.SeparationModel.load(str(tmp_path / "model.pth"))

    @pytest.mark.parametrize("content", [b"", b"not at all", pickle.dumps([1, 2]), None])
    def test_any_other_file_gets_one_sentence(self, tmp_path, content):
        path = tmp_path / "other.pth"
        if content is None:
            torch.save(torch.zeros(3), path)
        else:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=r"other\.pth is no (nussl )?checkpoint"):
            nussl.ml.SeparationModel.load(str(path))


class TestCache:
    def test_what_comes_back_is_what_went_in(self, tmp_path):
        cache = tfm.Cache(str(tmp_path / "cache"), overwrite=True)
        data = {
            "index": 0,
            "spectrogram": torch.rand(513, 40, 2).transpose(1, 0),
            "part": torch.rand(1000)[10:20],
            "array": np.arange(6, dtype=np.int16).reshape(2, 3).T,
            "complex": np.array([1 + 2j]),
            "name": "vocals",
            "gain": 0.1,
            "none": None,
        }
        result = cache(dict(data))
        assert list(result) == list(data)
        for key, value in data.items():
            assert type(result[key]) is type(value)
            if isinstance(value, torch.Tensor | np.ndarray):
                assert result[key].dtype == value.dtype
                np.testing.assert_array_equal(result[key], value)
            else:
                assert result[key] == value

    def test_numpy_scalars_become_numbers(self, tmp_path):
        cache = tfm.Cache(str(tmp_path / "cache"), cache_size=3, overwrite=True)
        result = cache({"index": np.int64(-1), "gain": np.float32(0.1)})
        assert result == {"index": -1, "gain": float(np.float32(0.1))}
        assert os.listdir(tmp_path / "cache") == ["00000002.pt"]

    def test_an_excerpt_reads_only_its_frames(self, tmp_path):
        """The tensor is a map of the file, frame after frame; changing it does not change the file."""
        cache = tfm.Cache(str(tmp_path / "cache"), overwrite=True)
        magnitudes = torch.rand(513, 40, 2).transpose(1, 0)
        result = cache({"index": 0, "part": magnitudes[:4]})["part"]
        assert result.is_contiguous()
        if sys.platform == "linux":
            with open("/proc/self/maps") as maps:
                assert str(tmp_path / "cache" / "00000000.pt") in maps.read()
        assert (tmp_path / "cache" / "00000000.pt").stat().st_size < 1.2 * 4 * result.numel()
        result.zero_()
        cache.overwrite = False
        torch.testing.assert_close(cache({"index": 0})["part"], magnitudes[:4], rtol=0, atol=0)

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_a_dataset_is_cached_and_read_back(self, tmp_path, num_workers):
        data = dataset(tfm.Cache(str(tmp_path / "cache")))
        plain = [dataset()[i] for i in range(3)]
        if num_workers:
            nussl.ml.train.cache_dataset(torch.utils.data.DataLoader(data, num_workers=num_workers))
            data.cache_populated = True
        else:
            nussl.ml.train.cache_dataset(data)
        data.process_item = None  # from here on only the cache can answer
        loader = torch.utils.data.DataLoader(data, batch_size=1, num_workers=num_workers)
        for expected, batch in zip(plain, loader, strict=True):
            torch.testing.assert_close(batch["mix_magnitude"][0], expected["mix_magnitude"], rtol=0, atol=0)
        assert "3 items" in data.transform.transforms[-1].info
        assert data.transform.transforms[-1].cache.nchunks_initialized == 3

    def test_a_later_run_finds_the_cache_of_an_earlier_one(self, tmp_path):
        location = str(tmp_path / "cache")
        nussl.ml.train.cache_dataset(dataset(tfm.Cache(location)))
        again = dataset(tfm.Cache(location), tfm.GetExcerpt(5), cache_populated=True)
        assert again[2]["mix_magnitude"].shape == (5, 513, 2)
        again.cache_populated = False
        assert os.listdir(location) == []

    def test_an_index_that_was_not_written(self, tmp_path):
        for cache in (
            tfm.Cache(str(tmp_path / "cache"), overwrite=True),
            tfm.Cache(str(tmp_path / "cache")),
            tfm.Cache(str(tmp_path / "no such folder")),
        ):
            cache.overwrite = False
            with pytest.raises(tfm.TransformException, match="index 1 yet"):
                cache({"index": 1})
        assert not (tmp_path / "no such folder").exists()

    def test_whole_signals_and_their_annotation(self, tmp_path):
        jams = pytest.importorskip("jams")
        mix, annotation = tone(440), jams.JAMS(sandbox={"scaper": {"ref_db": -20.0}})
        mix.stft()
        mix.label, mix.original_signal_length = "mix", np.int64(RATE)
        metadata = {"labels": ["vocals", "drums"], "jam": annotation, "shape": (1, 2)}
        data = {"mix": mix, "sources": {"vocals": tone(880)}, "metadata": metadata, "index": 0}
        tfm.Cache(str(tmp_path / "cache"), overwrite=True)(dict(data))
        result = tfm.Cache(str(tmp_path / "cache"))({"index": 0})
        assert result == data
        assert type(result["mix"].stft_params) is nussl.STFTParams
        assert result["metadata"]["jam"].sandbox.scaper["ref_db"] == -20.0
        # as nussl computes them, now and after the cache
        after = tfm.MagnitudeSpectrumApproximation()(result)
        np.testing.assert_array_equal(
            after["source_magnitudes"], tfm.MagnitudeSpectrumApproximation()(data)["source_magnitudes"]
        )

    @pytest.mark.parametrize(
        "value",
        [np.array(["a"]), {"nested": [object()]}, {(1, 2): 3}, tone(440).low_pass(100), 1j],
        ids=lambda value: type(value).__name__,
    )
    def test_what_cannot_be_stored_safely_is_named(self, tmp_path, value):
        cache = tfm.Cache(str(tmp_path / "cache"), overwrite=True)
        with pytest.raises(tfm.TransformException, match=r"data\['key'\].*ToSeparationModel before Cache"):
            cache({"index": 0, "key": value})
        assert os.listdir(tmp_path / "cache") == []

    def test_an_interrupted_write_leaves_nothing(self, tmp_path, monkeypatch):
        cache = tfm.Cache(str(tmp_path / "cache"), overwrite=True)

        def half(path, content):
            path.write_text("PK")
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "write_bytes", half)
        with pytest.raises(KeyboardInterrupt):
            cache({"index": 0})
        assert os.listdir(tmp_path / "cache") == []

    def test_code_in_a_cache_does_not_run(self, tmp_path):
        cache = tfm.Cache(str(tmp_path / "cache"), overwrite=True)
        cache.overwrite = False
        path, trace = tmp_path / "cache" / "00000000.pt", tmp_path / "trace"
        for content in (
            ("dict", {"x": Touch(trace)}),
            ("AudioSignal", {}),
            ("dict", {"x": ("AudioSignal", {"path_to_input_file": "x"})}),
            ("dict", {"x": ("os.system", ["ls"])}),
            ("dict", {"x": ("STFTParams", [1, 2, 3, 4])}),
            {"values": {}, "arrays": []},  # of an earlier version
            torch.ones(2),
        ):
            torch.save(content, path)
            with pytest.raises(tfm.TransformException, match=r"00000000\.pt is not an item"):
                cache({"index": 0})
        assert not trace.exists()

    def test_copies_do_not_wipe_the_folder(self, tmp_path):
        cache = tfm.Cache(str(tmp_path / "cache"), overwrite=True)
        cache({"index": 0, "x": torch.ones(2)})
        for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
            assert other.overwrite
            assert os.listdir(tmp_path / "cache") == ["00000000.pt"]
        assert repr(cache) == f"Cache(location = {tmp_path / 'cache'}, overwrite = True)"

    def test_a_model_that_was_trained_from_a_cache_can_be_saved_and_loaded(self, tmp_path):
        save_model(tmp_path / "model.pth", tfm.Cache(str(tmp_path / "cache")), tfm.GetExcerpt(5))
        _, metadata = nussl.ml.SeparationModel.load(str(tmp_path / "model.pth"))
        names = [type(t).__name__ for t in metadata["train_dataset"]["transforms"].transforms]
        assert names == ["PhaseSensitiveSpectrumApproximation", "ToSeparationModel", "GetExcerpt"]


class TestPictures:
    @pytest.fixture
    def axes(self):
        matplotlib = pytest.importorskip("matplotlib")
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        yield plt.figure().gca()
        plt.close("all")

    @pytest.mark.parametrize("do_mono", [False, True])
    def test_waveform(self, axes, do_mono):
        signal = tone(440, 0.3, 0.1)
        nussl.utils.visualize_waveform(signal, do_mono=do_mono, color="red")
        top = max(float(np.max(line.get_ydata(), initial=0)) for line in axes.get_lines())  # one may be empty
        top = max([top, *(float(c.get_datalim(axes.transData).y1) for c in axes.collections)])
        assert top == pytest.approx(0.2 if do_mono else 0.3, rel=0.02)  # mean of the channels, or the left
        assert axes.get_ylabel() == "Amplitude"
        assert signal.num_channels == 2

    def test_waveforms(self, axes):
        nussl.utils.visualize_sources_as_waveform({"quiet": tone(440, 0.1), "loud": tone(1500)})
        names = [text.get_text() for text in axes.get_legend().get_texts()]
        assert names == ["loud", "quiet"]

    @pytest.mark.parametrize("y_axis", ["linear", "log", "mel"])
    def test_spectrogram(self, axes, y_axis):
        nussl.utils.visualize_spectrogram(tone(1504), y_axis=y_axis)
        decibels = axes.collections[0].get_array()
        assert decibels.shape == ((128 if y_axis == "mel" else 513), tone(1504).stft().shape[1])
        if y_axis != "mel":
            assert decibels.mean(axis=1).argmax() == 1504 // 8  # bins are 8 Hz apart

    @pytest.mark.parametrize("do_mono", [False, True])
    def test_masks(self, axes, do_mono):
        sources = {"low": tone(440), "high": tone(1504, 0.2, 0.2)}
        nussl.utils.visualize_sources_as_masks(sources, do_mono=do_mono, y_axis="mel")
        low, high = (collection.get_array() for collection in axes.collections)  # the loudest first
        middle = low.shape[1] // 2
        assert low[440 // 8, middle] > 0.99 and high[440 // 8, middle] < 0.01  # bins are 8 Hz apart
        assert low[1504 // 8, middle] < 0.01 and high[1504 // 8, middle] > 0.99
        assert low[300, middle] == 0  # 2400 Hz: silent
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["low", "high"]
        assert sources["low"].num_channels == 2
