"""Links in folders of results lead nobody to write, empty or remove what is elsewhere."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from svs_unet_plugin import STFT, UNet, files
from svs_unet_plugin.cli import main
from svs_unet_plugin.corpora.musdb import STREAMS
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.page.songs import Songs
from svs_unet_plugin.training.history import Losses, plot_losses, write_losses

KEPT = b"of somebody else"


@pytest.fixture
def link(tmp_path: Path) -> Callable[[Path], Path]:
    """Makes a link to a file, or a folder with two, that nobody may touch; in the end it is looked at."""
    victims = tmp_path / "elsewhere"
    victims.mkdir()

    def make(path: Path, folder: bool = False) -> Path:
        victim = victims / f"{len(list(victims.iterdir()))}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if folder:
            victim.mkdir()
            (victim / "vocals.wav").write_bytes(KEPT)
            (victim / ".a.part").write_bytes(KEPT)
        else:
            victim.write_bytes(KEPT)
        path.symlink_to(victim)
        return path

    yield make
    found = [path for path in victims.rglob("*") if path.is_file()]
    assert all(path.read_bytes() == KEPT for path in found)
    assert all(len(list(path.iterdir())) == 2 for path in victims.iterdir() if path.is_dir())


Link = Callable[..., Path]


@pytest.mark.parametrize("form", ["wav", "flac", "mp3", "m4a"])
def test_stems(link: Link, tmp_path: Path, checkpoint_path: Path, form: str) -> None:
    soundfile.write(tmp_path / "song.wav", np.random.default_rng(0).uniform(-0.3, 0.3, 4000), 22_050)
    stems = [link(tmp_path / "out" / "song" / f"{name}.{form}") for name in ("vocals", "accompaniment")]
    command = ["separate", str(tmp_path / "song.wav"), "-o", str(tmp_path / "out"), "--format", form]
    command += ["-w", str(checkpoint_path)]
    assert main(command) == 2  # they are there
    assert main([*command, "--overwrite"]) == 0
    assert not [path for path in stems if path.is_symlink() or path.stat().st_size < 100]


def test_stems_where_links_lead_nowhere(link: Link, tmp_path: Path, checkpoint_path: Path) -> None:
    soundfile.write(tmp_path / "song.wav", np.random.default_rng(0).uniform(-0.3, 0.3, 4000), 22_050)
    (tmp_path / "out" / "song").mkdir(parents=True)
    (tmp_path / "out" / "song" / "vocals.wav").symlink_to(tmp_path / "elsewhere" / "new")
    command = [
        "separate",
        str(tmp_path / "song.wav"),
        "-o",
        str(tmp_path / "out"),
        "-w",
        str(checkpoint_path),
    ]
    assert main(command) == 0
    assert not (tmp_path / "elsewhere" / "new").exists()


def test_corpora(link: Link, tmp_path: Path) -> None:
    """Songs that are made, and tracks that are prepared: the folder's own files and those of a track."""
    made, out = tmp_path / "made", tmp_path / "prepared"
    (track,) = make_corpus(tmp_path / "known", 1, 1.0, 0)
    names = ["README.txt", "setup.yaml", f"{track.parent.name}/{track.name}/vocals.wav"]
    assert main(["data", "demo", str(made), "--tracks", "1", "--seconds", "1"]) == 0
    for name in names:
        (made / name).unlink()
        link(made / name)
    (made / files.LOCK_FILE).unlink()
    link(made / files.LOCK_FILE)
    link(made / ".left.part", folder=True)
    (made / names[2]).unlink()  # a stem that is missing, whose track is made again
    link(made / f"{track.parent.name}/Synthetic - left", folder=True)
    assert main(["data", "demo", str(made), "--tracks", "1", "--seconds", "1"]) == 0
    assert not [path for path in (*names, files.LOCK_FILE) if (made / path).is_symlink()]
    assert not (made / ".left.part").is_symlink()

    assert main(["data", "prepare", str(tmp_path / "known"), str(out), "--jobs", "1"]) == 0
    prepared = out / track.parent.name / track.name
    for stream in STREAMS:
        (prepared / f"{stream}.wav").unlink()
    prepared.rmdir()
    link(prepared, folder=True)
    (out / "prepared.json").unlink()
    link(out / "prepared.json")
    assert main(["data", "prepare", str(tmp_path / "known"), str(out), "--jobs", "1"]) == 0
    assert not prepared.is_symlink() and not (out / "prepared.json").is_symlink()
    assert {path.name for path in prepared.iterdir()} == {f"{stream}.wav" for stream in STREAMS}


def test_checkpoints_and_losses(link: Link, network: UNet, checkpoint_path: Path, tmp_path: Path) -> None:
    """What both hosts' training writes, and the conversion of checkpoints."""
    svs = pytest.importorskip("svs_unet_plugin.nussl")
    training = pytest.importorskip("svs_unet_plugin.asteroid.training")
    losses = Losses([-1.0], [-1.0])
    write: dict[str, Callable[[Path], object]] = {
        "model.pth": lambda path: svs.save(svs.from_network(network), path, stft=STFT()),
        "last.ckpt": lambda path: training.WholeFiles().save_checkpoint({"epoch": 1}, path),
        "losses.csv": lambda path: write_losses(path, losses),
        "loss.png": lambda path: plot_losses(path, losses, "loss"),
        "settings.json": lambda path: files.write_json(path, {}),
        "copy": lambda path: files.copy(checkpoint_path, path),
        "asteroid.pth": lambda path: main(["convert", str(checkpoint_path), str(path)]),
    }
    for name, make in write.items():
        path = link(tmp_path / "run" / name)
        make(path)
        assert not path.is_symlink() and path.read_bytes() != KEPT, name


def test_a_folder_that_takes_the_place_of_a_link(link: Link, tmp_path: Path) -> None:
    path = link(tmp_path / "out", folder=True)
    with files.atomic_write(path) as beside:
        beside.mkdir()
        (beside / "new").touch()
    assert [item.name for item in path.iterdir()] == ["new"] and not path.is_symlink()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["elsewhere", "out"]


def test_what_pages_leave(link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder for temporary files is everybody's."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = link(tmp_path / "svs-unet-page-a", folder=True)
    os.utime(path, (0, 0))
    Songs().close()
    assert path.is_symlink()
