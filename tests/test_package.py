import subprocess
import sys

IMPORTS = """
import sys
import torch
torch_only = set(sys.modules)
import svs_unet_plugin
heavy = {"nussl", "asteroid", "matplotlib", "soundfile", "librosa", "scipy", "pandas", "ignite", "gradio"}
print(*sorted(heavy & (set(sys.modules) - torch_only)))
"""


def test_import_takes_no_more_than_torch() -> None:
    run = subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True, text=True)
    assert run.stdout.split() == []
