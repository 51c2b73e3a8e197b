"""Coverage-guided fuzzing, by Atheris, of the reader of checkpoints and of what looks at audio files.

    python tests/fuzz/coverage.py checkpoints|pickles|audio [options of libFuzzer, such as
    -max_total_time=300]

It begins with the sound files of the other suite. Of checkpoints, "pickles" changes the pickle alone, in an
archive whose checksums are right. Audio is looked at without ffmpeg, which is another program,
so that Atheris sees the search for MP3 frames, and libsndfile's crashes if there are any. It ends with an
error at the first input that raises anything but a ``ValueError`` or an ``OSError``, that starts a program,
or that takes more than 20 s or 4 GB; libFuzzer prints where it wrote that input.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:1] = map(str, Path(__file__).parents[1:3])

import atheris  # noqa: E402
import torch  # noqa: E402, F401, with all of which it would take minutes

with atheris.instrument_imports(include=["svs_unet_plugin"]):
    from svs_unet_plugin import audio, checkpoint, ffmpeg

FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "socket.connect",
    "pickle.find_class",
)


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in FORBIDDEN:
        raise AssertionError(f"it did {event}{arguments!r}")


def look(kind: str, path: Path) -> None:
    try:
        if kind == "audio":
            audio.open_file(path)
        else:
            checkpoint.read(path)
    except (ValueError, OSError) as error:
        assert str(error) and "\n" not in str(error)


def main() -> None:
    kind = (
        sys.argv[1]
        if len(sys.argv) > 1 and sys.argv[1] in ("checkpoints", "pickles", "audio")
        else sys.exit(__doc__)
    )
    audible = kind == "audio"
    module = importlib.import_module("fuzz.sounds" if audible else "fuzz.networks")
    seeds: dict[str, bytes] = module.songs() if audible else module.files()
    members: dict[str, bytes] = {}
    if kind == "pickles":
        archives = [zipfile.ZipFile(io.BytesIO(seeds[name])) for name in ("nussl 0", "asteroid 0")]
        held = [
            {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
            for archive in archives
        ]
        members = held[0]  # of both hosts' files the tensors have numbers for names
        seeds = {str(number): one["data.pkl"] for number, one in enumerate(held)}
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{kind}-"))
    for number, content in enumerate(seeds.values()):
        (folder / str(number)).write_bytes(content)
    path = folder / ("input.mp3" if audible else "input.pth")
    ffmpeg.installed = lambda: False
    sys.addaudithook(refuse)

    def test(data: bytes) -> None:
        if kind == "pickles":
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in {**members, "data.pkl": data}.items():
                    archive.writestr(f"a/{name}", content)
        else:
            path.write_bytes(data)
        look(kind, path)

    longest = f"-max_len={max(map(len, seeds.values()))}"
    limits = ["-timeout=20", "-rss_limit_mb=4096", longest, f"-artifact_prefix={folder}/found-"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[2:], str(folder)], test)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
