"""Bands by a soundfont: they play the score, in stereo, again and again the same, and say what they lack."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess as Done

import numpy as np
import pytest
import soundfile

from svs_unet_plugin.cli import main
from svs_unet_plugin.corpora.musdb import STREAMS
from svs_unet_plugin.corpora.synthetic import band, soundfont
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.corpora.synthetic.score import draw_plan
from svs_unet_plugin.corpora.synthetic.song import make_song
from svs_unet_plugin.corpora.synthetic.soundfont import RENDER_RATE, Part, Soundfont, Tone, open_soundfont
from svs_unet_plugin.files import digest

SECONDS = 2.0


@pytest.fixture(scope="module")
def path() -> Path:
    """The smallest soundfont of the system."""
    fonts = [
        *Path("/usr/share/sounds").glob("sf[23]/*.sf[23]"),
        *Path("/usr/share/soundfonts").glob("*.sf[23]"),
    ]
    if shutil.which("fluidsynth") is None or not fonts:
        pytest.skip("needs fluidsynth and a soundfont, as timgm6mb-soundfont has")
    return min(fonts, key=lambda font: font.stat().st_size)


@pytest.fixture(scope="module")
def font(path: Path) -> Soundfont:
    return open_soundfont(path)


@pytest.fixture(scope="module")
def made(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tracks of a corpus."""
    out = tmp_path_factory.mktemp("corpus")
    make_corpus(out, tracks=2, seconds=SECONDS, seed=3, soundfont=path)
    return out


def audio_files(out: Path) -> dict[str, bytes]:
    return {str(wav.relative_to(out)): wav.read_bytes() for wav in sorted(out.rglob("*.wav"))}


def level(sound: np.ndarray) -> float:
    """RMS in dB."""
    return float(10.0 * np.log10(np.mean(sound**2) + 1e-12))


def peak(sound: np.ndarray) -> float:
    """Frequency in Hz of the strongest partial of a second of sound."""
    spectrum = np.abs(np.fft.rfft(sound[:RENDER_RATE] * np.hanning(RENDER_RATE), 4 * RENDER_RATE))
    return float(np.argmax(spectrum)) / 4


def test_notes_have_their_pitch_and_end(font: Soundfont) -> None:
    """The last one would sound for ever, and FluidSynth with it."""
    flute = Part(73, tones=[Tone(0.0, 1.0, 69, 100), Tone(1.0, 99.0, 76, 100)])  # A4, E5
    sound = font.render([flute], 2.0)
    assert sound.shape == (2, 2 * RENDER_RATE)
    assert peak(sound[0]) == pytest.approx(440.0, rel=0.015)  # a quarter of a semitone
    assert peak(sound[0, RENDER_RATE:]) == pytest.approx(659.3, rel=0.015)
    bent = font.render([Part(73, tones=flute.tones[:1], bends=[(0.0, -2.0)])], 1.0)
    assert peak(bent[0]) == pytest.approx(392.0, rel=0.015)  # G4


def test_a_key_that_is_struck_again_sounds_on(font: Soundfont) -> None:
    organ = Part(19, tones=[Tone(0.0, 0.6, 60, 100), Tone(0.5, 2.0, 60, 100)])
    assert level(font.render([organ], 2.0)[:, int(1.4 * RENDER_RATE) :]) > -25.0


@pytest.mark.parametrize(("pan", "left"), [(0, True), (127, False)])
def test_players_have_a_place(font: Soundfont, pan: int, left: bool) -> None:
    sides = font.render([Part(73, pan=pan, tones=[Tone(0.0, 1.0, 69, 100)])], 1.0)
    assert (level(sides[0]) > level(sides[1]) + 10.0) is left


def test_songs(font: Soundfont) -> None:
    songs = [make_song(seed, 4.0, rate, font) for seed, rate in ((0, 44100), (1, 44100), (2, 16000))]
    for song, rate in zip(songs, (44100, 44100, 16000), strict=True):
        assert sorted(song) == ["bass", "drums", "other", "vocals"]
        backing = song["drums"] + song["bass"] + song["other"]
        for stem in song.values():
            assert stem.shape == (2, 4 * rate) and stem.dtype == np.float32
            assert level(stem) > -45.0
            # Wide, but no wider than two players, one on each side, who have nothing in common.
            side, middle = level(stem[0] - stem[1]), level(stem[0] + stem[1])
            assert middle - 50.0 < side < middle + 1.0
        assert np.abs(song["vocals"] + backing).max() < 0.96
        assert level(song["vocals"]) - level(backing) == pytest.approx(-3.5, abs=3.1)
    assert not np.array_equal(songs[0]["bass"], songs[1]["bass"])
    # The voice is the one of the song without a soundfont, but for its level.
    alone = make_song(0, 4.0)["vocals"]
    gain = np.sum(alone * songs[0]["vocals"]) / np.sum(alone**2)
    assert np.allclose(songs[0]["vocals"], gain * alone, atol=1e-5)


def test_what_is_out_of_phase_is_brought_to_the_middle() -> None:
    sides = np.random.default_rng(0).normal(size=(2, 1000))
    sides[1] = -sides[0] + 0.1 * sides[1]
    left, right = band._narrow(sides, 0.2)
    assert level(left - right) == pytest.approx(level(left + right) + 20.0 * np.log10(0.2))
    assert np.allclose(left + right, sides.sum(axis=0))
    panned = sides * [[1.0], [0.0]]
    assert np.allclose(band._narrow(panned, 1.0), panned)


def test_every_player_plays_in_every_way(font: Soundfont, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    plan = draw_plan(rng, 2.0)
    for family, (programs, ways) in band.PLAYERS.items():
        for way in dict.fromkeys(ways):
            monkeypatch.setitem(band.PLAYERS, family, (programs, (way,)))
            sound = band._Band(plan, rng, font, 2.0).player(family)
            assert sound.shape == (2, 2 * RENDER_RATE) and np.isfinite(sound).all()
            assert level(sound) > -60.0, (family, way)


def test_stems_add_up_and_are_the_same_bytes_again(made: Path, path: Path, tmp_path: Path) -> None:
    for track in made.glob("t*/*"):
        stems = {name: soundfile.read(track / f"{name}.wav", dtype="int16")[0] for name in STREAMS}
        assert np.array_equal(stems.pop("mixture"), sum(stems.values()))
    assert len(set(audio_files(made).values())) == 10
    make_corpus(tmp_path, tracks=2, seconds=SECONDS, seed=3, soundfont=path)
    assert audio_files(tmp_path) == audio_files(made)


def test_a_stopped_run_is_resumed_with_the_same_soundfont_alone(
    made: Path, path: Path, tmp_path: Path
) -> None:
    copy, moved = tmp_path / "corpus", tmp_path / "moved.sf2"
    shutil.copytree(made, copy)
    shutil.copy(path, moved)
    shutil.rmtree(next(copy.glob("test/*")))
    with pytest.raises(ValueError, match=f"soundfont was '{digest(path)}' and is now None"):
        make_corpus(copy, tracks=2, seconds=SECONDS, seed=3)
    make_corpus(copy, tracks=2, seconds=SECONDS, seed=3, soundfont=moved)  # wherever it lies
    assert audio_files(copy) == audio_files(made)


def test_the_corpus_says_what_played_it(made: Path, path: Path) -> None:
    about = (made / "README.txt").read_text()
    assert path.name in about and digest(path) in about and "MIT" in about
    assert f"--rate 44100 --soundfont {path.name}" in about
    assert json.loads((made / "settings.json").read_text())["soundfont"] == digest(path)


def refusal(capsys: pytest.CaptureFixture[str], out: Path, font: Path) -> str:
    assert main(["data", "demo", str(out), "--soundfont", str(font)]) == 2
    assert not out.exists()
    return capsys.readouterr().err


def test_what_is_no_soundfont(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none, other = tmp_path / "none.sf2", tmp_path / "other.sf2"
    other.write_text("a text")
    assert f"{none}: there is no such soundfont" in refusal(capsys, tmp_path / "out", none)
    assert f"{other} is no soundfont that FluidSynth can read: " in refusal(capsys, tmp_path / "out", other)


def test_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    font, out, programs = tmp_path / "font.sf2", tmp_path / "out", tmp_path / "programs"
    font.write_text("not read")
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    assert "needs the program FluidSynth, which was not found: apt install" in refusal(capsys, out, font)
    for name in ("fluidsynth", "ffmpeg"):
        assert name == "fluidsynth" or "need ffmpeg, which was not found" in refusal(capsys, out, font)
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    (programs / "ffprobe").symlink_to(programs / "ffmpeg")
    monkeypatch.setitem(sys.modules, "mido", None)
    assert "a soundfont needs mido: pip install 'svs_unet_plugin[recipes]'" in refusal(capsys, out, font)
    monkeypatch.delitem(sys.modules, "mido")
    listed = Done([], 0, b"000-000 Piano\n000-033 Bass\n", b"")
    monkeypatch.setattr(soundfont, "_fluidsynth", lambda *_: listed)
    assert f"{font} has no drums (bank 128): a General MIDI soundfont is needed" in refusal(capsys, out, font)


def test_what_fails(font: Soundfont, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="nothing sounds of the programs 0: "):
        font.render([Part(0)], 1.0)
    with pytest.raises(RuntimeError, match="could not do the effects nonsense: "):
        soundfont.with_effects(np.zeros((2, 100), np.float32), "nonsense")

    def killed(_font: Path, _score: Path, _seconds: float, _commands: str, options: Sequence[str]) -> Done:
        Path(options[-1]).write_bytes(bytes(10))  # of what it had to write
        return Done([], -9, b"", b"")

    monkeypatch.setattr(soundfont, "_fluidsynth", killed)
    with pytest.raises(RuntimeError, match="to the end: FluidSynth was ended by SIGKILL"):
        font.render([Part(0)], 1.0)
