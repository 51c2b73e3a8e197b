"""Audio files: read, separated, and given to the page."""

from __future__ import annotations

import io
import random
import re
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import quote

import numpy as np
import soundfile

from fuzz.driver import Case, Refused
from fuzz.mutations import damaged, name
from fuzz.networks import small
from svs_unet_plugin import Separator, audio, ffmpeg
from svs_unet_plugin.page.songs import Limits, Songs

_LIBSNDFILE = {
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "x.wav": ("WAVEX", "PCM_24"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
}
_FFMPEG = {
    "mp3": ("-c:a", "libmp3lame", "-q:a", "4", "-metadata", "title=A tune"),
    "cbr.mp3": ("-c:a", "libmp3lame", "-b:a", "64k", "-write_xing", "0", "-id3v2_version", "0"),
    "opus": ("-c:a", "libopus"),
    "m4a": ("-c:a", "aac", "-metadata", "artist=A singer", "-f", "ipod"),
    "stem.mp4": ("-map", "0", "-map", "0", "-map", "0", "-c:a", "aac", "-f", "mp4"),
    "mka": ("-c:a", "libvorbis"),
    "aac": ("-c:a", "aac"),
    "wv": (),
}


@cache
def songs() -> dict[str, bytes]:
    """A quarter of a second in each format, by its extension."""
    generator = np.random.default_rng(0)
    rate = 22_050
    time = np.arange(rate // 4) / rate
    tones = [np.sin(2 * np.pi * pitch * time) for pitch in (220, 331)]
    samples = (0.3 * np.stack(tones, axis=1) + 0.02 * generator.standard_normal((len(time), 2))).astype("f4")
    found = {}
    for extension, (form, subtype) in _LIBSNDFILE.items():
        file = io.BytesIO()
        soundfile.write(file, samples, rate, format=form, subtype=subtype)
        found[extension] = file.getvalue()
    if ffmpeg.installed():
        with tempfile.TemporaryDirectory() as folder:
            for extension, options in _FFMPEG.items():
                path = Path(folder, f"song.{extension}")
                command = ["ffmpeg", "-v", "error", "-f", "wav", "-i", "-", *options, "-ac", "2"]
                command += ["-flags:a", "+bitexact", "-fflags", "+bitexact", str(path)]
                subprocess.run(command, input=found["wav"], check=True)
                found[extension] = path.read_bytes()
    return found


def song(rng: random.Random) -> tuple[str, bytes, str]:
    """The extension of a song, its bytes, most often damaged, and what was done to it."""
    known = songs()
    extension, other = rng.choice(list(known)), rng.choice(list(known.values()))
    named = extension if rng.random() < 0.8 else rng.choice(list(known))
    if rng.random() < 0.04:
        return named, known[extension], f"whole {extension}"
    content, damage = damaged(rng, known[extension], other)
    return named, content, f"{damage} {extension}"


def reading(case: Case) -> Iterator[str]:
    """A file is opened and read twice, or separated."""
    rng = case.rng
    extension, content, given = song(rng)
    path = case.write(f"song.{extension}", content)
    options = {"keep_going": rng.random() < 0.4}
    if rng.random() < 0.2:
        options |= {"start": rng.choice((0.0, 0.1, 10.0)), "duration": rng.choice((None, 1e-9, 0.1, 1e9))}
    yield f"{given} {options}"
    file = audio.open_file(path, **options)
    if rng.random() < 0.3:
        separator = Separator(small())
        stems = separator.separate_file(file, case.out)
        vocals, accompaniment = (
            soundfile.read(stem, dtype="float32", always_2d=True)[0].T for stem in stems.values()
        )
        mixture = np.concatenate(list(file.blocks()), axis=1)
        assert vocals.shape == accompaniment.shape == mixture.shape
        loudest = max(1.0, float(np.abs(mixture).max()))
        assert np.abs(vocals + accompaniment - mixture).max() <= 1e-5 * loudest
    else:
        first = list(file.blocks())
        for block in first:
            assert block.dtype == np.float32 and len(block) == file.channels and np.isfinite(block).all()
        samples = sum(block.shape[1] for block in first)
        assert samples > 0 and (file.samples is None or file.warnings or samples <= file.samples)
        if rng.random() < 0.3:
            assert all(np.array_equal(*both) for both in zip(first, file.blocks(), strict=True))
        if given.startswith("whole") and len(options) == 1:
            assert abs(samples - 22_050 / 4 * file.sample_rate / 22_050) < 0.12 * file.sample_rate


_PRIVATE = re.compile(r"/tmp/|/a/b/|/a/tmp|site-packages|Traceback|\.py\b")


def page(case: Case) -> Iterator[str]:
    """A song is given to the page, and pieces, pictures and files of it are asked for."""
    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    rng = case.rng
    extension, content, given = song(rng)
    if rng.random() < 0.1:
        content, given = rng.choice((b"", rng.randbytes(100), bytes(3_000_000), b"\0" * 100)), "no song"
    called = (
        rng.choice((f"a.{extension}", name(rng), name(rng) + ".wav", "x" * 5000))
        .encode(errors="replace")
        .decode()
    )
    headers: dict[str, bytes] = {}
    if rng.random() < 0.15:
        length = rng.choice(("-1", "x", "", "9" * 30, "1e3", "٣", "5, 5", "0"))
        headers["content-length"] = length.encode()
    if rng.random() < 0.2:
        headers["content-type"] = rng.choice((b"multipart/form-data; boundary=x", b"text/html", b"\xe9", b""))
    yield f"{given}, {len(content)} bytes, name {called!r}, {headers}"
    kept = Songs(Limits(minutes=0.05, megabytes=2.0))
    try:
        http = TestClient(Starlette(routes=kept.routes()))
        answer = http.post(kept.address, params={"name": called}, content=content, headers=headers)
        problems = _asked(answer, 413, 422, 400)
        said = answer.json() if answer.status_code in (200, 413, 422) else {"error": answer.text}
        known = said.get("song", "no-such-song")
        for _ in range(rng.choice((1, 3))):
            where, query = _question(rng, known)
            problems |= _asked(http.get(f"{kept.address}/{where}", params=query), 404, 405, 400)
        assert not problems, problems
        if answer.status_code != 200:
            assert set(said) == {"error"}
            raise Refused(said["error"])
        assert said["seconds"] > 0 and len(said["name"]) <= 100
    finally:
        kept.close()


def _question(rng: random.Random, known: str) -> tuple[str, dict[str, str]]:
    """An address below that of the songs, and a query."""
    which = rng.choice((known, known, known, "..", "x", "%2e%2e", name(rng)))
    stem = rng.choice(("mixture", "mixture", "mix", "vocals", "mask", "..", "%2e%2e%2fgiven", name(rng)))
    kind = rng.choice(
        (
            f"pieces/{stem}",
            f"pictures/{stem}.webp",
            f"files/{stem}.{rng.choice(('wav', 'flac', 'mp3', 'exe', '../x'))}",
            "",
        )
    )
    number = rng.choice(
        ("0", "10", "-1", "1e3", "x", "", "9" * 12, "9" * 4000, "٣", "nan", "inf", "-60", "6.0001")
    )
    query = {key: number for key in ("start", "count", "mixture", "vocals") if rng.random() < 0.6}
    return quote(f"{which}/{kind}", safe="/%", errors="replace"), query


def _asked(answer: object, *codes: int) -> set[str]:
    """What is wrong with an answer: an error is one of these codes with a sentence that tells no path."""
    status, headers = answer.status_code, answer.headers  # type: ignore[attr-defined]
    if status == 200:
        return set()
    said = answer.text  # type: ignore[attr-defined]
    if status not in codes or not said or "\n" in said.strip() or _PRIVATE.search(said):
        return {f"{status} {dict(headers)} {said[:500]}"}
    return set()
