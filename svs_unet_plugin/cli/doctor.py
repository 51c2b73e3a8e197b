"""What is installed here, for bug reports: ``svs-unet doctor``."""

from __future__ import annotations

import platform
import re
import shutil
import sys
from collections import defaultdict

import click

import svs_unet_plugin
from svs_unet_plugin.errors import sentence

PACKAGE = "svs_unet_plugin"
EXTRAS_OF_DEVELOPERS = {"all", "dev", "docs", "fuzz"}
GET_FFMPEG = "apt install ffmpeg (Debian, Ubuntu), brew install ffmpeg (macOS), or conda install ffmpeg"
ENCODERS = {"mp3": "libmp3lame", "ogg": "libvorbis", "opus": "libopus", "m4a": "aac"}


@click.command(short_help="Print what is installed, and what is missing: for bug reports.")
def doctor() -> int:
    """Print versions and devices, and what is missing and how to get it.

    The exit code is 0 if songs can be separated here, and 1 if not.
    """
    core, extras = _requirements()
    _row(PACKAGE, svs_unet_plugin.__version__)
    _row("Python", f"{platform.python_version()}, {sys.executable}")
    _row("system", platform.platform())
    for name in core:
        _row(name, _version(name) or f"missing: pip install {name}")
    works = _separation()
    _ffmpeg()
    for extra, names in extras.items():
        missing = [name for name in names if _version(name) is None]
        versions = ", ".join(f"{name} {_version(name)}" for name in names)
        install = f"missing {', '.join(missing)}: pip install '{PACKAGE}[{extra}]'"
        _row(f"[{extra}]", install if missing else versions)
    return 0 if works else 1


def _row(name: str, value: str) -> None:
    print(f"{name:<16} {value}", flush=True)


def _requirements() -> tuple[list[str], dict[str, list[str]]]:
    """The packages that this one needs always, and those of its extras."""
    from importlib import metadata  # which takes as long as the rest of the command line

    core, extras = [], defaultdict(list)
    try:
        requirements = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        _row("installation", f"{PACKAGE} is not installed, but found beside: pip install .")
        return [], {}
    for requirement in requirements:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        extra = re.search(r"extra == ['\"]([\w-]+)", requirement)
        if extra is None:
            core.append(name)
        elif extra[1] not in EXTRAS_OF_DEVELOPERS:
            extras[extra[1]].append(name)
    return core, extras


def _version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _separation() -> bool:
    """Whether a second of noise can be separated."""
    try:
        import numpy as np
        import soundfile

        from svs_unet_plugin.engines import installed
        from svs_unet_plugin.separator import Separator
        from svs_unet_plugin.threads import get_threads

        engines, devices = installed(), ["cpu"]
        if "torch" in engines:
            import torch

            devices += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
            devices += ["mps"] if torch.backends.mps.is_available() else []
        _row("libsndfile", soundfile.__libsndfile_version__)
        _row("devices", f"{', '.join(devices)}; {get_threads()} threads")
        _row("engines", ", ".join(engines))
        noise = np.random.default_rng(0).uniform(-1, 1, 44_100)
        Separator().separate(noise, 44_100)
    except Exception as error:  # whatever is wrong here is what is looked for
        _row("separation", f"does not work: {sentence(error)}")
        return False
    _row("separation", "works")
    return True


def _ffmpeg() -> None:
    from svs_unet_plugin import ffmpeg

    for program in ("ffmpeg", "ffprobe"):
        path = shutil.which(program)
        if path is None:
            _row(program, f"missing, for video, m4a, tags, and to write mp3, ogg, opus: {GET_FFMPEG}")
            continue
        said = ffmpeg.run([path, "-version"]).stdout.decode()
        _row(program, f"{(said.split() + 3 * ['?'])[2]}, {path}")
        if program == "ffmpeg":
            listed = ffmpeg.run([path, "-v", "quiet", "-encoders"]).stdout.decode()
            missing = [form for form, encoder in ENCODERS.items() if encoder not in listed.split()]
            _row("", f"writes no {', '.join(missing)}" if missing else f"writes {', '.join(ENCODERS)}")
