import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from svs_unet_plugin import STFT, UNet, checkpoint


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
    monkeypatch.setattr(checkpoint, "PRETRAINED", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at vocals, and no bundled weights"):
        checkpoint.read()
    bundle(tmp_path, "vocals.pth", checkpoint_path.read_bytes())
    bundle(tmp_path, "small.pth", checkpoint_path.read_bytes())
    for name in (None, "vocals", "small"):
        assert checkpoint.find(name) == tmp_path / f"{name or 'vocals'}.pth"
        assert checkpoint.read(name).stft == STFT()
    with pytest.raises(FileNotFoundError, match=r"no bundled weights of that name \(small, vocals\)"):
        checkpoint.read("large")


def test_damaged_bundled_weights(
    checkpoint_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "PRETRAINED", tmp_path)
    content = bytearray(checkpoint_path.read_bytes())
    bundle(tmp_path, "vocals.pth", content)
    content[len(content) // 2] ^= 1
    (tmp_path / "vocals.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"vocals\.pth is damaged: it is not what SHA256SUMS"):
        checkpoint.read("vocals")


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
    assert "someone/unet@main can't be had from the hub" in read("someone/unet@main").stderr
    assert "owner/name@revision" in read("someone/unet").stderr  # it must be pinned


def test_the_weights_in_the_box() -> None:
    for name in ("vocals", "small"):
        path = checkpoint.find(name)
        loaded = checkpoint.read(name)
        assert loaded.stft == STFT(hop_length=256)
        assert path.stat().st_size <= {"vocals": 20e6, "small": 2.5e6}[name]
    sums = (checkpoint.PRETRAINED / "SHA256SUMS").read_text().splitlines()
    assert {line.split()[1] for line in sums} == {path.name for path in checkpoint.PRETRAINED.glob("*.pth")}
    assert checkpoint.read().network.sources == ("vocals",)
