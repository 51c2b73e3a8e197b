import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from svs_unet_plugin import STFT, Separator, UNet, checkpoint
from svs_unet_plugin import weights as weights_module

needs_asteroid = pytest.mark.skipif(
    importlib.util.find_spec("asteroid") is None, reason="needs svs_unet_plugin[asteroid]"
)


def test_reads_what_nussl_saves_without_nussl(
    checkpoint_path: Path, make_network: Callable[..., UNet]
) -> None:
    script = (
        "import sys, torch; from svs_unet_plugin import checkpoint; c = checkpoint.read(sys.argv[1]);"
        "assert 'nussl' not in sys.modules; assert not c.network.training;"
        "torch.manual_seed(1); torch.save((c.network(torch.rand(1, 1, 513, 90)), str(c.stft)), sys.argv[2])"
    )
    out = checkpoint_path.with_suffix(".out")
    subprocess.run([sys.executable, "-c", script, checkpoint_path, out], check=True)
    mask, stft = torch.load(out)
    network = make_network()  # not the fixture, which a test may have moved to other memory: other last bits
    torch.manual_seed(1)
    assert torch.equal(mask, network(torch.rand(1, 1, 513, 90)))
    assert stft == str(STFT())


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_file_is_refused_by_name_and_does_not_run(tmp_path: Path, legacy: bool) -> None:
    proof, path = tmp_path / "it_ran", tmp_path / "bad.pth"
    torch.save(
        {"config": "{}", "metadata": Malicious(proof)}, path, _use_new_zipfile_serialization=not legacy
    )
    with pytest.raises(ValueError, match=r"bad\.pth was refused.*(posix|nt|os)\.system"):
        checkpoint.read(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)  # and this is what it would have done
    assert proof.exists()


@pytest.mark.parametrize("content", [b"", b"these are words", b"PK\x03\x04 and no more"])
def test_no_checkpoint_at_all(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pth is no checkpoint, or a damaged one"):
        checkpoint.read(tmp_path / "a.pth")


def test_half_a_checkpoint(checkpoint_path: Path, tmp_path: Path) -> None:
    data = checkpoint_path.read_bytes()
    (tmp_path / "half.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"half\.pth is no checkpoint, or a damaged one"):
        checkpoint.read(tmp_path / "half.pth")


@pytest.mark.parametrize(
    "content",
    [{"state_dict": {}}, torch.zeros(3), [], {"config": "nope", "metadata": {}}]
    + [{"config": json.dumps({"modules": modules}), "metadata": {}} for modules in ([], {"a": {}})],
)
def test_a_checkpoint_of_something_else(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="is no checkpoint of a svs_unet_plugin network"):
        checkpoint.read(tmp_path / "other.pth")


def test_no_such_weights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nothing\.pth"):
        checkpoint.read(tmp_path / "nothing.pth")


def bundle(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with (folder / "SHA256SUMS").open("a") as sums:
        sums.write(f"{hashlib.sha256(content).hexdigest()}  {name}\n")


def test_bundled_weights_by_name(
    checkpoint_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_module, "PRETRAINED", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at vocals, and no bundled weights"):
        checkpoint.read()
    bundle(tmp_path, "vocals.pth", checkpoint_path.read_bytes())
    bundle(tmp_path, "small.pth", checkpoint_path.read_bytes())
    for name in (None, "vocals", "small"):
        assert weights_module.find(name) == tmp_path / f"{name or 'vocals'}.pth"
        assert checkpoint.read(name).stft == STFT()
    monkeypatch.chdir(tmp_path)
    assert weights_module.verify(weights_module.find("vocals.pth"))
    with pytest.raises(FileNotFoundError, match=r"no bundled weights of that name \(vocals, small\)"):
        checkpoint.read("large")


def test_damaged_bundled_weights(
    checkpoint_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_module, "PRETRAINED", tmp_path)
    content = bytearray(checkpoint_path.read_bytes())
    bundle(tmp_path, "vocals.pth", content)
    content[len(content) // 2] ^= 1
    (tmp_path / "vocals.pth").write_bytes(content)
    (tmp_path / "vocals.onnx").write_bytes(b"another graph")
    with pytest.raises(ValueError, match=r"vocals\.pth is damaged: it is not what SHA256SUMS"):
        checkpoint.read("vocals")
    with pytest.raises(ValueError, match=r"vocals\.onnx is damaged: it is not what SHA256SUMS"):
        Separator("vocals", engine="onnxruntime")


def test_a_model_on_a_hub_from_the_cache_without_a_network(checkpoint_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    revision = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--someone--unet" / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (snapshot / "pytorch_model.bin").write_bytes(checkpoint_path.read_bytes())
    script = (
        "import sys; from svs_unet_plugin import checkpoint;"
        "print(checkpoint.read(sys.argv[1]).network.channels)"
    )
    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}

    def read(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, name]
        return subprocess.run(command, env=env, capture_output=True, text=True)

    assert read(f"someone/unet@{revision}").stdout == f"{checkpoint.read(checkpoint_path).network.channels}\n"
    assert "someone/unet@main can't be had from the hub nor its cache" in read("someone/unet@main").stderr
    assert "owner/name@revision" in read("someone/unet").stderr  # it must be pinned


@pytest.fixture
def hub(checkpoint_path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The address of a server like the hub's, and the files that it sends, by revision."""
    content = checkpoint_path.read_bytes()
    held: dict[str, bytes] = {}

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            revision = self.path.split("/")[-2]
            self.send_response(200 if revision in held or self.path == "/" else 404)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", 40 * revision[:1])
            self.send_header("Content-Length", str(len(held.get(revision, b""))))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(held.get(revision, b""))

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", held
        server.shutdown()


def test_a_hub_that_sends_something_else(
    hub: tuple[str, dict[str, bytes]],
    checkpoint_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hub states the SHA-256 of a file, which is verified: at the download, and each time after it."""
    constants = pytest.importorskip("huggingface_hub.constants")
    address, held = hub
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    content = checkpoint_path.read_bytes()
    held["a"] = content
    path = weights_module.find("someone/unet@a")
    assert path.read_bytes() == content
    path.resolve().write_bytes(content[:-1] + b"?")
    with pytest.raises(ValueError, match="is not what the hub has of someone/unet@a: remove it"):
        weights_module.find("someone/unet@a")
    path.resolve().unlink()
    held["b"] = content[:-1] + b"?"
    with pytest.raises((ValueError, FileNotFoundError), match="someone/unet@b"):
        checkpoint.read("someone/unet@b")
    # A revision is no path: nothing is read or written outside of the cache.
    for name in ("someone/unet@../../../../a", "../unet@a", "someone/..@a", "someone/unet@a/../../b"):
        with pytest.raises(FileNotFoundError, match="no checkpoint at"):
            checkpoint.read(name)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_bundled_weights() -> None:
    assert weights_module.bundled() == ["vocals", "free", "small"]
    for name in weights_module.bundled():
        path = weights_module.find(name)
        loaded = checkpoint.read(name)
        assert loaded.stft == STFT(hop_length=256)
        assert path.stat().st_size <= {"vocals": 15e6, "free": 15e6, "small": 2.5e6}[name]
    sums = (weights_module.PRETRAINED / "SHA256SUMS").read_text().splitlines()
    assert {line.split()[1] for line in sums} == {
        path.name for path in weights_module.PRETRAINED.iterdir() if path.suffix in (".pth", ".onnx")
    }
    assert checkpoint.read().network.sources == ("vocals",)


class Named:
    """To be subclassed once a file."""


CLASSES = [type(f"Named{i}", (Named,), {"__module__": __name__}) for i in range(8)]
globals().update({cls.__name__: cls for cls in CLASSES})  # pickle looks there


def test_threads_that_load_files_with_different_classes(tmp_path: Path) -> None:
    for i, cls in enumerate(CLASSES):
        torch.save([torch.full((3,), float(i)), cls()], tmp_path / f"{i}.pth")
    start = threading.Barrier(len(CLASSES))

    def load(i: int) -> None:
        start.wait()
        for _ in range(50):
            tensor, item = checkpoint.load_weights_only(tmp_path / f"{i}.pth", [CLASSES[i]])
            assert tensor[0] == i and type(item) is CLASSES[i]
            # What others allow meanwhile is not allowed here.
            with pytest.raises(ValueError, match=f"besides data it holds .*Named{(i + 1) % 8}"):
                checkpoint.load_weights_only(tmp_path / f"{(i + 1) % 8}.pth", [CLASSES[i]])

    with ThreadPoolExecutor(len(CLASSES)) as pool:
        list(pool.map(load, range(len(CLASSES))))


class AllowsItself:
    """A user's class, which is added to torch's list while a file with it is loaded."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        torch.serialization.add_safe_globals([AllowsItself])


def test_classes_that_the_user_allowed_remain(tmp_path: Path) -> None:
    before = torch.serialization.get_safe_globals()
    item = AllowsItself()
    item.number = 1  # type: ignore[attr-defined]
    torch.save([Fraction(1, 2), item], tmp_path / "a.pth")
    try:
        torch.serialization.add_safe_globals([Fraction])
        checkpoint.load_weights_only(tmp_path / "a.pth", [Fraction, AllowsItself])
        assert {Fraction, AllowsItself} <= set(torch.serialization.get_safe_globals())
        checkpoint.load_weights_only(tmp_path / "a.pth")  # and count for our loads too
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


class Claims:
    """A tensor that is saved with a size of which its storage has only the first value."""

    def __init__(self, size: tuple[int, ...]) -> None:
        self.size = size

    def __reduce__(self) -> tuple[Any, ...]:
        storage = torch.zeros(1)._typed_storage()
        stride = (0,) * len(self.size)
        return torch._utils._rebuild_tensor_v2, (storage, 0, self.size, stride, False, OrderedDict())


READ = """
import resource, sys
from svs_unet_plugin import checkpoint
import svs_unet_plugin.nussl, svs_unet_plugin.asteroid
from nussl.ml.networks.separation_model import SeparationModel
resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, 12 * 2**30))  # some of it is taken by torch's libraries
for path in sys.argv[1:]:
    host = svs_unet_plugin.asteroid.SVSUNet.from_pretrained if "asteroid" in path else SeparationModel.load
    for read in (checkpoint.read, host):
        try:
            read(path)
            print("read")
        except ValueError as error:
            print(error)
"""


@needs_asteroid
def test_files_that_describe_more_than_they_hold(checkpoint_path: Path, tmp_path: Path) -> None:
    """They are refused without the memory and the time that their networks would take."""
    cases: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "wide": ({"channels": 1024}, {}),
        "wider": ({"channels": 10**30}, {}),
        "deep": ({"residual_blocks": 10_000_000}, {}),
        "no number": ({"residual_blocks": "many"}, {}),
        "unknown": ({"depth": 7}, {}),
        "empty": ({"channels": 1024}, {"0": Claims((1024, 1024))}),
    }
    with torch.device("meta"):
        network = UNet(channels=1024)
    cases["all claimed"] = (
        {"channels": 1024},
        {k: Claims(tuple(v.shape)) for k, v in network.state_dict().items()},
    )
    paths = []
    for name, (arguments, weights) in cases.items():
        modules = {"mask": {"class": "UNet", "args": arguments}}
        nussl = {
            "config": json.dumps({"modules": modules, "connections": [], "output": [], "name": "a"}),
            "state_dict": {f"layers.mask.{key}": value for key, value in weights.items()},
            "metadata": {"nussl_version": "1.1.9"},
        }
        asteroid = {
            "model_name": "SVSUNet",
            "model_args": {"sample_rate": 8192.0, "window_length": 1024, "hop_length": 768, **arguments},
            "state_dict": {f"network.{key}": value for key, value in weights.items()},
            "infos": {},
        }
        for host, content in {"nussl": nussl, "asteroid": asteroid}.items():
            paths.append(tmp_path / f"{name} {host}.pth")
            torch.save(content, paths[-1])
            assert paths[-1].stat().st_size < 100_000
    # Long enough for a busy machine; without a bound the deep one does not end.
    run = subprocess.run(
        [sys.executable, "-c", READ, *paths], capture_output=True, text=True, timeout=300, check=True
    )
    answers = run.stdout.splitlines()
    assert len(answers) == 2 * len(paths)
    for i, path in enumerate(paths):
        for said in answers[2 * i : 2 * i + 2]:
            assert str(path) in said and "is no checkpoint of" in said
    assert any("its weights are larger than the file" in said for said in answers)
    assert any("fewer weights than residual blocks" in said for said in answers)


def test_a_file_that_unpacks_to_more_than_its_size(checkpoint_path: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2**20)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as whole,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    assert checkpoint.load_weights_only(tmp_path / "a.pth")["a"].numel() == 2**20
    with pytest.raises(ValueError, match=r"b\.pth is no checkpoint"):
        checkpoint.load_weights_only(tmp_path / "b.pth")


def test_nothing_is_unpacked_of_a_file_that_unpacks_to_more_than_its_size(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a/data.pkl", bytes(300 * 2**20))
        packed.writestr("a/version", "3")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="is no checkpoint, or a damaged one"):
            checkpoint.read(tmp_path / "a.pth")
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_weights_that_are_no_numbers(checkpoint_path: Path, tmp_path: Path, network: UNet) -> None:
    content = torch.load(checkpoint_path, weights_only=False)
    name = "layers.mask.encoder.0.1.running_var"
    for value, read, said in [
        (float("nan"), checkpoint.read, f"its weights '{name.removeprefix('layers.mask.')}' are NaN"),
        (-1.0, separated, "the network's masks are NaN: its weights are damaged"),
    ]:
        weights = {**content["state_dict"], name: torch.full_like(content["state_dict"][name], value)}
        torch.save({**content, "state_dict": weights}, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=said):
            read(tmp_path / "a.pth")


def separated(path: Path) -> object:
    return Separator(path, "cpu").separate(torch.rand(1, 9000), 8192)


@needs_asteroid
@pytest.mark.parametrize(
    "content", [[], {}, {"model_name": "SVSUNet"}, {"state_dict": {"a": 1.0}, "metadata": {}}]
)
def test_hosts_refuse_what_is_no_checkpoint(tmp_path: Path, content: object) -> None:
    import svs_unet_plugin.asteroid as asteroid
    import svs_unet_plugin.nussl as svs

    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth is no (nussl )?checkpoint"):
        svs.nussl.ml.SeparationModel.load(str(tmp_path / "a.pth"))
    if content != {} and "metadata" not in content:  # type: ignore[operator]
        with pytest.raises(ValueError, match=r"a\.pth is no checkpoint"):
            asteroid.SVSUNet.from_pretrained(str(tmp_path / "a.pth"))


def test_transforms_that_are_nested_without_end(network: UNet, tmp_path: Path) -> None:
    import svs_unet_plugin.nussl as svs
    from svs_unet_plugin.nussl import nussl

    nested = svs.inference_transform()
    for _ in range(60):  # 2 ** 60 paths lead to the inmost
        nested = nussl.datasets.transforms.Compose([nested, nested])
    nested.transforms.append(nested)
    metadata = {
        "sample_rate": 8192,
        "num_channels": 1,
        "stft_params": svs.stft_params(STFT(hop_length=512)),
        "train_dataset": {"transforms": nested},
    }
    svs.from_network(network).save(str(tmp_path / "a.pth"), metadata)
    script = "import sys; from svs_unet_plugin import checkpoint; print(checkpoint.read(sys.argv[1]).stft)"
    command = [sys.executable, "-c", script, tmp_path / "a.pth"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert run.stdout == f"{STFT(hop_length=512)}\n"
