import importlib.util
import math
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from svs_unet_plugin.asteroid import SVSUNet
from svs_unet_plugin.asteroid.training import TrainSettings

RECIPE = Path(__file__).parent.parent / "recipes" / "musdb18" / "asteroid"


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        ([], 0, "0 false a b|"),
        (["--stage", "2", "--some-name", "x y"], 0, "2 false x y|"),
        (["--some_name", ""], 0, "0 false |"),
        (["--flag", "true", "rest", "--stage", "1"], 0, "0 true a b|rest --stage 1"),
        (["--flag", "yes"], 1, "--flag must be true or false, not 'yes'"),
        (["--stage=2"], 1, "options are given as '--name value', not as '--stage=2'"),
        (["--loud", "1"], 1, "there is no option --loud"),
        (["--stage"], 1, "--stage needs a value"),
        (["--help"], 0, "Usage: so and so"),
    ],
)
def test_parse_options(arguments: list[str], code: int, said: str) -> None:
    script = (
        "stage=0 flag=false some_name='a b' help_message='Usage: so and so';"
        f'. {RECIPE}/utils/parse_options.sh; echo "$stage $flag $some_name|$*"'
    )
    done = subprocess.run(["bash", "-euc", script, "run.sh", *arguments], capture_output=True, text=True)
    assert done.returncode == code
    assert (done.stderr if code else done.stdout).strip().endswith(said)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--data", "musdb18"], "--data musdb18 needs --source DIR"),
        (["--data", "songs"], "--data must be demo, musdb18 or musdb18hq, not 'songs'"),
        (["--loud", "1"], "there is no option --loud"),
    ],
)
def test_run_says_what_is_wrong(arguments: list[str], said: str) -> None:
    done = subprocess.run([RECIPE / "run.sh", *arguments], capture_output=True, text=True)
    assert done.returncode == 1 and said in done.stderr


def test_every_key_of_the_configuration_is_an_option_and_is_used() -> None:
    conf = yaml.safe_load((RECIPE / "local" / "conf.yml").read_text())
    script = (RECIPE / "run.sh").read_text()
    passed_on = re.search(r"given (segment .*?)\n  CUDA", script, re.DOTALL)
    assert passed_on is not None
    hardware = ["accelerator", "devices", "num_nodes", "strategy"]
    keys = [key for group in conf.values() for key in group]
    assert sorted(passed_on[1].replace("\\", "").split()) == sorted(keys + hardware)
    for key in keys + hardware:
        assert re.search(rf"^{key}=$", script, re.MULTILINE), key
    assert {field.name for field in fields(TrainSettings)} == {*conf["training"], *conf["optim"], *hardware}
    assert SVSUNet(**conf["model"]).network.channels == 16
    TrainSettings(**conf["training"], **conf["optim"])


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("asteroid_compare", RECIPE / "compare.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_weighted_sdr(compare: ModuleType) -> None:
    """Against equation 6 of Choi et al., item by item."""
    torch.manual_seed(0)
    estimates, targets = torch.randn(3, 2, 50), torch.randn(3, 2, 50)
    expected = []
    for (vocals, rest), (true_vocals, true_rest) in zip(estimates.tolist(), targets.tolist(), strict=True):

        def dot(x: list[float], y: list[float]) -> float:
            return sum(a * b for a, b in zip(x, y, strict=True))

        def loss(x: list[float], y: list[float]) -> float:
            return -dot(x, y) / math.sqrt(dot(x, x) * dot(y, y))

        alpha = dot(true_vocals, true_vocals) / (dot(true_vocals, true_vocals) + dot(true_rest, true_rest))
        expected.append(alpha * loss(vocals, true_vocals) + (1 - alpha) * loss(rest, true_rest))
    assert compare.negative_weighted_sdr(estimates, targets).item() == pytest.approx(
        sum(expected) / 3, abs=1e-5
    )
    assert compare.negative_weighted_sdr(targets, targets).item() == pytest.approx(-1)


@pytest.mark.parametrize("name", ["svsunet", "xumx", "dcunet-10"])
def test_what_is_compared_makes_two_waveforms_and_learns(compare: ModuleType, name: str) -> None:
    class Noise:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, draw: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
            generator = torch.Generator().manual_seed(draw[1])
            return torch.randn(1, 5000, generator=generator), torch.randn(1, 1, 5000, generator=generator)

    candidate = next(candidate for candidate in compare.CANDIDATES if candidate.id == name)
    model = candidate.make(Noise(), 8192)
    batch = torch.utils.data.default_collate([Noise()[0, i] for i in range(2)])
    system = candidate.system(model, Noise(), [], TrainSettings())
    system.common_step(batch, 0).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert compare.waveforms(model.eval(), batch[0]).shape == (2, 2, 5000)
