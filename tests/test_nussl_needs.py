"""What nussl needs to be installed, and what is said where it is not."""

import importlib.util
import subprocess
import sys

import pytest

CORE_ALONE = """
import sys
for name in ("nussl", "scipy", "librosa", "ignite", "sklearn", "matplotlib", "pandas"):
    sys.modules[name] = None
import svs_unet_plugin
try:
    import svs_unet_plugin.nussl
except ImportError as error:
    print(error)
"""

WITHOUT_A_COMPILER = """
import sys
optional = ["soxbindings", "sox", "ffmpeg", "gpytorch", "jams", "musdb", "museval", "norbert",
            "pandas", "pyloudnorm", "scaper", "termtables"]
for name in optional:
    sys.modules[name] = None
import numpy as np
import svs_unet_plugin.nussl as svs
import nussl

noise = np.random.default_rng(0).uniform(-1, 1, (2, 8192))
mixture = nussl.AudioSignal(audio_data_array=noise, sample_rate=8192)
vocals = svs.UNetSeparation(mixture)()[0]
print(vocals.audio_data.shape)
for use in (
    lambda: mixture.time_stretch(1.5).apply_effects(),
    lambda: nussl.separation.benchmark.WienerFilter(mixture, [mixture, mixture])(),
    lambda: nussl.evaluation.aggregate_score_files([]),
):
    try:
        use()
    except ImportError as error:
        print(error)
print(*(name for name in optional if sys.modules.get(name)))
"""


def run(script: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_with_the_core_alone_the_sentence_says_what_to_install() -> None:
    assert run(CORE_ALONE) == ["nussl is not installed: pip install 'svs_unet_plugin[nussl]'"]


@pytest.mark.skipif(importlib.util.find_spec("nussl") is None, reason="needs svs_unet_plugin[nussl]")
def test_nussl_separates_without_what_only_some_of_its_parts_need() -> None:
    missing = "is not installed, and this part of nussl needs it: pip install"
    assert run(WITHOUT_A_COMPILER) == [
        "(2, 8192)",
        f"sox {missing} soxbindings",
        f"norbert {missing} norbert",
        f"pandas {missing} pandas",
        "",
    ]
