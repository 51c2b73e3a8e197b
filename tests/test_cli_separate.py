"""``svs-unet separate``, run as a user runs it."""

import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from svs_unet_plugin import STFT, UNet, audio, encoding, engines
from svs_unet_plugin.cli import main, reports
from svs_unet_plugin.cli.separate import _Seconds
from svs_unet_plugin.cli.separate import separate as command
from svs_unet_plugin.separator import Separator

COMMAND = [sys.executable, "-m", "svs_unet_plugin.cli", "separate"]


def write_song(path: Path, seconds: float = 0.5, gain: float = 0.5, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-gain, gain, (round(22_050 * seconds), 2))
    soundfile.write(path, noise, 22_050, "FLOAT" if path.suffix == ".wav" else None)
    return path


@pytest.fixture
def song(tmp_path: Path) -> Path:
    return write_song(tmp_path / "song.wav")


@pytest.fixture
def separate(checkpoint_path: Path, tmp_path: Path) -> Callable[..., int]:
    """Runs the command on songs, into ``tmp_path / "out"`` unless it is told otherwise."""

    def run(*arguments: object) -> int:
        words = [str(argument) for argument in arguments]
        out = [] if "-o" in words else ["-o", str(tmp_path / "out")]
        return main(["separate", *words, *out, "-w", str(checkpoint_path)])

    return run


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_folders_video_and_covers(separate: Callable[..., int], tmp_path: Path) -> None:
    music = tmp_path / "music"
    write_song(music / "A" / "one.wav")
    write_song(music / "B" / "one.flac")
    tone, picture = ["-f", "lavfi", "-i", "sine=duration=0.5"], ["-f", "lavfi", "-i", "color=s=64x64:d=0.5"]
    covered = ["-map", "0", "-map", "1", "-frames:v", "1", "-disposition:v", "attached_pic", "-c:v", "png"]
    for name, flags in (("film.mkv", []), ("covered.mp3", covered)):
        command = ["ffmpeg", "-v", "error", *tone, *picture, *flags, str(music / name)]
        subprocess.run(command, check=True)
    (music / "notes.txt").write_text("these are words")
    assert separate(music, "-r", "--stem", "vocals", "--filename", "{track}.{ext}") == 0
    assert tree(tmp_path / "out") == ["A/one.wav", "B/one.wav", "covered.wav", "film.wav"]


def test_stems_of_a_network_with_more(
    make_network: Callable[..., UNet], tmp_path: Path, song: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import svs_unet_plugin.nussl as svs

    network = make_network(sources=("vocals", "drums", "bass"))
    svs.save(svs.from_network(network), tmp_path / "three.pth", stft=STFT())
    for out, flags, expected in (
        ("all", [], ["accompaniment.wav", "bass.wav", "drums.wav", "vocals.wav"]),
        ("two", ["--two-stems"], ["accompaniment.wav", "vocals.wav"]),
        ("chosen", ["--stems", "bass, accompaniment"], ["accompaniment.wav", "bass.wav"]),
    ):
        command = ["separate", str(song), "-o", str(tmp_path / out), "-w", str(tmp_path / "three.pth")]
        assert main([*command, *flags]) == 0
        assert tree(tmp_path / out / "song") == expected
    assert (tmp_path / "chosen/song/bass.wav").read_bytes() == (tmp_path / "all/song/bass.wav").read_bytes()
    assert main([*command, "--stems", "voice"]) == 2
    said = capsys.readouterr().err
    assert "--stems may be vocals, drums, bass, accompaniment, got voice" in said


@pytest.mark.parametrize(
    "flags, rate, tolerance",
    # Rounding to 16 and 24 bits, and what codecs do to four tones.
    [
        (["wav", "--bit-depth", "16"], 22_050, 2**-15),
        (["wav", "--bit-depth", "24", "--sample-rate", "48000"], 48_000, 2**-22),
        (["flac"], 22_050, 2**-22),
        (["mp3", "--bitrate", "128k"], 22_050, 0.05),
        (["ogg"], 22_050, 0.05),
        (["opus", "--bitrate", "96"], 24_000, 0.05),  # which it has, other than 22050 Hz
        (["m4a", "--sample-rate", "44100"], 44_100, 0.05),
    ],
)
def test_formats(
    separate: Callable[..., int], tmp_path: Path, flags: list[str], rate: int, tolerance: float
) -> None:
    """Every format has the audio, the length and the tags of the song, and the same bytes each time."""
    seconds = np.arange(22_001) / 22_050
    tones = sum(0.1 * np.sin(2 * np.pi * f * seconds + f) for f in (200, 440, 700, 1900))
    soundfile.write(tmp_path / "plain.wav", np.stack([tones, tones[::-1]], axis=1), 22_050)
    song, tags = tmp_path / "song.flac", {"title": "Ünï ♪", "artist": "A=B; C", "date": "1999", "track": "3"}
    metadata = [word for key, value in tags.items() for word in ("-metadata", f"{key}={value}")]
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "plain.wav", *metadata, song], check=True)
    common = ["--filename", "{artist} {stem}.{ext}", "--clip-mode", "none"]
    for out, form in (("float", ["wav"]), ("first", flags), ("second", flags)):
        assert separate(song, "-o", tmp_path / out, "--format", *form, *common) == 0
    for stem in ("vocals", "accompaniment"):
        path = tmp_path / "first" / f"A=B; C {stem}.{flags[0]}"
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
        assert encoding.read_tags(path) == tags
        written, found = audio.read(path)
        expected = audio.resample(audio.read(tmp_path / "float" / f"A=B; C {stem}.wav")[0], 22_050, rate)
        if flags[0] == "m4a":  # which ffmpeg plays to the end of a frame of 1024 samples
            assert 0 <= written.shape[1] - expected.shape[1] < 1024
            written = written[:, : expected.shape[1]]
        assert (found, written.shape) == (rate, expected.shape)
        inside = slice(2000, -2000)  # filters ring where the tones begin and end
        assert np.abs(written - expected)[:, inside].max() < tolerance < np.abs(expected).max()


def test_a_bit_rate(separate: Callable[..., int], tmp_path: Path) -> None:
    song = write_song(tmp_path / "song.wav", 10)
    for form in ("mp3", "ogg", "opus", "m4a"):
        assert separate(song, "--stem", "vocals", "--format", form, "--bitrate", "64k") == 0
        size = (tmp_path / "out" / "song" / f"vocals.{form}").stat().st_size
        assert 8 * size / 10 == pytest.approx(64_000, rel=0.25), form


def test_times() -> None:
    given = {"1:02:03.5": 3723.5, "2:00": 120.0, "61.5": 61.5}
    assert {text: _Seconds().convert(text, None, None) for text in given} == given


def test_the_command_knows_all_forms() -> None:
    """It names them itself, since to import them takes as long as all else before it runs."""
    choices = {option.name: option.type for option in command.params}
    assert tuple(choices["form"].choices) == encoding.FORMATS  # type: ignore[attr-defined]
    assert tuple(choices["clip_mode"].choices) == encoding.CLIP_MODES  # type: ignore[attr-defined]


def test_formats_and_what_does_not_go_with_them(
    separate: Callable[..., int], song: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, message in [
        (["--format", "mp3", "--bit-depth", "16"], "the bit depth of mp3 does not exist, got '16'"),
        (["--format", "flac", "--bit-depth", "float"], "the bit depth of flac is 24 or 16, got 'float'"),
        (["--bitrate", "192k"], "wav has no bit rate to choose"),
        (["--format", "mp3", "--bitrate", "loud"], "'loud' is no bit rate, such as 192k"),
        (["--format", "mp3", "--sample-rate", "44000"], "the sample rate of mp3 is one of 8000"),
        (["--format", "aiff"], "'aiff' is not one of"),
        (["--start", "later"], "'later' is no time"),
        (["--start", "1:-30"], "'1:-30' is no time"),
        (["--skip-existing", "--overwrite"], "exclude each other"),
        (["--two-stems", "--stem", "vocals"], "exclude each other"),
        (["--filename", "../{stem}"], "must be a path below the output folder"),
        (["--views", "0"], "0 is not in the range 1<=x<=8"),
        (["--device", "mps"], "there is no device mps that torch can use here; cpu is one"),
        (["--device", "meta"], "there is no device meta that torch can use here"),
        (["-o", "-"], "standard output takes one of --stems of one song"),
    ]:
        assert separate(song, *flags) == 2
        said = capsys.readouterr().err
        assert message in said and len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_clip_modes(separate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    song = write_song(tmp_path / "loud.wav", gain=4)
    stems = {}
    for mode, flags in {
        "float": [],
        "rescale": ["--bit-depth", "16"],  # it is the default of all but float
        "flac": ["--format", "flac"],
        "ogg": ["--format", "ogg"],
        "clamp": ["--bit-depth", "24", "--clip-mode", "clamp"],
        "none": ["--bit-depth", "16", "--clip-mode", "none"],
    }.items():
        assert separate(song, "-o", tmp_path / mode, *flags) == 0
        paths = [next((tmp_path / mode / "loud").glob(f"{s}.*")) for s in ("vocals", "accompaniment")]
        stems[mode] = np.stack([audio.read(path)[0] for path in paths])
        said = capsys.readouterr().err
        if mode == "float":
            assert said == ""
        elif mode in ("rescale", "flac", "ogg"):
            decibels, form = 20 * np.log10(np.abs(stems["float"]).max()), paths[0].suffix
            assert f"vocals{form} and accompaniment{form}: {decibels:.2f} dB quieter" in said
        else:
            beyond = (np.abs(stems["float"][1]) > 1).sum()
            assert f"{paths[1]}: {beyond} samples beyond full scale were cut" in said
    peak = np.abs(stems["float"]).max()
    assert peak > 2
    np.testing.assert_allclose(stems["rescale"] * peak, stems["float"], atol=peak * 2**-14)
    for mode in ("clamp", "none"):
        np.testing.assert_allclose(stems[mode], stems["float"].clip(-1, 1), atol=2**-14)


def test_stems_that_are_there(
    separate: Callable[..., int], song: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vocals, accompaniment = (tmp_path / "out/song" / f"{stem}.wav" for stem in ("vocals", "accompaniment"))
    assert separate(song) == 0
    whole = vocals.read_bytes()
    vocals.write_bytes(b"mine")
    capsys.readouterr()
    assert separate(song) == 2
    assert f"{vocals} is there: take --skip-existing, --overwrite" in capsys.readouterr().err
    assert separate(song, "--skip-existing") == 0
    assert "song.wav: skipped, its stems are there" in capsys.readouterr().err
    assert vocals.read_bytes() == b"mine"
    accompaniment.unlink()  # as a kill between the two leaves it
    assert separate(song, "--skip-existing", "--json") == 0
    assert json.loads(capsys.readouterr().out)["status"] == "done"
    assert vocals.read_bytes() == whole and accompaniment.exists()
    vocals.write_bytes(b"mine")
    assert separate(song, "--overwrite") == 0
    assert vocals.read_bytes() == whole


def test_two_songs_of_one_name(separate: Callable[..., int], tmp_path: Path) -> None:
    songs = [write_song(tmp_path / folder / "song.wav", seed=i) for i, folder in enumerate("ab")]
    assert separate(*songs, "--stem", "vocals") == 0
    assert tree(tmp_path / "out") == ["song (a)/vocals.wav", "song (b)/vocals.wav"]


def test_a_dry_run_and_json(
    separate: Callable[..., int], song: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bad := tmp_path / "bad.wav").write_text("these are words")
    assert separate(song, bad, "--dry-run") == 1
    out = tmp_path / "out"
    printed = capsys.readouterr().out.splitlines()
    assert printed == [str(out / "song" / f"{stem}.wav") for stem in ("vocals", "accompaniment")]
    assert not out.exists()

    assert separate(song, bad, "--json", "--quiet") == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["paths"]["vocals"] == printed[0] and first["seconds"] == 0.5 and first["speed"] > 0
    assert (first["song"], first["status"], first["warnings"], first["error"]) == (
        str(song),
        "done",
        [],
        None,
    )
    assert (second["song"], second["status"], second["speed"]) == (str(bad), "failed", None)
    assert "is not audio" in second["error"]


def test_what_is_lost_of_a_damaged_song_is_said(
    separate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    song = write_song(tmp_path / "song.flac", 20)
    song.write_bytes(song.read_bytes()[: song.stat().st_size * 3 // 4])
    assert separate(song) == 2
    assert "song.flac is truncated" in capsys.readouterr().err
    assert separate(song, "--keep-going", "--json") == 0
    written, said = capsys.readouterr()
    outcome = json.loads(written)
    assert 10 < outcome["seconds"] < 20 and "song.flac is truncated" in outcome["warnings"][0]
    assert outcome["warnings"][0] in said
    assert 10 < soundfile.info(outcome["paths"]["vocals"]).duration < 20


def test_several_at_a_time_and_a_part_of_each(
    separate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    songs = [write_song(tmp_path / f"{i}.wav", 1, seed=i) for i in range(3)]
    part = ["--start", "0:0.25", "--duration", "0.5"]
    threads = torch.get_num_threads()
    for out, jobs in (("one", 1), ("two", 2)):
        assert separate(*songs, *part, "-o", tmp_path / out, "--jobs", jobs, "--verbose") == 0
        said = capsys.readouterr().err
        assert "2.wav: 0 s of audio in" in said
        assert f"on cpu, {max(threads // jobs, 1)} threads a song" in said
        assert "3 songs: 3 done; 2 s of audio in" in said  # 1.5 s
    assert torch.get_num_threads() == threads
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    for name in tree(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    mixture = sum(audio.read(tmp_path / "one" / "1" / f"{s}.wav")[0] for s in ("vocals", "accompaniment"))
    start, end = round(0.25 * 22_050), round(0.25 * 22_050) + round(0.5 * 22_050)
    np.testing.assert_allclose(mixture, audio.read(songs[1])[0][:, start:end], atol=1e-6)


def test_a_pipe(separate: Callable[..., int], song: Path, checkpoint_path: Path, tmp_path: Path) -> None:
    command = [*COMMAND, "-", "--stem", "vocals", "-o", "-", "-w", str(checkpoint_path)]
    run = subprocess.run(command, input=song.read_bytes(), capture_output=True)
    assert (run.returncode, run.stderr) == (0, b"")
    assert separate(song, "--stem", "vocals") == 0
    assert run.stdout == (tmp_path / "out" / "song" / "vocals.wav").read_bytes()
    run = subprocess.run(command, input=b"these are words", capture_output=True, text=False)
    assert run.returncode == 2 and run.stdout == b""
    assert run.stderr.startswith(b"svs-unet: - is not audio") and len(run.stderr.splitlines()) == 1


def test_a_name_that_is_not_utf_8(
    separate: Callable[..., int], checkpoint_path: Path, tmp_path: Path
) -> None:
    name = os.fsdecode(b"caf\xe9")
    song = write_song(tmp_path / "song.wav").rename(tmp_path / f"{name}.wav")
    run = subprocess.run([*COMMAND, song, "-o", tmp_path / "out", "-w", checkpoint_path], capture_output=True)
    assert (run.returncode, run.stderr) == (0, b"")
    assert run.stdout.splitlines()[0] == os.fsencode(tmp_path / "out" / name / "vocals.wav")
    assert separate(song, "--format", "mp3") == 0
    assert tree(tmp_path / "out") == [
        f"{name}/{s}.{f}" for s in ("accompaniment", "vocals") for f in ("mp3", "wav")
    ]


def test_progress_on_a_terminal(checkpoint_path: Path, song: Path, tmp_path: Path) -> None:
    """One bar for the song, in seconds of audio, and one for the batch; paths and the summary stay whole."""
    other = write_song(tmp_path / "other.wav", 2)
    terminal, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, song, other, "-o", tmp_path / "out", "-w", checkpoint_path], stderr=side
    )
    os.close(side)
    said = b""
    while select.select([terminal], [], [], 60)[0]:
        try:
            said += os.read(terminal, 4096)
        except OSError:  # Linux says so when the other side is closed
            break
    os.close(terminal)
    assert process.wait() == 0
    assert b"other.wav: 100%" in said and b"2/2 s" in said
    assert re.search(rb"songs: +\d+%\|", said)
    assert b"2 songs: 2 done; 2 s of audio" in said


def test_a_sign_of_life_where_there_is_no_terminal(
    separate: Callable[..., int],
    song: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert separate(song) == 0
    assert capsys.readouterr().err == ""  # it took less than ten seconds
    monkeypatch.setattr(reports, "SIGN_OF_LIFE_SECONDS", 0.0)
    assert separate(song, "--overwrite") == 0
    assert "song.wav: 0 of 0 s are done" in capsys.readouterr().err
    assert separate(song, "--overwrite", "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_a_gpu_with_too_little_memory(
    separate: Callable[..., int],
    song: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The rest is done on the CPU, and said."""
    init, separate_file = Separator.__init__, Separator.separate_file

    def on_a_gpu(self: Separator, weights: object, device: str | None, **options: object) -> None:
        init(self, weights, device, **options)  # type: ignore[arg-type]
        self.masker.engine.device = device or "cuda:0"

    def fail(self: Separator, *arguments: object, **options: object) -> dict[str, Path]:
        if self.device.startswith("cuda"):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return separate_file(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Separator, "__init__", on_a_gpu)
    monkeypatch.setattr(Separator, "separate_file", fail)
    assert separate(song) == 0
    assert "song.wav: cuda:0 has too little memory: the network runs on the CPU" in capsys.readouterr().err


def test_by_default_without_torch_on_a_cpu(
    song: Path,
    checkpoint_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fast = "openvino" if "openvino" in engines.installed() else "onnxruntime"
    exists = Path.exists

    def there(path: Path, **options: Any) -> bool:
        return has_gpu if path.parent == Path("/dev") else exists(path, **options)

    monkeypatch.setattr(Path, "exists", there)
    for has_gpu, options, expected in (
        (False, [], fast),
        (False, ["-w", "small", "-d", "cpu"], fast),
        (False, ["-w", str(checkpoint_path)], "torch"),
        (False, ["--engine", "torch"], "torch"),
        (True, [], "torch"),
        (True, ["-d", "cpu"], fast),
    ):
        assert main(["separate", str(song), "-o", str(tmp_path / "out"), "--overwrite", "-v", *options]) == 0
        assert f" by {expected} on " in capsys.readouterr().err, (has_gpu, options)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see how far a process is")
@pytest.mark.parametrize("how, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_while_it_starts(song: Path, tmp_path: Path, how: int, code: int) -> None:
    command = [*COMMAND, song, "-o", tmp_path / "out", "--engine", "torch"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(how)
    assert process.communicate()[1] == "svs-unet: stopped; what was finished is kept\n"
    assert process.returncode == code and not (tmp_path / "out").exists()


def test_separate_names_what_it_wrote(
    checkpoint_path: Path, song_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "a song.with dots.wav"
    soundfile.write(other, np.random.default_rng(0).uniform(-1, 1, 9000), 22_050)
    arguments = ["separate", str(song_path), str(other), "-o", str(tmp_path / "out")]
    assert main([*arguments, "-w", str(checkpoint_path)]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in written] == 2 * ["vocals.wav", "accompaniment.wav"]
    assert written[2].parent == tmp_path / "out" / "a song.with dots"
    assert [soundfile.info(path).samplerate for path in written] == 2 * [44_100] + 2 * [22_050]


def test_separate_with_views(
    checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    song = tmp_path / "song.wav"
    soundfile.write(song, np.random.default_rng(0).uniform(-1, 1, 9000), 22_050)
    vocals = []
    for views in ("1", "3"):
        out = ["-o", str(tmp_path / views), "-w", str(checkpoint_path), "--views", views]
        assert main(["separate", str(song), *out]) == 0
        vocals.append(soundfile.read(tmp_path / views / "song" / "vocals.wav")[0])
    assert np.abs(vocals[0] - vocals[1]).max() > 0.001


def bad_file(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "song.wav"
    if kind == "directory":
        path.mkdir()
    elif kind == "not audio":
        path.write_text("these are words")
    elif kind != "missing":
        samples = np.zeros((0 if kind == "empty" else 50_000, 2))
        samples[-1:] = np.nan if kind == "nan" else 0.5
        soundfile.write(path, samples, 44_100, subtype="FLOAT")
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:100_000])
    return path


@pytest.mark.parametrize(
    "kind, message",
    [
        ("missing", "no such file"),
        ("directory", "no songs in the folder"),
        ("not audio", "is not audio"),
        ("empty", "zero samples"),
        ("nan", "NaN or infinite"),
        ("truncated", "is truncated"),
    ],
)
def test_bad_songs(
    checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, message: str
) -> None:
    song, out = bad_file(tmp_path, kind), tmp_path / "out"
    assert main(["separate", str(song), "-o", str(out), "-w", str(checkpoint_path)]) == 2
    said = capsys.readouterr().err
    assert message in said and str(song) in said and len(said.splitlines()) == 1
    assert not out.exists()


def test_bad_weights_and_outputs(
    checkpoint_path: Path, song_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    for weights, out, message in [
        (tmp_path / "none.pth", tmp_path / "out", "no checkpoint at"),
        (song_path, tmp_path / "out", "is no checkpoint"),
        (checkpoint_path, file, "file"),
    ]:
        assert main(["separate", str(song_path), "-o", str(out), "-w", str(weights)]) == 2
        said = capsys.readouterr().err
        assert message in said and len(said.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_one_bad_song_does_not_end_the_batch(
    checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "last"):
        soundfile.write(tmp_path / f"{name}.wav", np.random.default_rng(0).uniform(-1, 1, 9000), 22_050)
    songs = [tmp_path / "first.wav", bad_file(tmp_path, "nan"), tmp_path / "none.wav", tmp_path / "last.wav"]
    arguments = ["-o", str(tmp_path / "out"), "-w", str(checkpoint_path)]
    assert main(["separate", *map(str, songs), *arguments]) == 1
    written, said = capsys.readouterr()
    assert [Path(line).parent.name for line in written.splitlines()] == 2 * ["first"] + 2 * ["last"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["first", "last"]
    *lines, summary = said.splitlines()
    assert [str(song) in line for song, line in zip(songs[1:3], lines, strict=True)] == 2 * [True]
    assert summary.startswith("4 songs: 2 done, 2 failed; 1 s of audio in")


@pytest.mark.parametrize(
    "error, message",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"), "CUDA out of memory."),
        (BrokenProcessPool("A process was terminated abruptly"), "A process was terminated abruptly"),
        (MemoryError(), "MemoryError, without a reason"),
    ],
)
def test_errors_that_are_no_fault_of_the_user(
    separate: Callable[..., int],
    song: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    message: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("svs_unet_plugin.separator.Separator.separate_file", fail)
    assert separate(song) == 2
    said = capsys.readouterr().err
    assert f"{song}: {message}" in said and len(said.splitlines()) == 1
    monkeypatch.setattr("svs_unet_plugin.weights.find", fail)
    assert main(["info", "a.pth"]) == 2
    assert capsys.readouterr().err.startswith(f"svs-unet: {message}")


FULL = """
import resource, signal, sys
from svs_unet_plugin.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))  # as if the disk were full after so much
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("form", ["wav", "mp3"])  # libsndfile's, and what is held until the peak is known
def test_a_full_disk(checkpoint_path: Path, song_path: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", FULL, "separate", song_path, "-o", out, "-w", checkpoint_path]
    run = subprocess.run([*command, "--format", form], capture_output=True, text=True)
    assert run.returncode == 2
    assert str(out) in run.stderr and "File too large" in run.stderr and len(run.stderr.splitlines()) == 1
    assert not out.exists()


def test_no_weights_is_no_random_network(
    song_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("svs_unet_plugin.weights.PRETRAINED", tmp_path)
    assert main(["separate", str(song_path), "-o", str(tmp_path / "out")]) == 2
    assert "no checkpoint at vocals" in capsys.readouterr().err


SLOW = """
import sys, time
from svs_unet_plugin.cli import main
from svs_unet_plugin.progress import Meter
def separating(meter, blocks, separating=Meter.separating):
    for block in separating(meter, blocks):
        time.sleep(1)  # so that ten minutes of audio take minutes on any machine
        yield block
Meter.separating = separating
sys.exit(main(sys.argv[1:]))
"""


def test_arguments_that_are_no_paths(
    separate: Callable[..., int], song: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in [
        ([""], "the path is empty"),
        ([song, "-o", ""], "the path is empty"),
        (["https://example.org/a.mp3"], "is a URL: download the song, and give its path"),
        ([song, "--stem", ","], "it names no stem, such as vocals"),
    ]:
        assert separate(*arguments) == 2
        said = capsys.readouterr().err
        assert message in said and len(said.splitlines()) == 1


def test_each_stem_that_is_asked_for(separate: Callable[..., int], song: Path, tmp_path: Path) -> None:
    assert separate(song, "--stem", "vocals", "--stem", "accompaniment") == 0
    assert tree(tmp_path / "out") == ["song/accompaniment.wav", "song/vocals.wav"]


def test_a_file_that_is_called_as_standard_input_is(
    separate: Callable[..., int], song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    song.rename(tmp_path / "-")
    monkeypatch.chdir(tmp_path)
    assert separate("./-") == 0
    assert tree(tmp_path / "out") == ["-/accompaniment.wav", "-/vocals.wav"]


@pytest.mark.parametrize("arguments, closed", [(["-"], "<&-"), (["-o", "-", "--stem", "vocals"], ">&-")])
def test_standard_streams_that_are_closed(
    checkpoint_path: Path, song: Path, tmp_path: Path, arguments: list[str], closed: str
) -> None:
    where = [] if "-o" in arguments else ["-o", tmp_path / "out"]
    given = [song] if "-o" in arguments else []
    command = " ".join(f"'{word}'" for word in [*COMMAND, *given, *arguments, *where, "-w", checkpoint_path])
    run = subprocess.run(f"{command} {closed}", shell=True, capture_output=True, text=True)
    assert run.returncode == 2 and "is closed" in run.stderr and "Traceback" not in run.stderr


def test_names_that_the_terminal_has_no_characters_for(checkpoint_path: Path, tmp_path: Path) -> None:
    first = write_song(tmp_path / "songs" / "\N{CJK UNIFIED IDEOGRAPH-65E5}.wav")
    write_song(tmp_path / "songs" / "zz.wav")
    command = [*COMMAND, first.parent, "-o", tmp_path / "out", "-w", checkpoint_path]
    run = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert run.returncode == 0 and rb"out/\u65e5/vocals.wav" in run.stdout
    assert len(tree(tmp_path / "out")) == 4


@pytest.mark.parametrize("how, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_in_the_middle(checkpoint_path: Path, tmp_path: Path, how: int, code: int) -> None:
    song, out = tmp_path / "long.wav", tmp_path / "out"
    soundfile.write(song, np.random.default_rng(0).uniform(-1, 1, (44_100 * 120, 2)), 44_100)
    command = [sys.executable, "-c", SLOW, "separate", song, "-o", out, "-w", checkpoint_path]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(out.glob("*/.*.part")):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, how)
    said = process.communicate()[1]
    assert process.returncode == code and "Traceback" not in said
    assert not out.exists(), sorted(out.rglob("*"))


def test_a_signal_that_another_thread_gets(checkpoint_path: Path, tmp_path: Path) -> None:
    """Which does not wake the main thread."""
    song, out = write_song(tmp_path / "long.wav", 240), tmp_path / "out"
    told = "import signal, threading\n" + SLOW.replace(
        "time.sleep(1)", "signal.pthread_kill(threading.get_ident(), signal.SIGTERM); time.sleep(2)"
    )
    command = [sys.executable, "-c", told, "separate", song, "-o", out, "-w", checkpoint_path]
    run = subprocess.run(command, stderr=subprocess.PIPE)
    assert run.returncode == 143 and not out.exists()


@pytest.mark.parametrize("how, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_while_it_waits_for_a_pipe(
    checkpoint_path: Path, tmp_path: Path, how: int, code: int
) -> None:
    command = [*COMMAND, "-", "-o", tmp_path / "out", "-w", checkpoint_path]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    while not list(tmp_path.glob("*/in")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(how)
    assert process.wait(30) == code and not list(tmp_path.iterdir())


def test_songs_that_fail_leave_their_place_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    report = reports.Report(3, 1, as_json=False, quiet=False, verbose=False, to_stdout=False)
    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"), report.progress("a song"):
            raise ValueError("damaged")
    with report.progress("a good one") as move:
        assert move is not None
        move(1.0, 2.0)
