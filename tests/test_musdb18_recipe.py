"""recipes/musdb18/nussl from its command line, with trainings of a few steps."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import museval
import pytest
import torch

from svs_unet_plugin import Separator, checkpoint
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus

RECIPE = Path(__file__).parent.parent / "recipes" / "musdb18" / "nussl"
SHORT = (
    "--epochs",
    "2",
    "--epoch_steps",
    "2",
    "--batch_size",
    "2",
    "--excerpt_frames",
    "64",
    "--channels",
    "4",
)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A copy, since a recipe works in its own folder."""
    ignored = shutil.ignore_patterns("data", "exp", "__pycache__")
    return Path(shutil.copytree(RECIPE, tmp_path / "nussl", ignore=ignored))


def command(recipe: Path, *options: object) -> list[str]:
    return [str(recipe / "run.sh"), "--python_path", sys.executable, *map(str, options)]


def run(recipe: Path, *options: object) -> str:
    done = subprocess.run(command(recipe, *options), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def weights(exp: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(exp / "best_model.pth").network.state_dict()


def test_from_stem_files_to_scores(recipe: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "MUSDB18"
    make_corpus(corpus, 4, seconds=4.0, seed=0, stems=True)
    (corpus / "test" / "half.stem.mp4").write_bytes(next(corpus.glob("test/*")).read_bytes()[:50_000])
    options = ("--data", "musdb18", "--source", corpus, "--jobs", "1", *SHORT)
    said = run(recipe, "--tag", "whole", "--stop_stage", "4", *options)
    assert "4 tracks, 0.3 minutes: 3 to train, 1 to test on" in said
    assert "| vocals | " in said and "ALARM: unet does nothing" in said  # after four steps
    assert "These tracks could not be used, and are in no number above:\ntest/half: " in said
    exp = recipe / "exp" / "train_unet_whole"
    assert {path.name for path in exp.iterdir()} >= {
        "run_uuid.txt", "conf.yml", "versions.txt", "best_model.pth", "train.log", "eval.log", "loss.png",
    }  # fmt: skip
    assert "epochs: 2\n" in (exp / "conf.yml").read_text()
    store = museval.EvalStore()
    store.add_eval_dir(exp / "results" / "unet")
    assert set(store.df.target) == {"vocals", "accompaniment"} and store.df.track.nunique() == 1
    assert len((exp / "results" / "unet" / "losses.csv").read_text().splitlines()) == 3


def test_killed_in_each_stage(recipe: Path, tmp_path: Path) -> None:
    """What a run leaves that was killed five times, in stages 0 to 4, is that of an undisturbed one."""
    undisturbed = Path(shutil.copytree(recipe, tmp_path / "undisturbed"))
    corpus = ("--demo_tracks", 6, "--demo_seconds", 13, "--demo_rate", 8192, "--mixtures", 2)
    options = ("--tag", "some", "--stop_stage", "4", "--jobs", 1, *corpus, *SHORT)
    run(undisturbed, *options)

    exp = recipe / "exp" / "train_unet_some"
    begun = (
        "data/demo_*/train/*/mixture.wav",
        "data/prepared/*/train/*/mixture.wav",
        "exp/*/mixtures/*.jams",
        "exp/*/checkpoints/latest.state.pth",
        "exp/*/results/unet/losses.csv",
    )
    for stage, sign in enumerate(begun):
        process = subprocess.Popen(
            command(recipe, "--stage", max(stage - 1, 0), *options),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not list(recipe.glob(sign)):
            assert process.poll() is None, f"it was over before there was {sign}"
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not list(exp.glob("results/unet/test/*.json"))
    run(recipe, "--stage", 4, *options)
    expected, found = weights(undisturbed / "exp" / "train_unet_some"), weights(exp)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    scores = [
        {path.name: path.read_bytes() for path in folder.glob("exp/train_unet_some/results/unet/*/*.json")}
        for folder in (undisturbed, recipe)
    ]
    assert scores[0] == scores[1] and len(scores[0]) > 0


def test_four_stems_of_a_real_track_by_scaper(recipe: Path, tmp_path: Path, song_path: Path) -> None:
    corpus = tmp_path / "MUSDB18"
    for subset, name in (("train", "A - B"), ("train", "C - D"), ("test", "E - F")):
        (corpus / subset).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(song_path, corpus / subset / f"{name}.stem.mp4")
    conf = recipe / "local" / "short.yml"
    text = (recipe / "local" / "conf.yml").read_text()
    conf.write_text(text.replace("seconds: 12.0", "seconds: 3.0"))
    stems = "vocals,drums,bass,other"
    options = ("--sources", stems, "--mixing", "scaper", "--mixtures", 3, "--conf", conf, "--jobs", 1)
    said = run(recipe, "--data", "musdb18", "--source", corpus, "--stop_stage", "4", *options, *SHORT)
    (exp,) = (recipe / "exp").iterdir()  # named by the options
    assert f"exp/{exp.name}" in said and len(exp.name.rpartition("_")[2]) == 8
    assert Separator(exp / "best_model.pth").sources == ("vocals", "bass", "drums", "other", "accompaniment")
    (path,) = exp.glob("results/unet/test/*.json")
    targets = [target["name"] for target in json.loads(path.read_text())["targets"]]
    assert sorted(targets) == ["accompaniment", "bass", "drums", "other", "vocals"]
    assert len(list((exp / "mixtures").glob("*.jams"))) == 3


@pytest.mark.parametrize(
    "options, code, words",
    [
        (["--help"], 0, "--data KIND"),
        (["--learning_speed", "1"], 1, "no option --learning_speed"),
        (["--data", "musdb"], 1, "--data must be"),
        (["--data", "musdb18"], 1, "needs --source"),
        (["--data", "musdb18", "--source", "nowhere"], 2, "nowhere holds no tracks"),
        (["--stage", "3"], 1, "is no folder of prepared tracks"),
    ],
)
def test_wrong_options(recipe: Path, options: list[str], code: int, words: str) -> None:
    done = subprocess.run(command(recipe, *options), capture_output=True, text=True)
    assert done.returncode == code and words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_configurations(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(recipe))
    import train

    for sources in ("drums,bass", "vocals,guitar", "vocals,vocals"):
        with pytest.raises(ValueError, match="sources must be vocals"):
            train.sources_of({"sources": sources})
    with pytest.raises(ValueError, match="mixing must be remix, scaper or on_the_fly, got 'none'"):
        train.training_data({"mixing": "none", "scaper": {}}, (), None, None, Path(), None)  # type: ignore[arg-type]
