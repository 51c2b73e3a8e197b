"""The commands but for `separate`, and what holds for all."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from svs_unet_plugin import engines, weights
from svs_unet_plugin.cli import main

COMMAND = [sys.executable, "-m", "svs_unet_plugin.cli"]


def test_info(checkpoint_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(checkpoint_path)]) == 0
    said = capsys.readouterr().out
    assert "8192 Hz, window 1024, hop 768" in said and "vocals" in said and "first layer 4 wide" in said
    assert main(["info", str(checkpoint_path.parent)]) == 2


@pytest.mark.parametrize("history", [{"train/loss": []}, [1], {"train/loss": ["much"]}])
def test_info_of_a_training_that_is_described_in_another_way(
    checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], history: object
) -> None:
    content = torch.load(checkpoint_path, weights_only=False)
    content["metadata"]["trainer.state.epoch_history"] = history
    torch.save(content, tmp_path / "odd.pth")
    assert main(["info", str(tmp_path / "odd.pth")]) == 0
    assert "first layer 4 wide" in capsys.readouterr().out


def test_a_traceback_only_when_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        main(["--traceback", "info", str(tmp_path / "none.pth")])


def test_names_command_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    song = tmp_path / "a\x1b[31m\nb\u202e.wav"
    song.write_bytes(b"no song")
    assert main(["separate", str(song), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable() and r"a\x1b[31m\nb\u202e.wav is not audio" in line
    assert main(["info", str(tmp_path / "a\nb.pth")]) == 2
    assert r"a\nb.pth" in capsys.readouterr().err


def test_wrong_flags_end_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["separate"], ["sing"], ["separate", "a.wav", "--loud"], []):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert "--help" in said and (len(said.splitlines()) == 1) == bool(arguments)


def test_a_folder_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (gone := tmp_path / "gone").mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["separate", "song.wav", "-o", "out"]) == 2
    assert capsys.readouterr().err == "svs-unet: the current folder was removed: go to another one\n"


def test_the_handler_of_sigterm_is_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert main(["--version"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_no_weights_at_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    # Nothing listens on port 1.
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_CACHE": str(tmp_path)}
    run = subprocess.run([*COMMAND, "info", "a/unet@main"], env=env, capture_output=True, text=True)
    assert run.returncode == 2
    reason = "http://127.0.0.1:1 can't be reached (Connection refused)"
    assert run.stderr == f"svs-unet: a/unet@main can't be had from the hub nor its cache: {reason}\n"


def test_weights_that_are_bundled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is said of them is what their card says."""
    card = (weights.PRETRAINED / "README.md").read_text()
    scores = re.findall(r"^\| ([^|]*) \| (-\S*) \| (\S*) \| (\S*) \| (\S*) \|$", card, flags=re.MULTILINE)
    assert len(scores) == 3 and scores[1][2] == "7.88"
    assert main(["weights"]) == 0
    blocks = capsys.readouterr().out.split("\n\n")[:3]
    for number, (block, name) in enumerate(zip(blocks, weights.bundled(), strict=True)):
        assert block.splitlines()[0] == f"{name}: bundled" + (", the default" if name == "vocals" else "")
        for song, mixture, *estimates in scores:
            assert f"{estimates[number]} dB (the mixture: {mixture} dB), {song}" in block
        size = (weights.PRETRAINED / f"{name}.pth").stat().st_size
        assert f"{size / 1e6:.1f} MB" in block and "window 1024, hop 256" in block
        assert "licence    " + ("that of" if name == "free" else "trained on research data") in block


def test_weights_in_the_cache(
    checkpoint_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    revision = 5 * "01234567"
    folders = [tmp_path / f"models--someone--{name}/snapshots/{revision}" for name in ("unet", "bert")]
    for folder in folders:
        folder.mkdir(parents=True)
    shutil.copy(checkpoint_path, folders[0] / weights.HUB_FILE)
    torch.save({"weight": torch.zeros(3)}, folders[1] / weights.HUB_FILE)
    assert main(["weights"]) == 0
    said = capsys.readouterr().out
    assert f"someone/unet@{revision}: in the cache of the hub" in said and "bert" not in said


@pytest.fixture
def hub() -> Iterator[str]:
    """The address of a server that knows one model, with a card."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_GET(self) -> None:
            result = {"task": {"type": "audio-to-audio"}, "dataset": {"type": "mir1k", "name": "MIR-1K"}}
            result["metrics"] = [{"type": "sdr", "name": "GNSDR", "value": 10.6}]  # type: ignore[assignment]
            card = {"license": "mit\x1b[2J", "model-index": [{"name": "unet", "results": [result]}]}
            file = {"rfilename": weights.HUB_FILE, "size": 14_700_000}
            found = self.path.startswith("/api/models/someone/unet")
            body = {"id": "someone/unet", "sha": 5 * "01234567", "cardData": card, "siblings": [file]}
            answer = json.dumps(body if found else {"error": "Repository not found"}).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_weights_on_the_hub(
    hub: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", hub)
    assert main(["weights", "someone/unet"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"someone/unet@{5 * '01234567'}: on the hub",
        "  size       14.7 MB",
        "  GNSDR      10.6, MIR-1K",
        "  licence    mit\\x1b[2J",  # what a card says does nothing to a terminal
    ]
    assert main(["weights", "a/b"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("svs-unet: a/b can't be had from the hub: ") and len(said.splitlines()) == 1


def test_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert f"numpy            {np.__version__}" in said and "devices          cpu" in said
    assert f"[torch]          torch {torch.__version__}" in said
    assert f"engines          {', '.join(engines.installed())}" in said
    assert "separation       works" in said and "writes mp3, ogg, opus, m4a" in said
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(weights, "PRETRAINED", tmp_path)
    monkeypatch.setattr(
        "importlib.metadata.requires", lambda name: ["numpy>=2", 'nothing>=1; extra == "hub"']
    )
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "separation       does not work: no checkpoint at vocals" in said
    assert "ffmpeg           missing" in said and "apt install ffmpeg" in said
    assert "[hub]            missing nothing: pip install 'svs_unet_plugin[hub]'" in said


def test_the_doctor_needs_nothing_that_may_be_missing() -> None:
    script = "import sys; sys.modules['numpy'] = None; from svs_unet_plugin.cli import main; main(['doctor'])"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "separation       does not work: this needs the package numpy" in said.stdout
    assert "writes mp3, ogg, opus, m4a" in said.stdout and said.stderr == ""


def test_completion() -> None:
    script = subprocess.run([*COMMAND, "completion", "bash"], capture_output=True, text=True, check=True)
    assert "_SVS_UNET_COMPLETE=bash_complete" in script.stdout
    subprocess.run(["bash", "-n"], input=script.stdout, text=True, check=True)
    for words, expected in [
        ("svs-unet sep", ["separate"]),
        ("svs-unet separate --w", ["--weights"]),
        ("svs-unet separate -w s", ["small"]),
        ("svs-unet info s", ["small"]),
        ("svs-unet separate --format o", ["ogg", "opus"]),
    ]:
        number = str(len(words.split()) - 1)
        env = {**os.environ, "_SVS_UNET_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": number}
        run = subprocess.run(COMMAND, env=env, capture_output=True, text=True, check=True)
        assert [line.partition(",")[2] for line in run.stdout.splitlines()] == expected
