"""The recipes from their command lines, with trainings of a few steps."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import museval
import numpy as np
import pytest
import soundfile
import torch
import yaml
from killing import kill_when

import svs_unet_plugin.nussl as svs
from svs_unet_plugin import Separator, checkpoint
from svs_unet_plugin.corpora.prepare import prepare
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.stft import STFT
from svs_unet_plugin.unet import as_stereo

RECIPES = Path(__file__).parents[1] / "recipes"
RUN = {
    "musdb18/nussl": "musdb18/nussl/run.sh",
    "musdb18/asteroid": "musdb18/asteroid/run.sh",
    "mir1k/nussl": "mir1k/nussl/run.sh",
    "demo": "demo/run.sh",
}
SHORT = ("--epochs", 2, "--epoch_steps", 2, "--batch_size", 2, "--excerpt_frames", 66, "--channels", 4)


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """A copy, since a recipe works in its own folder."""
    ignored = shutil.ignore_patterns("data", "exp", "__pycache__")
    return Path(shutil.copytree(RECIPES, tmp_path / "repository" / "recipes", ignore=ignored))


def command(recipe: Path, *options: object) -> list[str]:
    return [str(recipe / "run.sh"), "--python_path", sys.executable, *map(str, options)]


def run(recipe: Path, *options: object, cwd: Path | None = None) -> str:
    done = subprocess.run(command(recipe, *options), cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def weights(exp: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(exp / "best_model.pth").network.state_dict()


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        ([], 0, "0 a b||"),
        (["--stage", "2", "--some-name", "x y"], 0, "2 x y||"),
        (["--epochs", "3", "--scaper.mixtures", "4"], 0, "0 a b|--epochs 3 --scaper.mixtures 4|"),
        (["--conf", "own.yml", "--source", "songs"], 0, "0 a b||/songs"),
        (["--stage=2"], 2, "options are given as '--name value', not as '--stage=2'"),
        (["--stage"], 2, "--stage needs a value"),
        (["--stage", "abc"], 2, "--stage must be a number from 0 to 4, got 'abc'"),
        (["--stop_stage", "9"], 2, "--stop_stage must be a number from 0 to 4, got '9'"),
        (["--stage", "4"], 2, "--stage 4 comes after --stop_stage 3: there is nothing to do"),
        (["-stage", "3"], 2, "unexpected argument '-stage'"),
        (["extra"], 2, "unexpected argument 'extra'"),
        (["--python_path", "/nowhere/python"], 2, "'make venv' at the top of the repository makes one"),
        (["--help"], 0, "such as --epochs 10; `python train.py --help` lists them."),
    ],
)
def test_options(arguments: list[str], code: int, said: str) -> None:
    script = (
        "cd /; some_name='a b' own_options=(some_name) stop_stage=3 last_stage=4;"
        "recipe_help='Usage: so and so';"
        f'. {RECIPES}/options.sh; echo "$stage $some_name|${{overrides[*]}}|$source"'
    )
    given = ["bash", "-ec", script, "run.sh", "--python_path", sys.executable, *arguments]
    others = {"epochs": "1", "source": "elsewhere"}  # other programs' variables mean nothing
    done = subprocess.run(given, capture_output=True, text=True, cwd="/", env={**os.environ, **others})
    assert done.returncode == code, done.stderr
    assert said in (done.stderr if code else done.stdout).replace("//", "/")


@pytest.mark.parametrize(
    "environment, arguments, seen",
    [({}, [], "None"), ({"CUDA_VISIBLE_DEVICES": "1"}, [], "1"), ({}, ["--id", "0,2"], "0,2")],
)
def test_scripts_see_all_gpus_or_those_that_were_named(
    environment: dict[str, str], arguments: list[str], seen: str
) -> None:
    script = (
        "own_options=() stop_stage=3 last_stage=4;"
        f". {RECIPES}/options.sh; script -c 'import os; print(os.environ.get(\"CUDA_VISIBLE_DEVICES\"))'"
    )
    others = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    given = ["bash", "-ec", script, "run.sh", "--python_path", sys.executable, *arguments]
    done = subprocess.run(given, capture_output=True, text=True, env={**others, **environment}, check=True)
    assert done.stdout.strip() == seen


def everything(recipes: Path) -> list[Path]:
    return sorted(path for path in recipes.parent.rglob("*") if "__pycache__" not in path.parts)


@pytest.mark.parametrize("recipe", RUN)
@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--stage", "9"], "--stage must be a number from 0 to "),
        (["--learning_speed", "1"], "unrecognized arguments: --learning_speed 1"),
        (["--batch_size", "many"], 'Parser key "batch_size"'),
    ],
)
def test_every_recipe_refuses_what_it_does_not_know_and_leaves_no_folder(
    recipes: Path, recipe: str, arguments: list[str], said: str
) -> None:
    before = everything(recipes)
    done = subprocess.run(command(recipes / recipe, *arguments), capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert everything(recipes) == before


@pytest.mark.parametrize("recipe", RUN)
def test_the_first_line_says_what_is_done_and_paths_are_the_callers(recipes: Path, recipe: str) -> None:
    python = recipes.parent / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    before = everything(recipes)
    options = ["--python_path", "./python", "--stage", "3", "--stop_stage", "3"]
    given = [recipes / recipe / "run.sh", *options]
    done = subprocess.run(given, capture_output=True, text=True, cwd=recipes.parent)
    first = done.stdout.splitlines()[0]
    assert first.startswith("A U-Net for ") and "stages 3 to 3. From nothing, this takes " in first
    assert done.returncode == 1 and "Traceback" not in done.stderr  # there is nothing to be scored
    assert everything(recipes) == before


@pytest.mark.parametrize("recipe", ["musdb18/nussl", "musdb18/asteroid"])
@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["--help"], 0, "--data KIND"),
        (["--data", "musdb"], 2, "--data must be demo, musdb7s, musdb18 or musdb18hq, not 'musdb'"),
        (["--data", "musdb18"], 2, "--data musdb18 needs --source DIR"),
        (["--data", "musdb18", "--source", "nowhere"], 2, "nowhere holds no tracks"),
        (["--stage", "2"], 1, "is no folder of prepared tracks"),
    ],
)
def test_wrong_data(recipes: Path, recipe: str, arguments: list[str], code: int, said: str) -> None:
    before = everything(recipes)
    done = subprocess.run(command(recipes / recipe, *arguments), capture_output=True, text=True)
    assert done.returncode == code and said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr and everything(recipes) == before


def test_from_stem_files_to_scores(recipes: Path, tmp_path: Path) -> None:
    recipe, corpus = recipes / "musdb18" / "nussl", tmp_path / "MUSDB18"
    make_corpus(corpus, 4, seconds=4.0, seed=0, stems=True)
    (corpus / "test" / "half.stem.mp4").write_bytes(next(corpus.glob("test/*")).read_bytes()[:50_000])
    options = ("--data", "musdb18", "--source", "MUSDB18", "--jobs", 1, *SHORT)  # relative to the caller
    said = run(recipe, "--tag", "whole", "--stop_stage", 3, *options, cwd=tmp_path)
    assert "4 tracks, 0.3 minutes: 3 to train, 1 to test on" in said
    assert "skipped: test/half" in said.replace("skipped: half", "skipped: test/half")
    assert "| vocals | " in said and "ALARM: unet does nothing" in said  # after four steps
    exp = recipe / "exp" / "train_unet_whole"
    assert {path.name for path in exp.iterdir()} >= {
        "conf.yml", "data.yml", "versions.txt", "best_model.pth", "train.log", "eval.log", "loss.png",
        "losses.csv",
    }  # fmt: skip
    assert "epochs: 2\n" in (exp / "conf.yml").read_text()
    store = museval.EvalStore()
    store.add_eval_dir(exp / "results" / "unet")
    assert set(store.df.target) == {"vocals", "accompaniment"} and store.df.track.nunique() == 1
    assert len((exp / "losses.csv").read_text().splitlines()) == 3

    # The same tag with other songs, or another seed, is refused.
    other = tmp_path / "other" / "MUSDB18"
    make_corpus(other, 4, seconds=4.0, seed=1)
    for changed, words in (
        (("--source", other, "--stop_stage", 2), "data_dir was"),
        (("--source", corpus, "--stop_stage", 2, "--stage", 2, "--seed", 9), "seed was 0 and is now 9"),
    ):
        given = command(recipe, "--tag", "whole", "--data", "musdb18", "--jobs", 1, *SHORT, *changed)
        done = subprocess.run(given, capture_output=True, text=True)
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr


def test_killed_in_each_stage(recipes: Path, tmp_path: Path) -> None:
    """What a run leaves that was killed in each of its stages is that of an undisturbed one."""
    undisturbed = Path(shutil.copytree(recipes, tmp_path / "undisturbed" / "recipes")) / "musdb18" / "nussl"
    recipe = recipes / "musdb18" / "nussl"
    corpus = ("--demo_tracks", 6, "--demo_seconds", 13, "--demo_rate", 8192, "--scaper.mixtures", 2)
    options = ("--tag", "some", "--stop_stage", 3, "--jobs", 1, *corpus, *SHORT)
    run(undisturbed, *options)

    exp = recipe / "exp" / "train_unet_some"
    for stage, begun in (
        (0, "data/demo_*/train/*/mixture.wav"),
        (0, "data/prepared/*/train/*/mixture.wav"),
        (1, "exp/*/mixtures/*.jams"),
        (1, "exp/*/checkpoints/latest.state.pth"),
        (2, "exp/*/results/unet/system.json"),
    ):
        assert kill_when(
            lambda begun=begun: bool(list(recipe.glob(begun))),  # type: ignore[misc]
            command(recipe, "--stage", stage, *options),
        ), f"it was over before there was {begun}"
    assert not list(exp.glob("results/unet/test/*.json"))
    run(recipe, "--stage", 3, *options)
    expected, found = weights(undisturbed / "exp" / "train_unet_some"), weights(exp)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    scores = [
        {path.name: path.read_bytes() for path in folder.glob("exp/train_unet_some/results/unet/*/*.json")}
        for folder in (undisturbed, recipe)
    ]
    assert scores[0] == scores[1] and len(scores[0]) > 0


def test_four_stems_of_a_real_track_by_scaper(recipes: Path, tmp_path: Path, song_path: Path) -> None:
    recipe, corpus = recipes / "musdb18" / "nussl", tmp_path / "MUSDB18"
    for subset, name in (("train", "A - B"), ("train", "C - D"), ("test", "E - F")):
        (corpus / subset).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(song_path, corpus / subset / f"{name}.stem.mp4")
    stems = "vocals,drums,bass,other"
    options = ("--sources", stems, "--mixing", "scaper", "--scaper.mixtures", 3, "--scaper.seconds", 6.0)
    options += (*SHORT, "--excerpt_frames", 32)
    said = run(recipe, "--data", "musdb18", "--source", corpus, "--jobs", 1, "--stop_stage", 3, *options)
    (exp,) = (recipe / "exp").iterdir()  # named by the options
    assert f"exp/{exp.name}" in said and len(exp.name.rpartition("_")[2]) == 8
    assert Separator(exp / "best_model.pth").sources == ("vocals", "bass", "drums", "other", "accompaniment")
    (path,) = exp.glob("results/unet/test/*.json")
    targets = [target["name"] for target in json.loads(path.read_text())["targets"]]
    assert sorted(targets) == ["accompaniment", "bass", "drums", "other", "vocals"]
    assert len(list((exp / "mixtures").glob("*.jams"))) == 3


def test_what_is_trained_on_must_be_there(recipes: Path, tmp_path: Path) -> None:
    recipe = recipes / "musdb18" / "nussl"
    script = [sys.executable, str(recipe / "train.py"), "--exp_dir", str(tmp_path / "exp")]
    script += ["--data_dir", str(tmp_path / "prepared")]
    for options, words in (
        (["--mixing", "none"], "mixing"),
        (["--sources", "vocals,guitar"], "sources must be among"),
    ):
        done = subprocess.run([*script, *options], capture_output=True, text=True)
        assert done.returncode in (1, 2) and words in done.stderr and "Traceback" not in done.stderr


def test_asteroid_from_songs_to_scores(recipes: Path) -> None:
    recipe = recipes / "musdb18" / "asteroid"
    corpus = ("--demo_tracks", 4, "--demo_seconds", 8, "--demo_rate", 8192)
    options = (
        "--tag",
        "some",
        "--jobs",
        1,
        *corpus,
        *SHORT,
        "--accelerator",
        "cpu",
        "--sources",
        "vocals,drums",
    )
    said = run(recipe, *options)
    exp = recipe / "exp" / "train_svsunet_some"
    assert {path.name for path in exp.iterdir()} >= {
        "conf.yml", "data.yml", "versions.txt", "best_model.pth", "train.log", "eval.log", "loss.png",
        "losses.csv", "best_k_models.json", "final_metrics.json", "publish_dir",
    }  # fmt: skip
    assert Separator(exp / "best_model.pth").estimated == ("vocals", "drums")
    assert "vocals" in said and "\nALARM: svsunet " in said and (exp / "publish_dir" / "model.pth").is_file()
    assert len((exp / "losses.csv").read_text().splitlines()) == 3
    before = (exp / "losses.csv").read_text()
    # Epochs may grow, and other devices may do the rest.
    run(recipe, *options, "--epochs", 3, "--stage", 2, "--stop_stage", 2, "--devices", 1)
    after = (exp / "losses.csv").read_text()
    assert after.startswith(before) and len(after.splitlines()) == 4


@pytest.fixture(scope="module")
def mir1k(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The MIR-1K recipe after its stages on clips of noise, and what it printed."""
    folder = tmp_path_factory.mktemp("mir1k")
    ignored = shutil.ignore_patterns("data", "exp", "__pycache__")
    recipe = Path(shutil.copytree(RECIPES, folder / "recipes", ignore=ignored)) / "mir1k" / "nussl"
    clips = folder / "clips"
    clips.mkdir()
    names = ("abjones_1_01", "amy_2_01", "amy_9_01", "stool_1_01", "stool_1_02", "annar_3_01")
    for seed, name in enumerate(names):
        noise = np.random.default_rng(seed).standard_normal((2, 16_000 * 4))
        low, high = np.fft.rfft(noise)
        low[4000:], high[:4000], high[15_000:] = 0, 0, 0
        soundfile.write(clips / f"{name}.wav", np.fft.irfft([low, high]).T / 10, 16_000)
    options = ("--channels", 2, "--residual_blocks", 0, "--excerpt_frames", 70, "--synthetic_songs", 1)
    options += ("--epochs", 2, "--epoch_steps", 2, "--batch_size", 2, "--stretched", 1)
    said = run(recipe, "--source", clips, "--tracks", 1, "--jobs", 1, "--tag", "some", *options)
    return recipe, said


def test_mir1k_leaves_a_table_and_scores(mir1k: tuple[Path, str]) -> None:
    recipe, said = mir1k
    exp = recipe / "exp" / "train_conf_some"
    table = (exp / "scores.md").read_text()
    assert table in said
    assert table.startswith("2 clips, GNSDR") and "| Ideal ratio mask, 8192 Hz, hop 256 |" in table
    with (exp / "test_scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["clip"] for row in rows} == {"stool_1_01", "annar_3_01"}
    ideal = [float(row["nsdr"]) for row in rows if row["system"].lower().startswith("ideal")]
    # The sources hardly overlap, and lie below 4 kHz.
    assert len(ideal) == 4 and min(ideal) > 10
    assert yaml.safe_load((exp / "conf.yml").read_text())["synthetic_songs"] == 1


def test_mir1k_does_not_score_weights_that_were_trained_on_the_test_singers(mir1k: tuple[Path, str]) -> None:
    recipe, _ = mir1k
    exp = Path(shutil.copytree(recipe / "exp" / "train_conf_some", recipe / "exp" / "every"))
    (exp / "scores.md").unlink()
    conf = (exp / "conf.yml").read_text()
    (exp / "conf.yml").write_text(conf.replace("every_clip: false", "every_clip: true"))
    script = [sys.executable, recipe / "eval.py", "--exp_dir", exp, "--data_dir", recipe / "data" / "mir1k"]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0 and "trained on the test singers" in done.stdout
    assert "|" not in done.stdout


def test_mir1k_goes_on_in_stereo_with_songs_and_voices(mir1k: tuple[Path, str], tmp_path: Path) -> None:
    """From the weights that it has trained; how often each kind is drawn is part of what was trained on."""
    recipe, _ = mir1k
    trained = recipe / "exp" / "train_conf_some" / "checkpoints" / "best.model.pth"
    make_corpus(tmp_path / "corpus", 3, 2.0, 0, sample_rate=8192)
    prepare(tmp_path / "corpus", tmp_path / "songs", jobs=1)
    (tmp_path / "voices").mkdir()
    soundfile.write(tmp_path / "voices" / "one.flac", np.full(16_000, 0.1), 16_000)
    script = [sys.executable, recipe / "train.py", "--conf", recipe / "local" / "songs.yml"]
    script += ["--weights", trained, "--in_channels", "2", "--channels", "2", "--residual_blocks", "0"]
    script += ["--synthetic_songs", "0"]
    shutil.copytree(tmp_path / "voices", tmp_path / "bands")
    script += ["--songs", tmp_path / "songs", "--voices", tmp_path / "voices"]
    script += ["--accompaniments", tmp_path / "bands"]
    script += ["--epochs", "1", "--epoch_steps", "2", "--data_dir", recipe / "data" / "mir1k"]
    subprocess.run([*script, "--exp_dir", tmp_path / "exp"], check=True, capture_output=True)
    best = checkpoint.read(tmp_path / "exp" / "checkpoints" / "best.model.pth")
    assert best.network.in_channels == 2
    (tmp_path / "voices" / "one.flac").unlink()
    done = subprocess.run([*script, "--exp_dir", tmp_path / "other"], capture_output=True, text=True)
    assert done.returncode != 0 and "holds no audio files" in done.stderr


@pytest.mark.parametrize(
    "options, said",
    [
        (["--clips", "false"], "no song has accompaniment"),  # a voice is all that there is
        (["--clips", "false", "--every_clip", "true"], "need clips: true"),
    ],
)
def test_mir1k_without_its_clips(
    mir1k: tuple[Path, str], tmp_path: Path, options: list[str], said: str
) -> None:
    recipe, _ = mir1k
    soundfile.write(tmp_path / "one.flac", np.full(16_000, 0.1), 16_000)
    script = [sys.executable, recipe / "train.py", "--conf", recipe / "local" / "conf.yml"]
    script += ["--data_dir", recipe / "data" / "mir1k", "--exp_dir", tmp_path / "exp"]
    script += ["--stretched", "0", "--voices", tmp_path, *options]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode != 0 and said in done.stderr


@pytest.mark.parametrize("host", ["nussl", "asteroid"])
def test_musdb18s_recipes_begin_with_weights(host: str, checkpoint_path: Path, tmp_path: Path) -> None:
    """Which hardly change at a rate of next to nothing."""
    make_corpus(tmp_path / "corpus", 3, 4.0, 0, sample_rate=8192)
    prepare(tmp_path / "corpus", tmp_path / "songs", jobs=1)
    script = [sys.executable, RECIPES / "musdb18" / host / "train.py", "--weights", checkpoint_path]
    script += ["--channels", "4", "--epochs", "1", "--epoch_steps", "1", "--batch_size", "2"]
    script += ["--excerpt_frames", "30", "--learning_rate", "1e-9", "--data_dir", tmp_path / "songs"]
    subprocess.run([*script, "--exp_dir", tmp_path / "exp"], check=True, capture_output=True)
    expected = dict(checkpoint.read(checkpoint_path).network.named_parameters())
    for name, weight in checkpoint.read(tmp_path / "exp" / "best_model.pth").network.named_parameters():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0)
    done = subprocess.run(
        [*script, "--exp_dir", tmp_path / "other", "--hop_length", "256"], capture_output=True, text=True
    )
    assert done.returncode != 0 and "hop_length was 768 and is now 256" in done.stderr
    assert not (tmp_path / "other").exists()


def test_publishes_what_opens_by_name(
    mir1k: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, _ = mir1k
    trained = recipe / "exp" / "train_conf_some" / "checkpoints" / "best.model.pth"
    script = [sys.executable, recipe / "publish.py", trained, "tiny", "--to", tmp_path]
    subprocess.run(script, check=True, capture_output=True)
    monkeypatch.setattr("svs_unet_plugin.weights.PRETRAINED", tmp_path)
    published, original = checkpoint.read("tiny"), checkpoint.read(trained)
    assert published.stft == original.stft
    assert published.network.in_channels == 2  # the masks of the mid channel on both
    for one, other in zip(
        published.network.parameters(), as_stereo(original.network).parameters(), strict=True
    ):
        np.testing.assert_allclose(one.detach(), other.detach(), rtol=1e-3, atol=1e-4)
    noise = np.random.default_rng(0).uniform(-1, 1, (2, 20_000)).astype(np.float32)
    by_torch, by_graph = (
        Separator("tiny", "cpu", engine=engine).separate(noise, 8192) for engine in ("torch", "onnxruntime")
    )
    np.testing.assert_allclose(by_graph["vocals"], by_torch["vocals"], atol=1e-5)
    # No folder of the machine it was trained on is in it.
    for suffix in (".pth", ".onnx"):
        assert str(recipe).encode() not in (tmp_path / f"tiny{suffix}").read_bytes()


def test_publishes_the_mean_of_two(mir1k: tuple[Path, str], tmp_path: Path) -> None:
    recipe, _ = mir1k
    checkpoints = recipe / "exp" / "train_conf_some" / "checkpoints"
    trained = [checkpoints / "best.model.pth", tmp_path / "other.pth"]
    other = checkpoint.read(trained[0])
    for parameter in other.network.parameters():
        parameter.data += 1.0
    svs.save(svs.from_network(other.network), trained[1], stft=other.stft)
    script = [sys.executable, recipe / "publish.py", *trained, "tiny", "--to", tmp_path]
    subprocess.run(script, check=True, capture_output=True)
    published, first = (checkpoint.read(path).network for path in (tmp_path / "tiny.pth", trained[0]))
    for one, another in zip(published.parameters(), as_stereo(first).parameters(), strict=True):
        assert torch.all((one - another >= -1e-3) & (one - another <= 0.51))
    assert torch.allclose(published.encoder[0][1].bias, first.encoder[0][1].bias + 0.5, atol=1e-3)

    svs.save(svs.from_network(other.network), trained[1], stft=STFT(hop_length=300))
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 2 and "their settings differ" in done.stderr


def test_publishes_the_weights_of_the_protocol(mir1k: tuple[Path, str]) -> None:
    """They are scored on whatever clips there are; these are noise."""
    recipe, _ = mir1k
    arguments = ("--stage", 2, "--published", "true", "--data_dir", recipe / "data" / "mir1k", "--tracks", 1)
    said = run(recipe, *arguments, "--jobs", 2, "--tag", "some")
    assert "Stage 2" not in said and "2 clips, GNSDR" in said and "| published_some, 4 views |" in said


def test_the_demo_refuses_what_it_cannot_do(recipes: Path) -> None:
    for options, words in (
        (("--steps", "50"), "--steps must be a multiple of 40, got '50'"),
        (("--song", "nothing.wav"), "there is no song"),
        (("--conf", "own.yml"), "the demo takes no --conf"),
        (("--channels", "4"), "without --steps the demo chooses --channels and --epochs itself"),
    ):
        done = subprocess.run(command(recipes / "demo", *options), capture_output=True, text=True)
        assert done.returncode == 2 and words in done.stderr
    assert not os.path.exists(recipes.parent / "exp" / "demo" / "corpus")
