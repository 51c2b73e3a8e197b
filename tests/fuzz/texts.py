"""What people and other programs write: settings, scores, configurations, manifests, names and tags."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import museval
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import yaml

from fuzz import mutations, networks, sounds
from fuzz.driver import Case, Refused
from fuzz.mutations import damaged, name, odd
from svs_unet_plugin import catalogue, cli, files
from svs_unet_plugin.cli.songs import Naming, Song, check_template, find_songs
from svs_unet_plugin.errors import sentence
from svs_unet_plugin.evaluation import store
from svs_unet_plugin.training import configuration, history

SETTINGS = {
    "weights": "vocals",
    "views": 1,
    "rate": 8192.0,
    "stems": ["vocals"],
    "encoding": {"format": "wav"},
}


def settings(case: Case) -> Iterator[str]:
    """A folder of results is claimed whose record is odd."""
    content, given = mutations.text(case.rng, SETTINGS)
    (case.out / "run").mkdir()
    (case.out / "run" / files.SETTINGS_FILE).write_bytes(content)
    yield given
    with files.claim(case.out / "run", SETTINGS, holds="results", may_change=("views",)) as resumed:
        assert resumed
    assert json.loads((case.out / "run" / files.SETTINGS_FILE).read_text()) == SETTINGS


@cache
def results() -> dict[str, Any]:
    """The files of a folder of results, by their paths in it."""
    track = museval.TrackStore("song")
    for source in ("vocals", "accompaniment"):
        track.add_target(source, {metric: [1.0, float("nan"), 3.0] for metric in store.BSS_METRICS})
    return {
        "one/system.json": {"name": "One", "kind": "trained", "parameters": 7, "seconds_per_minute": 1.0},
        "one/test/song.json": json.loads(track.json),
        "one/scale/song.json": {"vocals": {metric: [1.0, 2.0] for metric in store.SCALE_METRICS}},
        "two/system.json": {"name": "Two", "kind": "oracle"},
    }


LOSSES = "epoch,train,validation\n1,0.5,0.6\n2,0.4,0.5\n"


def scores(case: Case) -> Iterator[str]:
    """A folder of results is read whose files are odd."""
    held = {path: json.dumps(content).encode() for path, content in results().items()}
    held["one/losses.csv"] = LOSSES.encode()
    which = case.rng.choice(list(held))
    if which.endswith(".csv"):
        held[which], given = damaged(case.rng, held[which], b'nan,"\n,,,,\n1e999,-inf,\xff')
    else:
        held[which], given = mutations.text(case.rng, results()[which])
    for path, content in held.items():
        case.write(path, content)
    yield f"{which}: {given}"
    systems = store.read_systems(case.inputs)
    frame = store.read_scores(case.inputs, systems)
    assert frame["score"].dtype == float and list(frame.columns) == [
        "system",
        "track",
        "source",
        "metric",
        "score",
    ]
    history.read_losses(store.losses_file(case.inputs, "one"))


RECIPE = {
    "sources": "vocals,drums",
    "hop_length": 768,
    "epochs": 3,
    "learning_rate": 2e-3,
    "max_channels": 256,
    "mixed_precision": None,
    "schedule": "plateau",
    "bottleneck": "blstm",
}
HOSTILE_YAML = (
    "epochs: !!python/object/apply:os.system ['touch {canary}']",
    "epochs: !!python/object/new:type {{args: ['z', !!python/tuple [], {{'extend': !!python/name:exec }}]}}",
    "!!python/object/apply:builtins.open ['{canary}', 'w']",
    "sources: &a [*a]",
    "a: &a [x, x]\n"
    + "\n".join(f"{chr(98 + i)}: &{chr(98 + i)} [{f'*{chr(97 + i)}, ' * 9}]" for i in range(20)),
    "epochs: 1\n---\nepochs: 2",
    "<<: {{epochs: 1}}",
    "? [a, b]\n: 1",
    "epochs: 0x7fffffffffffffff\nseed: 190:20:30:59",
    "__path__: {canary}\nconf: {canary}",
    "conf: conf.yml",
    "epochs: 2001-01-01",
    "minutes: .inf\nlearning_rate: .nan",
    "class_path: os.system\ninit_args: ['touch {canary}']",
    "sources: ${{oc.env:HOME}}",
)


def recipe(case: Case) -> Iterator[str]:
    """A recipe is configured by an odd file, or an experiment's configuration is odd."""
    rng = case.rng
    if rng.random() < 0.25:
        content, given = rng.choice(HOSTILE_YAML).format(canary=case.canary).encode(), "hostile"
    else:
        content, given = mutations.text(
            rng, RECIPE, lambda values: yaml.safe_dump(values, allow_unicode=rng.random() < 0.5)
        )
    path = case.write("conf.yml", content)
    how = rng.choice(("parsed", "read", "kept"))
    yield f"{given}, {how}"
    parser = configuration.RecipeParser("A recipe")
    if how == "parsed":
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            try:
                parser.configuration(parser.parse_args(["--conf", str(path)]))
            except SystemExit as error:
                lines = [
                    line for line in said.getvalue().splitlines() if not line.lower().startswith("usage:")
                ]
                assert error.code == 2 and lines and "Traceback" not in said.getvalue()
                raise Refused(lines[-1][:1000]) from None  # jsonargparse says the whole value
    elif how == "read":
        configuration.read(case.inputs)
    else:
        sound = parser.configuration(parser.parse_args([]))
        experiment = case.out / "exp"
        experiment.mkdir()
        (experiment / "conf.yml").write_bytes(content)
        configuration.keep(sound, experiment, case.inputs)


def manifest(case: Case) -> Iterator[str]:
    """The manifest of a catalogue is odd."""
    rng = case.rng
    paths: list[Any] = [f"album/{number}.wav" for number in range(5)]
    for _ in range(rng.choice((0, 1, 3))):
        paths.insert(rng.randrange(5), rng.choice((name(rng), name(rng), "album/1.wav", None, "", odd(rng))))
    suffix = rng.choice(("parquet", "csv", "jsonl", "json", "ndjson", "PARQUET"))
    column = "path" if rng.random() < 0.9 else name(rng)
    if suffix.lower() == "parquet":
        content = _parquet(rng, paths, column)
    elif suffix == "csv":
        rows = [str(path) for path in paths]
        content = "\n".join([f"{column},more", *(f"{row},1" for row in rows)]).encode(
            "utf-8", "surrogatepass"
        )
    else:
        content = "\n".join(json.dumps({column: path, "n": 1}) for path in paths).encode()
    given = "odd values"
    if rng.random() < 0.7:
        content, given = damaged(rng, content, _parquet(rng, ["a"], "path"))
    elif rng.random() < 0.1:
        content, given = b'{"path":' * 50_000, "nested"
    path = case.write(f"songs.{suffix}", content)
    yield f"{suffix}, {given}"
    found, base = catalogue.read_manifest(path, case.out)
    assert base == str(case.inputs)
    folders = [catalogue.folder_of(song) for song in found.to_pylist()]
    assert len(set(folders)) == len(folders)
    for folder in folders:
        where = case.out / folder
        assert Path(os.path.normpath(where)) == where and re.fullmatch(r"[0-9a-f]{2}/[^/\n]+", folder)
        where.mkdir(parents=True)


def _parquet(rng: random.Random, paths: list[Any], column: str) -> bytes:
    file = io.BytesIO()
    try:
        table = pa.table({column: pa.array(paths)})
        kind = rng.choice((None, pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())))
        table = table if kind is None else table.cast(pa.schema([(column, kind)]))
        pq.write_table(table, file, compression=rng.choice(("none", "snappy", "zstd", "gzip")))
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, NotImplementedError):
        file = io.BytesIO()
        pq.write_table(pa.table({"path": ["a", "b"], "n": [[1], [2]]}), file)
    return file.getvalue()


STEMS = ("vocals", "accompaniment")


def _below(case: Case, path: Path) -> None:
    assert Path(os.path.normpath(path)) == path and path.is_relative_to(case.out) and path != case.out, path


def names(case: Case) -> Iterator[str]:
    """Songs, tags, weights and a template, all of them odd, make names of stems, which are written."""
    rng = case.rng
    template = rng.choice(
        ("{track}/{stem}.{ext}", "{artist} - {title}/{stem}", "{weights}/{album}/{track} {stem}.{ext}")
    )
    if rng.random() < 0.6:
        template = rng.choice(
            (template + name(rng), name(rng) + template, name(rng, 6), name(rng) + "{stem}{track}")
        )
    tags = {tag: name(rng) for tag in ("artist", "title", "album") if rng.random() < 0.8}
    weights = rng.choice(("vocals", name(rng)))
    tracks = []
    for _ in range(rng.choice((1, 2, 5))):
        called = re.sub(r"[/\0]", "_", name(rng))[:60] + rng.choice((".wav", ".mp3", ""))
        with contextlib.suppress(OSError, UnicodeEncodeError):
            tracks.append(case.write(os.fsdecode(called.encode("utf-8", "surrogatepass")), b"RIFF"))
    yield f"{template!r}, {tags}, weights {weights!r}, {[path.name for path in tracks]}"
    check_template(template, STEMS)
    found = find_songs([rng.choice((case.inputs, *tracks))], case.out, recursive=rng.random() < 0.5)
    songs = [song for song in found if not song.problem] or [Song(Path("a.wav"), PurePath("a"))]
    named = Naming(template, case.out, STEMS, "wav", weights, lambda path: tags).paths(songs)
    assert len(named) == len(songs)
    for path in (path for paths in named for path in paths.values()):
        _below(case, path)
        try:
            files.write_text(path, "a stem")
        except OSError as error:
            raise Refused(sentence(error)) from error


@cache
def _weights() -> bytes:
    return networks.files()["nussl 0"]


def tagged(case: Case) -> Iterator[str]:
    """``svs-unet separate`` is given a file with odd tags, by odd options."""
    rng = case.rng
    form = rng.choice(("flac", "wav", "ogg"))
    path = case.inputs / (
        re.sub(r"[/\0]", "_", name(rng, 2)).encode(errors="replace").decode()[:40] + f"x.{form}"
    )
    samples, rate = soundfile.read(io.BytesIO(sounds.songs()["wav"]))
    with soundfile.SoundFile(os.fsencode(path), "w", rate, 2) as file:
        for tag in ("artist", "title", "album"):
            if value := name(rng).encode(errors="replace").decode().split("\0")[0]:
                setattr(file, tag, value)
        file.write(samples[:2000])
    weights = case.write("w.pth", _weights())
    template = rng.choice(
        (
            "{track}/{stem}.{ext}",
            "{artist} - {title} {stem}.{ext}",
            "{album}/{title}/{stem}.{ext}",
            name(rng) + "{stem}",
        )
    )
    options = rng.choice(
        ([], [], ["--overwrite"], ["--json"], ["--dry-run"], ["--keep-going", "-v"], ["-j", "2"])
    )
    options = [
        *options,
        *rng.choice(
            (
                [],
                [],
                ["--stem", name(rng)],
                ["--start", name(rng)],
                ["--bitrate", name(rng)],
                ["--format", "flac"],
            )
        ),
    ]
    given: list[str] = [
        "separate",
        "-o",
        str(case.out),
        "-w",
        str(weights),
        "--filename",
        template,
        *options,
        "--",
        str(path),
    ]
    yield f"{given}"
    code, said = _command(given)
    if code:
        lines = said.strip().splitlines()
        assert code in (1, 2) and lines, (code, said)
        raise Refused(lines[0])
    written = [path for path in case.out.rglob("*") if path.is_file()]
    assert len(written) == 0 if "--dry-run" in options else len(written) in (1, 2)


def _command(arguments: list[str]) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = cli.main(arguments)
    sys.stderr.write(said.getvalue())
    return code, said.getvalue()
