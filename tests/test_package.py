import subprocess
import sys

import pytest

import svs_unet_plugin

IMPORTS = """
import sys
import torch
torch_only = set(sys.modules)
import svs_unet_plugin
svs_unet_plugin.Separator("small")
heavy = {"nussl", "asteroid", "matplotlib", "soundfile", "librosa", "scipy", "pandas", "ignite", "gradio"}
if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13):  # older ones load it with any weights
    heavy.add("sympy")
print(*sorted(heavy & (set(sys.modules) - torch_only)))
"""


def test_the_version_is_said_without_torch() -> None:
    program = "import sys; from svs_unet_plugin.cli import main; main(['--version'])"
    heavy = "{'torch', 'numpy', 'soundfile', 'tqdm'} & set(sys.modules)"
    command = [sys.executable, "-c", f"{program}; print({heavy} or 'light')"]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert run.stdout.split() == [svs_unet_plugin.__version__, "light"]


def test_what_is_offered_is_there() -> None:
    for name in (*svs_unet_plugin.__all__, "audio", "checkpoint"):
        assert name in dir(svs_unet_plugin) and getattr(svs_unet_plugin, name)
    with pytest.raises(AttributeError, match="no attribute 'sing'"):
        svs_unet_plugin.sing  # noqa: B018


def test_the_package_and_its_weights_take_no_more_than_torch() -> None:
    run = subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True, text=True)
    assert run.stdout.split() == []
