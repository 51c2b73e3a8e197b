import importlib.util
import os
import pickle
import pickletools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

if importlib.util.find_spec("nussl") is None:
    pytest.skip("needs svs_unet_plugin[nussl]", allow_module_level=True)

PROGRAM = """
if __name__ == "__main__":
    import sys
    import torch
    import svs_unet_plugin.nussl
    import nussl
    from torch.utils.data import ConcatDataset, DataLoader

    transforms = nussl.datasets.transforms
    params = nussl.STFTParams(256, 128, "hann")
    signals = nussl.datasets.MixSourceFolder(sys.argv[1], stft_params=params)
    tensors = nussl.datasets.MixSourceFolder(
        sys.argv[1],
        stft_params=params,
        transform=transforms.Compose(
            [transforms.MagnitudeSpectrumApproximation(), transforms.ToSeparationModel()]
        ),
    )
    config = nussl.ml.networks.builders.build_recurrent_mask_inference(129, 4, 1, False, 0.0, 1, "sigmoid")
    model = nussl.ml.SeparationModel(config)
    data = ConcatDataset([tensors, signals, [params, tensors.transform, model]])
    started = {
        start_method: iter(
            DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context=start_method)
        )
        for start_method in ("spawn", "forkserver")
    }
    for start_method, items in started.items():
        item, sounds, *others = items
        assert torch.equal(item["mix_magnitude"], tensors[0]["mix_magnitude"])
        assert sounds["mix"] == signals[0]["mix"] and sounds["mix"].stft_params == params
        assert others[0] == params and [type(step) for step in others[1].transforms] == [
            type(step) for step in tensors.transform.transforms
        ]
        batch = {"mix_magnitude": item["mix_magnitude"][None]}
        assert torch.equal(others[2](batch)["mask"], model(batch)["mask"])
        print(start_method, "works")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture and its two sources, as nussl's MixSourceFolder takes them, beside the program."""
    folder = tmp_path_factory.mktemp("data")
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (2, 4096))
    for name, samples in {"mix": noise.sum(axis=0), "vocals": noise[0], "drums": noise[1]}.items():
        (folder / name).mkdir()
        soundfile.write(folder / name / "song.wav", samples, 8192)
    (folder / "program.py").write_text(PROGRAM)
    return folder


@pytest.mark.parametrize("way", ["script", "module", "command"])
def test_workers_that_are_not_forked_get_a_repaired_nussl(way: str, folder: Path) -> None:
    """The plugin is imported under ``if __name__``, so that only what is sent can bring it along."""
    arguments = {
        "script": [str(folder / "program.py")],
        "module": ["-m", "program"],
        "command": ["-c", PROGRAM],
    }[way]
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *arguments, str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["spawn works", "forkserver works"]


def test_what_is_written_names_nussl_alone() -> None:
    from svs_unet_plugin.nussl import nussl

    sources = nussl.datasets.transforms.SumSources([["a", "b"]])
    content = pickle.dumps([nussl.STFTParams(1024, 768, "hann"), sources])
    words = {argument for _, argument, _ in pickletools.genops(content) if isinstance(argument, str)}
    assert "nussl.datasets.transforms" in words and not any("svs_unet_plugin" in word for word in words)
