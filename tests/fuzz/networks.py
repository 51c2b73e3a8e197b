"""Checkpoints: of bytes, of archives, of pickles, and of what they hold. ONNX models."""

from __future__ import annotations

import io
import os
import pickle
import random
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import soundfile
import torch

import svs_unet_plugin.asteroid as asteroid
import svs_unet_plugin.nussl as nussl
from fuzz.driver import Case, Refused, is_ours
from fuzz.mutations import damaged, name, nested, odd, twisted
from svs_unet_plugin import STFT, Separator, UNet, checkpoint
from svs_unet_plugin.export import export

_KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"sources": ["drums", "vocals"]},
    {"residual_blocks": 1},
    {"bottleneck": "blstm"},
)


@cache
def small(kind: int = 0) -> UNet:
    torch.manual_seed(0)
    return UNet(**{"channels": 2, "max_channels": 4, **_KINDS[kind]}).eval()


@cache
def files() -> dict[str, bytes]:
    """Sound checkpoints of both hosts, and files of torch of other kinds."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.pth")
        for kind in range(len(_KINDS)):
            nussl.save(nussl.from_network(small(kind)), path, stft=STFT(hop_length=512))
            found[f"nussl {kind}"] = path.read_bytes()
            torch.save(asteroid.SVSUNet.from_network(small(kind), STFT()).serialize(), path)
            found[f"asteroid {kind}"] = path.read_bytes()
        for kind in ("nussl 0", "asteroid 0"):
            found[f"{kind} unzipped"] = _bytes(contents()[kind] if kind in found else None, zipped=False)
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
        found["script"] = path.read_bytes()
    return found


@cache
def contents() -> dict[str, Any]:
    """What sound checkpoints of two sources hold, with the objects of nussl."""
    model = nussl.from_network(small(1))
    with tempfile.TemporaryDirectory() as folder:
        path = nussl.save(model, Path(folder, "network.pth"), stft=STFT(hop_length=512))
        held = torch.load(path, weights_only=False)
    return {"nussl 0": dict(held), "asteroid 0": asteroid.SVSUNet.from_network(small(1), STFT()).serialize()}


@cache
def graph() -> bytes:
    """A sound ONNX model."""
    with tempfile.TemporaryDirectory() as folder:
        export(small(1), STFT(hop_length=512), Path(folder, "network.onnx"), "onnx")
        return Path(folder, "network.onnx").read_bytes()


def _bytes(content: Any, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


class Runs:
    """Calls something when it is unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call = call, arguments

    def __reduce__(self) -> Any:
        return self.call


def _hostile(canary: Path) -> list[Runs]:
    touch = f"open({str(canary)!r}, 'w')"
    return [
        Runs(os.system, f"touch '{canary}'"),
        Runs(eval, touch),
        Runs(exec, touch),
        Runs(subprocess.Popen, ["touch", str(canary)]),
        Runs(open, str(canary), "w"),
        Runs(Path.touch, canary),
        Runs(__import__, "antigravity"),
        Runs(getattr, torch.Tensor, "numpy"),
        Runs(torch.hub.load, "a/b", "c"),
        Runs(torch.serialization.add_safe_globals, [Runs]),
        Runs(np.fromfile, "/etc/passwd"),
        Runs(torch.load, "/etc/passwd"),
        Runs(torch.zeros, 2**40),
        Runs(bytearray, 2**40),
    ]


def _tensor(rng: random.Random) -> Any:
    """A value for a place in a checkpoint, most often a tensor that is none of its."""
    shape = rng.choice(
        ((), (0,), (1,), (2,), (4, 2, 5, 5), (2, 1, 5, 5), (10**5, 10**5), (2**40,), (1,) * 40)
    )
    one = torch.zeros(1).expand(shape) if np.prod(shape, dtype=float) > 1e4 else torch.rand(shape)
    return rng.choice(
        (
            lambda: one,
            lambda: one,
            lambda: torch.rand(2, 1, 5, 5).to(
                rng.choice(
                    (torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.cfloat)
                )
            ),
            lambda: torch.full((2,), rng.choice((float("nan"), float("inf"), -1.0, 1e38))),
            lambda: torch.rand(2, 2).to_sparse(),
            lambda: torch.empty(2, 1, 5, 5, device="meta"),
            lambda: torch.nn.Parameter(torch.rand(2)),
            lambda: np.float64(3.0),
            lambda: (1, 2, 3),
            lambda: odd(rng),
            lambda: odd(rng),
        )
    )()


def _odd_content(rng: random.Random, canary: Path) -> tuple[bytes, str]:
    """A checkpoint whose content is another one."""
    host, sound = rng.choice(list(contents().items()))
    content = dict(sound)
    how = rng.choice(("tensors", "configuration", "metadata", "anything", "hostile", "swapped", "values"))
    if how == "tensors":
        content["state_dict"] = twisted(rng, dict(content["state_dict"]), _tensor)
    elif how == "swapped":
        weights = dict(content["state_dict"])
        one, two = rng.sample(list(weights), 2)
        weights[one], weights[two] = weights[two], weights[one]
        content["state_dict"] = weights
    elif how == "values":
        value = rng.choice((float("nan"), float("inf"), 1e38, -1e38, 0.0))
        content["state_dict"] = {
            key: torch.full_like(held, value) if held.is_floating_point() else held
            for key, held in content["state_dict"].items()
        }
    elif how == "configuration" and host.startswith("nussl"):
        import json

        content["config"] = json.dumps(twisted(rng, json.loads(content["config"])))
        if rng.random() < 0.1:
            content["config"] = "[" * 100_000
    elif how == "configuration":
        content["model_args"] = twisted(rng, dict(content["model_args"]))
        if rng.random() < 0.3:
            content["model_args"] = {**sound["model_args"], "sources": ["vocals", name(rng)]}
        elif rng.random() < 0.4:
            number = rng.choice((0, -1, 1, 2, 1000, 2**20, 2**31, 10**9, 10**30, 1e9, 0.5, float("nan"), "a"))
            which = rng.choice(("sample_rate", "window_length", "hop_length", "channels", "residual_blocks"))
            content["model_args"] = {**sound["model_args"], which: number}
    elif how == "metadata" and host.startswith("nussl"):
        metadata = dict(content["metadata"])
        window, hop = (
            rng.choice((512, 1024, 0, -1, 1, 2, 2**20, 2**31, 2**40, 10**30, 1.5, "a", None))
            for _ in range(2)
        )
        if rng.random() < 0.5:
            parameters = metadata["stft_params"]
            metadata["stft_params"] = type(parameters)(window, hop, rng.choice(("hann", "boxcar", "x", None)))
        else:
            metadata = twisted(rng, metadata)
        if rng.random() < 0.3 and isinstance(metadata, dict):  # it may be another thing altogether by now
            metadata["sample_rate"] = rng.choice((0, -1, 1, 8192, 2**31, 10**30, float("nan"), "8192", None))
        content["metadata"] = metadata
    elif how == "hostile":
        place = rng.choice(list(content))
        content[place] = rng.choice(_hostile(canary))
    else:
        content = twisted(rng, content, _tensor)
    try:
        return _bytes(content, zipped=rng.random() < 0.8), f"{host}, {how}"
    except Exception:  # torch can't save everything; what it can't save is no input
        return _bytes(nested(400)), "nested"


def _odd_archive(rng: random.Random, canary: Path) -> tuple[bytes, str]:
    """A checkpoint whose archive has other members."""
    host = rng.choice([kind for kind in files() if "unzipped" not in kind])
    with zipfile.ZipFile(io.BytesIO(files()[host])) as archive:
        members = [(item.filename, archive.read(item)) for item in archive.infolist()]
    how = rng.choice(
        (
            "pickle",
            "pickle",
            "pickle",
            "swapped",
            "dropped",
            "twice",
            "renamed",
            "packed",
            "bomb",
            "hostile",
            "deep",
        )
    )
    number = rng.randrange(len(members))
    at = next(i for i, (member, _) in enumerate(members) if member.endswith("data.pkl"))
    packing = zipfile.ZIP_STORED
    if how == "pickle":
        members[at] = members[at][0], damaged(rng, members[at][1], files()["nussl 0"])[0]
    elif how == "swapped":
        other = rng.randrange(len(members))
        (one, first), (two, second) = members[number], members[other]
        members[number], members[other] = (one, second), (two, first)
    elif how == "dropped":
        del members[number]
    elif how == "twice":
        members.append((members[number][0], rng.randbytes(50)))
    elif how == "renamed":
        new = rng.choice(
            ("../../../up", str(canary), "network/constants.pkl", "network/.data/version", name(rng) or "x")
        )
        members[number] = new.encode(errors="replace").decode().replace("\0", "_"), members[number][1]
    elif how == "packed":
        packing = zipfile.ZIP_DEFLATED
    elif how == "bomb":
        packing = zipfile.ZIP_DEFLATED
        members[number] = members[number][0], bytes(64 * 2**20)
    elif how == "hostile":
        members[at] = members[at][0], pickle.dumps({"state_dict": rng.choice(_hostile(canary))}, 2)
    else:
        depth = rng.choice((1000, 100_000))
        deep = rng.choice(
            (
                b"]" * depth + b"a" * (depth - 1),
                b"(" * depth,
                b"}" + b"(U\x01a}" * depth,
                b")" + b"\x85" * depth,
                b"]2a" * depth,
            )
        )
        members[at] = members[at][0], b"\x80\x02" + deep + b"."
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as archive:
        for member, content in members:
            archive.writestr(zipfile.ZipInfo(member or "x"), content, packing)
    return file.getvalue(), f"{host}, archive {how}"


def reading(case: Case) -> Iterator[str]:
    """A checkpoint is read by one of its readers, and used."""
    rng = case.rng
    how = rng.random()
    if how < 0.3:
        host, sound = rng.choice(list(files().items()))
        content, given = damaged(rng, sound, rng.choice(list(files().values())))
        given = f"{host}, {given}"
    elif how < 0.6:
        content, given = _odd_archive(rng, case.canary)
    else:
        content, given = _odd_content(rng, case.canary)
    path, song = case.write("network.pth", content), case.inputs / "song.wav"
    mixture = np.random.default_rng(0).uniform(-1, 1, (1, 2000)).astype(np.float32)
    soundfile.write(song, mixture.T, 8000)
    reader = rng.choices(("read", "data", "asteroid", "nussl"), (6, 1, 1.5, 1.5))[0]
    yield f"{given}, read by {reader}"
    if reader == "data":
        checkpoint.load_weights_only(path)
    elif reader in ("asteroid", "nussl"):
        load = (
            asteroid.SVSUNet.from_pretrained if reader == "asteroid" else nussl.nussl.ml.SeparationModel.load
        )
        try:
            load(str(path))
        except Exception as error:
            if is_ours(error) or isinstance(error, MemoryError):
                raise
            raise Refused(f"{reader}'s own {type(error).__name__}") from error  # which need be no sentence
    else:
        loaded = checkpoint.read(path)
        separator = Separator(path)
        stems = separator.separate(mixture, 8000)
        assert next(iter(stems)) == "vocals" and all(stem.shape == mixture.shape for stem in stems.values())
        assert np.abs(stems["vocals"] + stems["accompaniment"] - mixture).max() <= 1e-5
        assert loaded.network.sources and not loaded.network.training
        separator.separate_file(song, case.out)


def graphs(case: Case) -> Iterator[str]:
    """An ONNX model is read, and separates."""
    rng = case.rng
    content, given = graph(), "sound"
    if rng.random() < 0.6:
        content, given = damaged(rng, content, files()["nussl 0"])
    else:
        model = onnx.load_model_from_string(content)
        held = twisted(
            rng, {item.key: item.value for item in model.metadata_props}, lambda rng: str(odd(rng))
        )
        if isinstance(held, dict):
            texts = {str(key): str(value) for key, value in held.items()}
            texts = {
                key.encode(errors="replace"): value.encode(errors="replace") for key, value in texts.items()
            }
            onnx.helper.set_model_props(model, texts)
        content, given = model.SerializeToString(), "metadata"
    path = case.write("network.onnx", content)
    mixture = np.random.default_rng(0).uniform(-1, 1, (1, 2000)).astype(np.float32)
    yield given
    stems = Separator(path).separate(mixture, 8000)
    assert all(stem.shape == mixture.shape and np.isfinite(stem).all() for stem in stems.values())
    assert np.abs(stems["vocals"] + stems["accompaniment"] - mixture).max() <= 1e-5
