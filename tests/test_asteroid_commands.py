"""asteroid's own commands, as ``svs-unet asteroid NAME``."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from svs_unet_plugin import STFT, UNet
from svs_unet_plugin.asteroid import SVSUNet, asteroid
from svs_unet_plugin.checkpoint import load_weights_only, numpy_globals
from svs_unet_plugin.cli import main

Says = Callable[..., str]


@pytest.fixture(scope="module")
def path(network: UNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of ours in a file."""
    path = tmp_path_factory.mktemp("asteroid") / "model.pth"
    torch.save(SVSUNet.from_network(network, STFT()).serialize(), path)
    return path


@pytest.fixture
def wav(tmp_path: Path, song: np.ndarray) -> Path:
    soundfile.write(tmp_path / "song.wav", song[0, :60_000], 44_100)
    return tmp_path / "song.wav"


@pytest.fixture
def says(capfd: pytest.CaptureFixture[str]) -> Says:
    """What a command says, and its status where that is not 0."""

    def run(*words: str | Path) -> str:
        try:
            status = main(["asteroid", *map(str, words)])
        except SystemExit as stop:
            status = int(stop.code or 0)
        said = "".join(capfd.readouterr())
        return f"{status}: {said}" if status else said

    return run


def as_asteroid_saves(model: Any, **changes: Any) -> dict[str, Any]:
    """With torch's version as an object of torch's own, which ``weights_only`` refuses."""
    content = type(model).serialize.__wrapped__(model)
    content["model_args"].pop("sample_rate", None)
    return {**content, **changes}


def small_model() -> Any:
    return asteroid.ConvTasNet(
        n_src=2, n_blocks=1, n_repeats=1, bn_chan=4, hid_chan=4, skip_chan=4, n_filters=16
    )


def test_versions_by_the_real_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "svs_unet_plugin.cli", "asteroid", "versions"], capture_output=True, text=True
    )
    words = done.stdout.split()
    assert done.returncode == 0 and words[:2] == ["Asteroid", asteroid.__version__]
    assert words[words.index("PyTorch") + 1] == torch.__version__


@pytest.mark.parametrize("name", ["infer", "register-sr", "upload"])  # versions takes none
def test_help_names_the_command(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from svs_unet_plugin.cli import main; main()", "asteroid", name, "-h"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(f"usage: svs-unet asteroid {name} "), done


@pytest.mark.parametrize(
    "flags", [["-r"], ["-r", "-w", "16384"], ["-r", "-w", "16384", "--ola-hop", "8192", "--ola-no-reorder"]]
)
def test_infer(path: Path, wav: Path, tmp_path: Path, flags: list[str]) -> None:
    out = tmp_path / "new" / "out"
    # The path of the model is no second file for --files, since -- arrives.
    command = ["asteroid", "infer", *flags, "-o", str(out), "-d", "cpu", "--files", str(wav), "--", str(path)]
    assert main(command) == 0
    written = soundfile.read(out / "song_est1.wav")[0]
    assert abs(len(written) - 60_000) < 44_100 / 8192 + 1 and written.std() > 1e-3
    before = (out / "song_est1.wav").stat().st_mtime_ns
    with pytest.warns(UserWarning, match="force_overwrite=True"):
        assert main(command) == 0
    assert (out / "song_est1.wav").stat().st_mtime_ns == before
    assert main([*command[:2], "-f", *command[2:]]) == 0
    assert (out / "song_est1.wav").stat().st_mtime_ns > before


def test_infer_says_what_is_wrong(path: Path, wav: Path, says: Says) -> None:
    arguments = list(sys.argv)
    assert "pass `resample=True`" in says("infer", path, "--files", wav)
    assert says("infer", path, "--files", wav, "--loud").endswith("unrecognized arguments: --loud\n")
    assert sys.argv == arguments


def test_a_rate_for_a_model_of_asteroids_own(says: Says, tmp_path: Path) -> None:
    """With the weights unchanged, and nothing else in the folder."""
    path, model = tmp_path / "model.pth", small_model()
    torch.save(as_asteroid_saves(model), path)
    assert says("register-sr", path, "8192") == ""
    loaded = asteroid.models.BaseModel.from_pretrained(path)
    assert loaded.sample_rate == 8192 and torch.equal(loaded(torch.ones(1, 800)), model(torch.ones(1, 800)))
    assert list(tmp_path.iterdir()) == [path]
    torch.save({"weights": torch.ones(1)}, path)
    assert says("register-sr", path, "8192").startswith("2: svs-unet: asteroid finds no 'model_args'")
    torch.save(as_asteroid_saves(model, infos=print), path)
    assert "was refused, and nothing in it was run" in says("register-sr", path, "8192")


def test_upload_goes_as_far_as_it_can_without_a_network(
    says: Says, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    licenses = [
        dict.fromkeys(("title", "title_link", "author", "author_link", "license", "license_link"), "x")
        | {"non_commercial": False}
    ]
    content = as_asteroid_saves(small_model(), dataset="songs", task="sep_vocals", licenses=licenses)
    asteroid.models.save_publishable(tmp_path, content, metrics={"si_sdr": np.float64(8.5)}, train_conf={})
    assert says("upload", tmp_path).endswith("Need uploader name\n")
    for name in ("ACCESS_TOKEN", "HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "Give --git_username" in says("upload", tmp_path, "--uploader", "someone")
    said = says("upload", tmp_path, "--uploader", "someone", "--git_username", "someone")
    assert said.startswith("2: svs-unet: Need an access token to Zenodo")
    allowed = [torch.torch_version.TorchVersion, *numpy_globals()]
    published = load_weights_only(tmp_path / "published_model.pth", allowed)
    assert published["infos"]["upload_name"] == "someone/ConvTasNet_songs_sepvocals"
    assert published["infos"]["final_metrics"] == {"si_sdr": 8.5}
