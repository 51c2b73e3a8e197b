"""The long operations, on the smallest songs that they take, and what each must leave."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from faults.kills import Operation
from killing import environment_of

from svs_unet_plugin import checkpoint
from svs_unet_plugin.files import LOCK_FILE, PART_SUFFIX

RECIPES = Path(__file__).parents[2] / "recipes" / "musdb18"
RATE = 8192
PYTHON = sys.executable
CLI = (PYTHON, "-m", "svs_unet_plugin.cli")
SHORT = (
    *("--epochs", "3", "--epoch_steps", "3", "--batch_size", "2", "--excerpt_frames", "66"),
    *("--channels", "4", "--max_channels", "16", "--residual_blocks", "0"),
)
TENSORS = ("*.pth", "*.ckpt", "*.pt")
OF_THE_MOMENT = ("seconds_per_minute", "peak_memory_mb")


class Kitchen:
    """What operations are made of: each ingredient is made once, when it is asked for.

    Args:
        folder: for all of it.
        out: what operations fill; in the folder by default.
    """

    def __init__(self, folder: Path, out: Path | None = None) -> None:
        self.folder, self.out = folder, out or folder / "out"
        self._undisturbed: dict[str, Mapping[str, Any]] = {}

    def operation(self, name: str) -> Operation:
        return OPERATIONS[name](self)

    def undisturbed(self, name: str) -> Mapping[str, Any]:
        """What an operation leaves that nothing disturbs; it is run once."""
        if name not in self._undisturbed:
            operation = self.operation(name)
            operation.begin_anew()
            operation.run()
            self._undisturbed[name] = operation.read(operation.out)
        return self._undisturbed[name]

    def _made(self, name: str, *command: object) -> Path:
        path = self.folder / name
        if not path.exists():
            done = subprocess.run(
                [*map(str, command)], env=environment_of(), capture_output=True, text=True, timeout=600
            )
            assert done.returncode == 0, done.stderr
        return path

    @property
    def corpus(self) -> Path:
        """Six songs, one of them to test on."""
        path = self.folder / "corpus"
        options = ("--tracks", 6, "--seconds", 5, "--rate", RATE)
        return self._made("corpus", *CLI, "data", "demo", path, *options)

    @property
    def prepared(self) -> Path:
        path = self.folder / "prepared"
        return self._made("prepared", *CLI, "data", "prepare", self.corpus, path, "--jobs", 1)

    @property
    def songs(self) -> Path:
        """Eight songs of noise, half of them FLAC."""
        folder = self.folder / "songs"
        folder.mkdir(exist_ok=True)
        for number in range(8):
            path = folder / f"song {number}.{'flac' if number % 2 else 'wav'}"
            if not path.exists():
                noise = np.random.default_rng(number).standard_normal((44_100 * 12, 2)) / 10
                soundfile.write(path, noise.clip(-1, 1), 44_100)
        return folder

    def trained(self, host: str) -> Path:
        """An experiment, trained."""
        folder = self.folder / f"trained {host}"
        return self._made(folder.name, *self._training(host, folder))

    def _training(self, host: str, out: Path) -> list[str]:
        conf = "conf_demo.yml" if host == "nussl" else "conf.yml"
        command = [PYTHON, RECIPES / host / "train.py", "--conf", RECIPES / host / "local" / conf]
        command += ["--exp_dir", out, "--data_dir", self.prepared, *SHORT]
        command += ["--scaper.mixtures", 0] if host == "nussl" else ["--accelerator", "cpu"]
        return [*map(str, command)]

    def corpora(self) -> Operation:
        out = self.out
        command = [*CLI, "data", "demo", out, "--tracks", "6", "--seconds", "5", "--rate", RATE]
        return Operation("make a corpus", [*map(str, command)], out, read_files)

    def prepare(self) -> Operation:
        out = self.out
        command = [*CLI, "data", "prepare", self.corpus, out, "--segment", "1", "--jobs", "2"]
        return Operation("prepare", [*map(str, command)], out, read_files)

    def mix(self) -> Operation:
        out = self.out
        command = [PYTHON, RECIPES / "nussl" / "mix.py", "--data_dir", self.prepared, "--mixtures", out]
        command += ["--mixing", "scaper", "--scaper.mixtures", 12, "--scaper.seconds", 2, "--jobs", 2]
        return Operation("mix", [*map(str, command)], out, read_files)

    def train(self, host: str) -> Operation:
        out = self.out
        left_out = ("loss.png", "tensorboard/*", "lightning_logs/*", "events.*")
        return Operation(
            f"train ({host})",
            self._training(host, out),
            out,
            partial(read_files, left_out=left_out),
            grows=True,
            compared="losses and configuration byte by byte, every tensor and optimizer state of every "
            "checkpoint bit by bit; not the time that they took, the plot, the logs",
        )

    def evaluate(self) -> Operation:
        experiment, out = self.trained("nussl"), self.out
        command = [PYTHON, RECIPES / "nussl" / "eval.py", "--exp_dir", out, "--data_dir", self.prepared]
        command += ["--source", self.many_tests, "--jobs", "2"]
        return Operation("evaluate", [*map(str, command)], out, read_files, inputs=all_in(experiment))

    @property
    def many_tests(self) -> Path:
        """Three of the songs, all to test on."""
        folder = self.folder / "many tests" / "test"
        if not folder.exists():
            folder.mkdir(parents=True)
            for track in sorted(self.corpus.glob("*/Synthetic*"))[:3]:
                (folder / track.name).symlink_to(track)
        return folder.parent

    def compare(self) -> Operation:
        experiment, out = self.trained("nussl"), self.out
        command = [PYTHON, RECIPES / "nussl" / "compare.py", "--exp_dir", out, "--data_dir", self.prepared]
        command += ["--source", self.corpus, "--jobs", "2", "--epochs", "1"]
        command += ["--only", "unet,unet-plain,blstm,repet-sim,mixture"]
        return Operation(
            "compare",
            [*map(str, command)],
            out,
            partial(read_files, left_out=("report*", "compared/*/loss.png", "compared/*/tensorboard/*")),
            grows=True,
            compared="scores and excerpts byte by byte, weights of the networks bit by bit; not the time and "
            "memory that systems took, nor the page that states them",
            inputs=all_in(experiment),
        )

    def separate(self) -> Operation:
        out = self.out
        command = [*CLI, "separate", self.songs, "--out", out, "--jobs", "2", "--skip-existing", "--quiet"]
        return Operation("separate --jobs 2", [*map(str, command)], out, read_files)

    def ray(self) -> Operation:
        out = self.out
        command = [*CLI, "separate", "--on", "ray", "--manifest", self.songs, "--out", out]
        return Operation(
            "separate --on ray",
            [*map(str, command)],
            out,
            read_catalogue,
            grows=True,
            compared="stems byte by byte; the table but for the time that each song took",
            after_failure=("--retry-failed",),
        )

    def convert(self) -> Operation:
        out, weights = self.out, self.trained("nussl") / "best_model.pth"
        command = [*CLI, "convert", weights, out / "model.pth"]
        return Operation("convert", [*map(str, command)], out, read_files)


OPERATIONS: Mapping[str, Callable[[Kitchen], Operation]] = {
    "corpus": Kitchen.corpora,
    "prepare": Kitchen.prepare,
    "mix": Kitchen.mix,
    "train-nussl": partial(Kitchen.train, host="nussl"),
    "train-asteroid": partial(Kitchen.train, host="asteroid"),
    "evaluate": Kitchen.evaluate,
    "compare": Kitchen.compare,
    "separate": Kitchen.separate,
    "ray": Kitchen.ray,
    "convert": Kitchen.convert,
}


def all_in(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.iterdir()}


def read_files(folder: Path, left_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """What is in each file that has a final name: tensors of weights, and the bytes of all else."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        unfinished = any(part.endswith(PART_SUFFIX) for part in path.relative_to(folder).parts)
        if not path.is_file() or unfinished or path.name == LOCK_FILE:
            continue
        if any(fnmatch(name, pattern) for pattern in left_out):
            continue
        if any(fnmatch(name, pattern) for pattern in TENSORS):
            found[name] = digest(checkpoint.load_weights_only(path, checkpoint._stand_ins(path)))
        elif path.name == "system.json":
            content = json.loads(path.read_text())
            found[name] = {key: value for key, value in content.items() if key not in OF_THE_MOMENT}
        elif path.name == "scores.md":
            found[name], cost, _ = path.read_text().partition("\n## Cost\n")
            assert cost, f"{path} ends before the costs"
        else:
            found[name] = path.read_bytes()
    return found


def digest(content: Any) -> str:
    """Of all tensors in a checkpoint, with their places in it."""
    total = hashlib.sha256()

    def add(place: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            total.update(place.encode() + value.contiguous().numpy().tobytes())
        elif isinstance(value, Mapping):
            for key, item in value.items():
                add(f"{place}/{key}", item)
        elif isinstance(value, list | tuple):
            for number, item in enumerate(value):
                add(f"{place}/{number}", item)

    add("", content)
    return total.hexdigest()


def read_catalogue(folder: Path) -> dict[str, Any]:
    """The stems, and the rows of the table of results, by song."""
    import pyarrow.parquet as pq

    found = read_files(folder, ("catalogue/results/*",))
    for part in sorted((folder / "catalogue" / "results").glob("*.parquet")):
        for row in pq.read_table(part).to_pylist():
            assert f"row {row['path']}" not in found, f"{row['path']} is there twice"
            found[f"row {row['path']}"] = {**row, "seconds": None}
    return found
