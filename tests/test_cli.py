import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from svs_unet_plugin.cli import main


def test_separate_names_what_it_wrote(
    checkpoint_path: Path, song_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "a song.with dots.wav"
    soundfile.write(other, np.random.default_rng(0).uniform(-1, 1, 9000), 22_050)
    arguments = ["separate", str(song_path), str(other), "-o", str(tmp_path / "out")]
    assert main([*arguments, "-w", str(checkpoint_path)]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in written] == 2 * ["vocals.wav", "accompaniment.wav"]
    assert written[2].parent == tmp_path / "out" / "a song.with dots"
    assert [soundfile.info(path).samplerate for path in written] == 2 * [44_100] + 2 * [22_050]


def test_separate_with_views(
    checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    song = tmp_path / "song.wav"
    soundfile.write(song, np.random.default_rng(0).uniform(-1, 1, 9000), 22_050)
    vocals = []
    for views in ("1", "3"):
        out = ["-o", str(tmp_path / views), "-w", str(checkpoint_path), "--views", views]
        assert main(["separate", str(song), *out]) == 0
        vocals.append(soundfile.read(tmp_path / views / "song" / "vocals.wav")[0])
    assert np.abs(vocals[0] - vocals[1]).max() > 0.001
    assert main(["separate", str(song), "-o", str(tmp_path / "out"), "--views", "0"]) == 2
    assert "views must lie from 1 to 8, got 0" in capsys.readouterr().err


def bad_file(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "song.wav"
    if kind == "directory":
        path.mkdir()
    elif kind == "not audio":
        path.write_text("these are words")
    elif kind != "missing":
        samples = np.zeros((0 if kind == "empty" else 50_000, 2))
        samples[-1:] = np.nan if kind == "nan" else 0.5
        soundfile.write(path, samples, 44_100, subtype="FLOAT")
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:100_000])
    return path


@pytest.mark.parametrize(
    "kind, message",
    [
        ("missing", "no such file"),
        ("directory", "is a directory"),
        ("not audio", "is not audio"),
        ("empty", "zero samples"),
        ("nan", "NaN or infinite"),
        ("truncated", "is truncated"),
    ],
)
def test_bad_songs(
    checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, message: str
) -> None:
    song, out = bad_file(tmp_path, kind), tmp_path / "out"
    assert main(["separate", str(song), "-o", str(out), "-w", str(checkpoint_path)]) == 2
    said = capsys.readouterr().err
    assert message in said and str(song) in said and len(said.splitlines()) == 1
    assert not out.exists()


def test_bad_weights_and_outputs(
    checkpoint_path: Path, song_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    for weights, out, message in [
        (tmp_path / "none.pth", tmp_path / "out", "no checkpoint at"),
        (song_path, tmp_path / "out", "is no checkpoint"),
        (checkpoint_path, file, "file"),
    ]:
        assert main(["separate", str(song_path), "-o", str(out), "-w", str(weights)]) == 2
        said = capsys.readouterr().err
        assert message in said and len(said.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_one_bad_song_does_not_end_the_batch(
    checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "last"):
        soundfile.write(tmp_path / f"{name}.wav", np.random.default_rng(0).uniform(-1, 1, 9000), 22_050)
    songs = [tmp_path / "first.wav", bad_file(tmp_path, "nan"), tmp_path / "none.wav", tmp_path / "last.wav"]
    arguments = ["-o", str(tmp_path / "out"), "-w", str(checkpoint_path)]
    assert main(["separate", *map(str, songs), *arguments]) == 1
    written, said = capsys.readouterr()
    assert [Path(line).parent.name for line in written.splitlines()] == 2 * ["first"] + 2 * ["last"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["first", "last"]
    assert [str(song) in line for song, line in zip(songs[1:3], said.splitlines(), strict=True)] == 2 * [True]


@pytest.mark.parametrize(
    "error, message",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"), "CUDA out of memory."),
        (BrokenProcessPool("A process was terminated abruptly"), "A process was terminated abruptly"),
        (MemoryError(), "MemoryError, without a reason"),
    ],
)
def test_errors_that_are_no_fault_of_the_user(
    checkpoint_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    message: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("svs_unet_plugin.separator.Separator.separate_file", fail)
    monkeypatch.setattr("svs_unet_plugin.checkpoint.find", fail)
    for arguments in (["separate", "song.wav", "-o", str(tmp_path)], ["info", "a.pth"]):
        if arguments[0] == "separate":
            monkeypatch.setattr("svs_unet_plugin.separator.Separator.__init__", lambda *_, **__: None)
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert message in said and len(said.splitlines()) == 1
        assert ("song.wav" in said) == (arguments[0] == "separate")


FULL = """
import resource, signal, sys
from svs_unet_plugin.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))  # as if the disk were full after so much
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk(checkpoint_path: Path, song_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", FULL, "separate", song_path, "-o", out, "-w", checkpoint_path]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert "can't be written to" in run.stderr and len(run.stderr.splitlines()) == 1
    assert not out.exists()


def test_two_songs_of_one_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["separate", "a/song.wav", "b/song.mp3", "-o", str(tmp_path)]) == 2
    assert "2 of these songs would be written to" in capsys.readouterr().err


def test_no_weights_is_no_random_network(
    song_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("svs_unet_plugin.checkpoint.PRETRAINED", tmp_path)
    assert main(["separate", str(song_path), "-o", str(tmp_path / "out")]) == 2
    assert "no checkpoint at vocals" in capsys.readouterr().err


@pytest.mark.parametrize("how, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_in_the_middle(checkpoint_path: Path, tmp_path: Path, how: int, code: int) -> None:
    song, out = tmp_path / "long.wav", tmp_path / "out"
    soundfile.write(song, np.random.default_rng(0).uniform(-1, 1, (44_100 * 600, 2)), 44_100)
    command = [sys.executable, "-m", "svs_unet_plugin.cli", "separate", song, "-o", out, "-w"]
    process = subprocess.Popen([*command, checkpoint_path], stderr=subprocess.PIPE, text=True)
    while not list(out.glob("*/.*.part")):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, how)
    said = process.communicate()[1]
    assert process.returncode == code and "Traceback" not in said
    assert not out.exists()


def test_info(checkpoint_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(checkpoint_path)]) == 0
    said = capsys.readouterr().out
    assert "8192 Hz, window 1024, hop 768" in said and "vocals" in said and "first layer 4 wide" in said
    assert main(["info", str(checkpoint_path.parent)]) == 2


def test_a_traceback_only_when_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        main(["--traceback", "info", str(tmp_path / "none.pth")])


def test_wrong_flags_end_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["separate"], ["sing"], ["separate", "a.wav", "--loud"], []):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert "--help" in said and (len(said.splitlines()) == 1) == bool(arguments)


def test_the_handler_of_sigterm_is_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert main(["--version"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before
