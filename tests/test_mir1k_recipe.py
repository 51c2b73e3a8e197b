import csv
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

RECIPE = Path(__file__).parents[1] / "recipes" / "mir1k" / "nussl"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe after its stages on clips of noise, with a network that is soon trained."""
    folder = tmp_path_factory.mktemp("recipe")
    shutil.copytree(RECIPE, folder / "nussl", ignore=shutil.ignore_patterns("data", "exp"))
    clips = folder / "clips"
    clips.mkdir()
    names = ("abjones_1_01", "amy_2_01", "amy_9_01", "stool_1_01", "stool_1_02", "annar_3_01")
    for number, name in enumerate(names):
        noise = np.random.default_rng(number).standard_normal((2, 16_000 * 4))
        low, high = np.fft.rfft(noise)
        low[4000:], high[:4000], high[15_000:] = 0, 0, 0
        soundfile.write(clips / f"{name}.wav", np.fft.irfft([low, high]).T / 10, 16_000)
    conf = yaml.safe_load((RECIPE / "local" / "conf.yml").read_text())
    conf.update(network={"channels": 2}, excerpt_frames=70, made_up_songs=1)
    conf["training"].update(epochs=2, epoch_steps=2, batch_size=2)
    (folder / "tiny.yml").write_text(yaml.safe_dump(conf))
    command = [
        "./run.sh",
        "--data_dir",
        clips,
        "--preset",
        folder / "tiny.yml",
        "--clips",
        "1",
        "--jobs",
        "1",
        "--every_clip",
        "true",
    ]
    command += ["--python_path", sys.executable]
    ended = subprocess.run(command, cwd=folder / "nussl", capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "| train_tiny_default |" in ended.stdout
    return folder / "nussl"


def test_stages_leave_a_table_and_scores(recipe: Path) -> None:
    table = (recipe / "exp" / "scores_default.md").read_text()
    assert table.startswith("2 clips, GNSDR") and "| ideal ratio mask, hop 256 |" in table
    with (recipe / "exp" / "train_tiny_default" / "test_scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["clip"] for row in rows} == {"stool_1_01", "annar_3_01"}
    ideal = [float(row["nsdr"]) for row in rows if row["system"].startswith("ideal")]
    # The sources hardly overlap, and lie below 4 kHz.
    assert len(ideal) == 4 and min(ideal) > 10


def test_what_was_trained_is_told(recipe: Path) -> None:
    conf = yaml.safe_load((recipe / "exp" / "train_tiny_default" / "conf.yml").read_text())
    assert conf["every_clip"] is True and conf["network"] == {"channels": 2}


def test_publishes_what_opens_by_name(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from svs_unet_plugin import checkpoint

    trained = recipe / "exp" / "train_tiny_default" / "checkpoints" / "best.model.pth"
    command = [sys.executable, recipe / "publish.py", trained, "tiny", "--to", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.setattr(checkpoint, "PRETRAINED", tmp_path)
    published, original = checkpoint.read("tiny"), checkpoint.read(trained)
    assert published.stft == original.stft
    for one, other in zip(published.network.parameters(), original.network.parameters(), strict=True):
        np.testing.assert_allclose(one.detach(), other.detach(), rtol=1e-3, atol=1e-4)
    # No folder of the machine it was trained on is in it.
    assert str(recipe).encode() not in (tmp_path / "tiny.pth").read_bytes()


def test_wrong_options(recipe: Path) -> None:
    ended = subprocess.run(["./run.sh", "--presett", "conf"], cwd=recipe, capture_output=True, text=True)
    assert ended.returncode == 1 and "no option --presett" in ended.stderr
