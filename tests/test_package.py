import subprocess
import sys

IMPORTS = """
import sys, time
import torch
torch_only = set(sys.modules)
start = time.perf_counter()
import svs_unet_plugin
seconds = time.perf_counter() - start
heavy = {"nussl", "asteroid", "matplotlib", "soundfile", "librosa", "scipy", "pandas", "ignite", "gradio"}
print(seconds, *sorted(heavy & (set(sys.modules) - torch_only)))
"""


def test_import_is_light() -> None:
    runs = [
        subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True, text=True)
        for _ in range(3)
    ]
    heavy = {name for run in runs for name in run.stdout.split()[1:]}
    assert not heavy
    # The best of three, since the machine may be busy with something else.
    assert min(float(run.stdout.split()[0]) for run in runs) < 0.3
