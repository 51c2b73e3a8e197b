"""Songs that vanish or grow, a clock that is set back, and two runs on one folder at once."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from faults.faulty import patched, run, sentence
from faults.kills import check, leftovers
from faults.operations import CLI, Kitchen
from killing import kill_when

from svs_unet_plugin import Separator
from svs_unet_plugin.corpora.prepare import prepare


def make_song(path: Path, seconds: float = 4.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).standard_normal((round(16_000 * seconds), 2)) / 10
    soundfile.write(path, noise.clip(-1, 1), 16_000)
    return path


def test_a_song_that_vanishes(tmp_path: Path) -> None:
    """Before its turn: the others are separated, and it is named."""
    songs, out = tmp_path / "songs", tmp_path / "out"
    for number in range(3):
        make_song(songs / f"{number}.wav", 30.0)

    def vanish(process: int) -> bool:
        if not (out / "0").is_dir():
            return False
        (songs / "1.wav").unlink()
        return True

    done = run([*CLI, "separate", songs, "--out", out], meanwhile=vanish)
    assert done.returncode == 1 and f"no such file: {songs / '1.wav'}" in done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["0", "2"] and "Traceback" not in done.stderr


@pytest.mark.parametrize("form", ["wav", "flac", "mp3", "ogg"])
def test_a_song_that_grows_while_it_is_read(tmp_path: Path, form: str, checkpoint_path: Path) -> None:
    path, out = make_song(tmp_path / f"song.{form}", 30.0), tmp_path / "out"
    more = path.read_bytes()

    def grow(done: float, total: float) -> None:
        with path.open("ab") as file:
            file.write(more)

    with pytest.raises(ValueError, match=rf"song\.{form}"):
        Separator(checkpoint_path).separate_file(path, out, progress=grow)
    assert not out.exists()


def test_a_track_that_grows_while_it_is_prepared(
    kitchen: Kitchen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from svs_unet_plugin.corpora.musdb import Track

    source = Path(shutil.copytree(kitchen.corpus, tmp_path / "corpus"))
    grown = next(iter(source.glob("test/*")))
    open_track = Track.open

    def grow(track: Track) -> object:
        opened = open_track(track)
        if track.path == grown:
            with (grown / "vocals.wav").open("ab") as file:
                file.write(bytes(1000))
        return opened

    with monkeypatch.context() as patch:
        patch.setattr(Track, "open", grow)
        found = prepare(source, tmp_path / "out", jobs=1)
    assert found.skipped == {f"test/{grown.name}": f"{grown} was changed while it was read"}
    assert not found.test and len(found.train + found.valid) == 5
    found = prepare(source, tmp_path / "out", jobs=1)  # it is read anew
    assert f"test/{grown.name}" in found.skipped or len(found.test) == 1


CLOCK = """
import time
now = time.time
time.time = lambda: now() - 3e8
time.time_ns = lambda: int(time.time() * 1e9)
"""
"""For Python alone: the kernel's clock, and with it the times of files, is for nobody to change."""


@pytest.mark.parametrize(
    "name, moment", [("prepare", "t*/*"), ("train-nussl", "checkpoints/latest.state.pth")]
)
def test_a_clock_that_is_set_back(kitchen: Kitchen, tmp_path: Path, name: str, moment: str) -> None:
    """By years, after a kill; the files of the first run are from the future then."""
    operation, expected = kitchen.operation(name), kitchen.undisturbed(name)
    operation.begin_anew()
    assert kill_when(lambda: bool(list(operation.out.glob(moment))), operation.command)
    for path in operation.out.rglob("*"):
        os.utime(path, (3e9, 3e9))
    done = run(operation.command, environment=patched(tmp_path / "clock", CLOCK))
    assert done.returncode == 0, done.stderr
    check(operation, operation.read(operation.out), expected)


@pytest.mark.parametrize("name", ["separate", "prepare", "train-nussl", "ray"])
def test_two_runs_on_one_folder_at_once(kitchen: Kitchen, name: str) -> None:
    """One of them does the work, or both; whoever does not says why."""
    operation, expected = kitchen.operation(name), kitchen.undisturbed(name)
    operation.begin_anew()
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(run, 2 * [operation.command]))
    assert 0 in [done.returncode for done in ended], [done.stderr for done in ended]
    for done in ended:
        assert done.returncode == 0 or "is in use by another run: wait" in sentence(done)
    if name != "separate":  # where each song is for whoever is the first
        assert [done.returncode for done in ended].count(0) == 1
    check(operation, operation.read(operation.out), expected)
    assert not leftovers(operation.out)
