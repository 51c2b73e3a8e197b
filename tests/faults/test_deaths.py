"""Processes that die or hang lose one item, which is named; where none can be left out, the run says so.

Ray's workers are in test_catalogue.py, processes by themselves in test_workers.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from faults.faulty import children, patched, run, sentence, stand_in
from faults.kills import check, leftovers
from faults.operations import CLI, Kitchen

from svs_unet_plugin import ffmpeg
from svs_unet_plugin.cli import main

FFMPEG = ffmpeg.installed()
"""Before a test puts another one into its place."""


DIES = """
import os, signal
from svs_unet_plugin.corpora import musdb
plain = musdb.Track.open
def fatal(track):
    if track.name.endswith("0002"):
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(track)
musdb.Track.open = fatal
"""
WHY = "its process ended by SIGKILL, perhaps for lack of memory"
"""What the kernel does to a process for which there is no memory."""


def test_a_track_that_kills_its_process_is_left_out_of_what_is_prepared(
    kitchen: Kitchen, tmp_path: Path
) -> None:
    environment = patched(tmp_path / "patch", DIES)
    command = [*CLI, "data", "prepare", kitchen.corpus, tmp_path / "out", "--jobs", "2"]
    done = run(command, environment=environment)
    assert done.returncode == 0, done.stderr
    assert f"skipped: test/Synthetic Band - Song 0002: {WHY}\n" in done.stderr
    assert len(list((tmp_path / "out").glob("t*/*"))) == 5
    assert not leftovers(tmp_path / "out")


def test_a_song_that_kills_its_process_is_named_when_the_others_are_scored(
    kitchen: Kitchen, tmp_path: Path
) -> None:
    operation = kitchen.operation("evaluate")
    operation.begin_anew()
    said = sentence(run(operation.command, environment=patched(tmp_path / "patch", DIES)))
    assert (
        f"1 of 3 are not done, and a new run does the rest (unet on Synthetic Band - Song 0002: {WHY})"
        in said
    )
    assert len(list(operation.out.glob("results/unet/test/*.json"))) == 2


def test_a_process_that_is_killed_once_loses_nothing(kitchen: Kitchen) -> None:
    operation, expected = kitchen.operation("prepare"), kitchen.undisturbed("prepare")
    operation.begin_anew()

    def kill(process: int) -> bool:
        if not list(operation.out.glob("t*/*")):
            return False
        os.kill(children(process)[-1], signal.SIGKILL)
        return True

    done = run(operation.command, meanwhile=kill)
    assert done.returncode == 0, done.stderr
    check(operation, operation.read(operation.out), expected)
    assert not leftovers(operation.out)


@pytest.mark.parametrize("host", ["nussl", "asteroid"])
def test_training_ends_with_a_sentence_where_a_process_that_reads_dies(kitchen: Kitchen, host: str) -> None:
    operation = kitchen.operation(f"train-{host}")
    operation.begin_anew()

    def kill(process: int) -> bool:
        readers = children(process)
        # After an epoch, since torch imports modules until then, which print what interrupts them.
        if len(readers) < 2 or not (operation.out / "losses.csv").exists():
            return False
        os.kill(readers[0], signal.SIGKILL)
        return True

    command = [*operation.command, "--workers", "2", "--epochs", "2000"]
    assert "DataLoader worker" in sentence(run(command, meanwhile=kill))


def encoded(path: Path, seconds: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    tone = ["-f", "lavfi", "-i", f"sine=duration={seconds}", "-ac", "2", "-y", path]
    subprocess.run(["ffmpeg", "-v", "error", *tone], check=True)
    return path


@pytest.mark.skipif(not FFMPEG, reason="ffmpeg is not installed")
def test_a_decoder_that_crashes_loses_its_song(tmp_path: Path) -> None:
    songs, out = tmp_path / "songs", tmp_path / "out"
    for name in ("a", "bad", "c"):
        encoded(songs / f"{name}.m4a", 2)
    crash = f'case "$*" in *bad.m4a*) kill -SEGV $$ ;; esac\nexec {ffmpeg.shutil.which("ffmpeg")} "$@"'
    environment = stand_in(tmp_path / "bin", "ffmpeg", crash)
    done = run([*CLI, "separate", songs, "--out", out, "--jobs", "2"], environment=environment)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{songs / 'bad.m4a'} is truncated or damaged: ffmpeg was ended by SIGSEGV" in done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["a", "c"]


@pytest.mark.skipif(not FFMPEG, reason="ffmpeg is not installed")
@pytest.mark.parametrize(
    "program, option, said",
    [
        ("ffprobe", "wav", "song.m4a can't be read: ffprobe did nothing for 1 seconds and was stopped"),
        ("ffmpeg", "wav", "song.m4a can't be read: ffmpeg did nothing for 1 seconds and was stopped"),
        ("ffmpeg", "mp3", "ffmpeg did nothing for 1 seconds and was stopped"),
    ],
)
def test_a_program_that_hangs_is_not_waited_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    program: str,
    option: str,
    said: str,
) -> None:
    song = encoded(tmp_path / ("song.wav" if option == "mp3" else "song.m4a"), 2)
    ffmpeg._alone()  # which asks ffmpeg, too
    monkeypatch.setattr(ffmpeg, "LONGEST_SILENCE", 1.0)
    for name, value in stand_in(tmp_path / "bin", program, "exec sleep 600").items():
        monkeypatch.setenv(name, value)
    assert main(["separate", str(song), "--out", str(tmp_path / "out"), "--format", option]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
