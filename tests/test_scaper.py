import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyloudnorm
import pytest
import soundfile
import torch
from killing import kill_script_when

import svs_unet_plugin.nussl as svs
from svs_unet_plugin.corpora.musdb import STEMS, Track
from svs_unet_plugin.corpora.prepare import Prepared, open_prepared, prepare
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.mixing import scaper as mixing
from svs_unet_plugin.mixing.excerpts import ExcerptSettings, mapped_songs
from svs_unet_plugin.mixing.scaper import Mixer, MixSettings, link_stems
from svs_unet_plugin.nussl import nussl
from svs_unet_plugin.nussl.datasets import OnTheFly, open_mixtures, whole_songs

SETTINGS = MixSettings(mixtures=6, seconds=2.0, coherent=0.5, seed=3)
STILL = MixSettings(seconds=2.0, coherent=1.0, pitch=0, stretch=0)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Four songs of 6 s to train on, one for validation."""
    folder = tmp_path_factory.mktemp("songs")
    make_corpus(folder / "corpus", 6, seconds=6.0, seed=0)
    return prepare(folder / "corpus", folder / "prepared", jobs=1)


@pytest.fixture(scope="module")
def foreground(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The songs sorted by stem."""
    folder = tmp_path_factory.mktemp("foreground")
    link_stems(prepared, folder)
    return folder


@pytest.fixture(scope="module")
def mixer(foreground: Path) -> Mixer:
    return Mixer(foreground, SETTINGS, 8192)


@pytest.fixture(scope="module")
def written(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mixing.write_mixtures(prepared, tmp_path_factory.mktemp("mixtures") / "out", SETTINGS, jobs=1)


def events(mixed: mixing.Mixture) -> list[dict]:
    return [event.value for event in mixed.annotation.annotations[0].data]


def test_without_the_repair_scaper_fails(mixer: Mixer, monkeypatch: pytest.MonkeyPatch) -> None:
    scaper = mixing.import_scaper()
    monkeypatch.setattr(scaper.core, "np", np)
    monkeypatch.setattr(mixing, "import_scaper", lambda: scaper)
    with pytest.raises(AttributeError, match=r"np\.Inf"):
        mixer.mix(0)
    assert not hasattr(np, "Inf")  # the repair is scaper's alone


def test_a_seed_is_a_mixture(mixer: Mixer) -> None:
    one, again, other = mixer.mix(5), mixer.mix(5), mixer.mix(6)
    np.testing.assert_array_equal(one.mixture, again.mixture)
    assert not np.array_equal(one.mixture, other.mixture)
    assert one.mixture.shape == (1, 2 * 8192) and tuple(one.stems) == STEMS
    np.testing.assert_allclose(sum(one.stems.values()), one.mixture, atol=1e-6)
    assert np.abs(one.mixture).max() <= 1


def test_coherent_mixtures_are_excerpts_of_a_song(foreground: Path) -> None:
    mixed = Mixer(foreground, STILL, 8192).mix(1)
    for event in events(mixed):
        source, _ = soundfile.read(event["source_file"], always_2d=True)
        start = round(event["source_time"] * 8192)
        excerpt = source[start : start + 2 * 8192].mean(axis=1)
        stem = mixed.stems[event["label"]][0]
        gain = (stem @ excerpt) / (excerpt @ excerpt)
        # What is left is less than a thousandth: the excerpt may begin a sample earlier or later.
        best = min(
            np.linalg.norm(stem - gain * source[start + k :][: 2 * 8192].mean(axis=1)) for k in (-1, 0, 1)
        )
        assert best < 1e-3 * np.linalg.norm(stem)
    assert len({(Path(event["source_file"]).name, event["source_time"]) for event in events(mixed)}) == 1


def test_what_is_drawn(mixer: Mixer) -> None:
    drawn = [events(mixer.mix(seed)) for seed in range(12)]
    songs = [{Path(event["source_file"]).name for event in mixture} for mixture in drawn]
    pitches = [{event["pitch_shift"] for event in mixture} for mixture in drawn]
    coherent = [len(names) == 1 and len(shifts) == 1 for names, shifts in zip(songs, pitches, strict=True)]
    # Of twelve throws of a coin all fall on one side once in 2048.
    assert 0 < sum(coherent) < 12
    assert all(len(shifts) == 4 for shifts, one in zip(pitches, coherent, strict=True) if not one)
    every = [event for mixture in drawn for event in mixture]
    for name, least, most in (("pitch_shift", -2, 2), ("time_stretch", 0.8, 1.2), ("snr", -5, 5)):
        values = np.array([event[name] for event in every])
        assert least <= values.min() < values.max() <= most and np.ptp(values) > (most - least) / 3
    assert len({event["source_file"] for event in every}) > 8
    assert max(event["source_time"] for event in every) > 1


def test_loudness_is_what_was_drawn(foreground: Path) -> None:
    mixed = Mixer(foreground, STILL, 8192).mix(2)
    scale = mixed.annotation.annotations[0].sandbox.scaper.peak_normalization_scale_factor
    for event in events(mixed):
        loudness = pyloudnorm.Meter(8192).integrated_loudness(mixed.stems[event["label"]][0] / scale)
        assert loudness == pytest.approx(mixing.LOUDNESS + event["snr"], abs=0.3)


def test_pitch_moves_and_tempo_stays(tmp_path: Path) -> None:
    foreground = tmp_path / "tones"
    seconds = np.arange(6 * 8192) / 8192
    for stem in STEMS:
        (foreground / stem).mkdir(parents=True, exist_ok=True)
        soundfile.write(foreground / stem / "tone.wav", 0.3 * np.sin(2 * np.pi * 440 * seconds), 8192)
    mixer = Mixer(foreground, MixSettings(seconds=3.0, coherent=0.0), 8192)
    mixed = mixer.mix(0)
    for event in events(mixed):
        stem = mixed.stems[event["label"]][0][4096:-4096]
        peak = np.argmax(np.abs(np.fft.rfft(stem * np.hanning(len(stem)), 8 * len(stem))))
        expected = 440 * 2 ** (event["pitch_shift"] / 12)
        assert peak * 8192 / (8 * len(stem)) == pytest.approx(expected, rel=0.005)
        assert np.abs(mixed.stems[event["label"]][0][-1000:]).max() > 0.01  # stretched, it still fills all


def test_silence_is_not_brought_up(tmp_path: Path) -> None:
    foreground = tmp_path / "silence"
    for stem in STEMS:
        (foreground / stem).mkdir(parents=True, exist_ok=True)
        soundfile.write(foreground / stem / "a.wav", np.full(5 * 8192, mixing.AUDIBLE / 2), 8192)
    for coherent in (0.0, 1.0):
        with pytest.raises(ValueError, match="in which each stem sounds"):
            Mixer(foreground, MixSettings(seconds=2.0, coherent=coherent), 8192).mix(0)


def test_nussl_reads_what_was_written(written: Path, mixer: Mixer) -> None:
    data = open_mixtures(written, SETTINGS)
    assert isinstance(data, nussl.datasets.Scaper) and len(data) == 6
    for number in range(6):
        item, mixed = data[number], mixer.mix(SETTINGS.seed + number)
        assert set(item["sources"]) == {f"{stem}::0" for stem in STEMS}
        np.testing.assert_array_equal(item["mix"].audio_data, mixed.mixture)
        np.testing.assert_array_equal(item["sources"]["bass::0"].audio_data, mixed.stems["bass"])
    transformed = open_mixtures(
        written, SETTINGS, transform=svs.training_transform(excerpt_frames=16), stft_params=svs.stft_params()
    )[0]
    assert transformed["mix_magnitude"].shape == (16, 513, 1)
    assert transformed["source_magnitudes"].shape == (16, 513, 1, 1)


def test_killed_and_started_again(written: Path, prepared: Prepared, tmp_path: Path) -> None:
    """In the same folder, since annotations name the files."""
    before = {path.relative_to(written): path.read_bytes() for path in written.rglob("*") if path.is_file()}
    moved = written.with_name("undisturbed")
    written.rename(moved)
    script = (
        "import sys\nfrom svs_unet_plugin.corpora.prepare import open_prepared\nfrom test_scaper import *\n"
        "if __name__ == '__main__':\n"
        "  mixing.write_mixtures(open_prepared(sys.argv[1]), sys.argv[2], SETTINGS, jobs=1)"
    )
    assert kill_script_when(lambda: bool(list(written.glob("*.jams"))), script, prepared.folder, written)
    with pytest.raises(ValueError, match="is not finished"):
        open_mixtures(written, SETTINGS)
    mixing.write_mixtures(prepared, written, SETTINGS, jobs=1)
    after = {path.relative_to(written): path.read_bytes() for path in written.rglob("*") if path.is_file()}
    assert after == before


def test_on_the_fly(prepared: Prepared) -> None:
    transform = svs.training_transform(excerpt_frames=None)
    data = OnTheFly(prepared, SETTINGS, 4, 2, stft_params=svs.stft_params(), transform=transform)
    assert len(data) == 4 and set(data.process_item(0)["sources"]) == set(STEMS)
    first, second, again = data.__getitems__([(0, 1), (1, 1), (0, 1)])
    assert first["mix_magnitude"].shape[1:] == (513, 1)
    assert torch.equal(first["mix_magnitude"], again["mix_magnitude"])
    assert not torch.equal(first["mix_magnitude"], second["mix_magnitude"])
    assert torch.equal(data[1]["mix_magnitude"], first["mix_magnitude"])
    other = pickle.loads(pickle.dumps(data))  # as a worker that is spawned gets it
    assert torch.equal(other[1]["mix_magnitude"], first["mix_magnitude"])
    del other
    assert torch.equal(data[1]["mix_magnitude"], first["mix_magnitude"])


def train_on_the_fly(prepared: Prepared, out: Path, workers: int) -> dict[str, torch.Tensor]:
    """The weights after three epochs."""
    params = svs.stft_params()
    validation = whole_songs(
        prepared.valid, stft_params=params, transform=svs.training_transform(excerpt_frames=None)
    )
    transform = svs.training_transform(excerpt_frames=16)
    data = OnTheFly(prepared, STILL, 4, 1, stft_params=params, transform=transform)
    nussl.utils.seed(0)
    model = nussl.ml.SeparationModel(svs.build_unet_mask_inference(channels=2))
    settings = svs.TrainSettings(epochs=3, epoch_steps=2, batch_size=2)
    svs.train(model, data, validation, out, settings, device="cpu", workers=workers, progress=False)
    return torch.load(out / "checkpoints" / "latest.state.pth", weights_only=True)["model"]


def test_training_on_the_fly_depends_on_neither_kills_nor_workers(prepared: Prepared, tmp_path: Path) -> None:
    """What is mixed, and which excerpt of it is used, are the epoch's and the index's."""
    script = (
        "import sys\nfrom svs_unet_plugin.corpora.prepare import open_prepared\nfrom test_scaper import *\n"
        "train_on_the_fly(open_prepared(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))"
    )
    whole = train_on_the_fly(prepared, tmp_path / "whole", 0)
    for workers in (0, 2):
        out = tmp_path / str(workers)
        latest = out / "checkpoints" / "latest.state.pth"
        assert kill_script_when(latest.exists, script, prepared.folder, out, workers)
        resumed = train_on_the_fly(prepared, out, workers)
        assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_whole_songs(prepared: Prepared) -> None:
    data = pickle.loads(pickle.dumps(whole_songs(prepared.valid)))  # as a worker that is spawned gets it
    streams, _ = prepared.valid[0].read()
    np.testing.assert_array_equal(data[0]["mix"].audio_data, streams["mixture"])
    np.testing.assert_array_equal(data[0]["sources"]["drums"].audio_data, streams["drums"])


def test_excerpts_from_files_are_those_from_memory(prepared: Prepared) -> None:
    stems = ["vocals", "drums", "bass", "other"]
    settings = ExcerptSettings(excerpt_frames=32)
    remix = svs.Remix(whole_songs(prepared.train), others=stems[1:], settings=settings)
    expected = remix.__getitems__(range(6))
    remix = svs.Remix(mapped_songs(prepared.train, stems), others=stems[1:], settings=settings)
    found = remix.__getitems__(range(6))
    assert len(remix.mixer.songs) == len(prepared.train)
    for name, value in expected.items():
        assert torch.equal(found[name], value)


def test_songs_that_have_moved(prepared: Prepared, tmp_path: Path) -> None:
    songs = tmp_path / "songs"
    shutil.copytree(prepared.folder, songs)
    settings = MixSettings(mixtures=1, seconds=2.0)
    out = mixing.write_mixtures(open_prepared(songs), tmp_path / "out", settings, jobs=1)
    before = (out / "000000.wav").read_bytes()
    (out / "000000.jams").unlink()
    songs.rename(tmp_path / "moved")
    mixing.write_mixtures(open_prepared(tmp_path / "moved"), out, settings, jobs=1)
    assert (out / "000000.wav").read_bytes() == before


def test_bad_input(prepared: Prepared, written: Path, tmp_path: Path) -> None:
    for changes in ({"mixtures": -1}, {"coherent": 1.1}, {"stretch": 1.0}, {"seconds": 0.0}):
        with pytest.raises(ValueError, match="must be at least 0"):
            MixSettings(**changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"settings\.mixtures was 6 and is now 2"):
        mixing.write_mixtures(prepared, written, replace(SETTINGS, mixtures=2))
    with pytest.raises(
        ValueError, match="holds no mixtures with these settings: mixtures was 6 and is now 2"
    ):
        open_mixtures(written, replace(SETTINGS, mixtures=2))
    with pytest.raises(ValueError, match="made with different settings"):
        mixing.write_mixtures(prepared, prepared.folder, SETTINGS)
    soundfile.write(tmp_path / "vocals.wav", np.zeros(10), 8192, subtype="PCM_16")
    with pytest.raises(ValueError, match="should hold 32-bit float"):
        mapped_songs([Track(tmp_path, "train")], ["vocals"])
