"""Songs into stems: ``svs-unet separate``."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from svs_unet_plugin.cli import catalogue, process
from svs_unet_plugin.cli.completion import complete_weights
from svs_unet_plugin.cli.paths import STDIN, OutType, SongType
from svs_unet_plugin.cli.reports import Report, listening
from svs_unet_plugin.cli.songs import Naming, check_template, find_songs

if TYPE_CHECKING:
    from svs_unet_plugin.encoding import Encoding

FORMATS = ("wav", "flac", "mp3", "ogg", "opus", "m4a")  # those of encoding, which takes longer to import
ENGINES = ("torch", "onnxruntime", "openvino")  # those of engines, likewise


class _Bitrate(click.ParamType):
    name = "bitrate"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        digits, thousand = (value[:-1], True) if value[-1:] in "kK" else (value, False)
        if not digits.isdecimal():
            self.fail(f"{value!r} is no bit rate, such as 192k", param, ctx)
        return int(digits) * (1000 if thousand or int(digits) < 1000 else 1)


class _Seconds(click.ParamType):
    name = "time"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        if not re.fullmatch(r"(\d+:)*(\d+\.?\d*|\.\d+)", value, re.ASCII):
            self.fail(f"{value!r} is no time in seconds, or minutes:seconds", param, ctx)
        seconds = 0.0
        for part in value.split(":"):
            seconds = 60 * seconds + float(part)
        return seconds


def _split(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...] | None:
    names = dict.fromkeys(name.strip() for value in values for name in value.split(","))
    if values and not any(names):
        raise click.BadParameter("it names no stem, such as vocals")
    return tuple(name for name in names if name) or None


@click.command(short_help="Separate songs into vocals and accompaniment.")
@click.argument("songs", nargs=-1, type=SongType(), metavar="SONG...")
@click.option(
    "-o", "--out", type=OutType(), required=True, help="Folder of the stems, or - for standard output."
)
@click.option(
    "-w",
    "--weights",
    shell_complete=complete_weights,
    help="Path of a checkpoint, name of bundled weights, or owner/name@revision on the Hugging Face Hub.",
)
@click.option("-r", "--recursive", is_flag=True, help="Look for songs in the folders of folders, too.")
@click.option(
    "--stems",
    "--stem",
    multiple=True,
    callback=_split,
    metavar="NAMES",
    help="Such as vocals, or several with commas; by default all.",
)
@click.option("--two-stems", is_flag=True, help="Vocals and accompaniment alone, of a network with more.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="wav", show_default=True)
@click.option(
    "--bit-depth",
    type=click.Choice(("16", "24", "float")),
    help="Of wav (float by default) and flac (24 by default).",
)
@click.option("--bitrate", type=_Bitrate(), help="Of mp3, ogg, opus and m4a, such as 192k.")
@click.option("--sample-rate", type=int, metavar="HZ", help="Of the stems; by default the song's.")
@click.option(
    "--clip-mode",
    type=click.Choice(("rescale", "clamp", "none")),
    help="What to do beyond full scale: rescale all stems of a song by one factor (by default), clamp "
    "samples, or none (by default for float wav).",
)
@click.option(
    "--filename",
    default="{track}/{stem}.{ext}",
    show_default=True,
    metavar="TEMPLATE",
    help="Below OUT, with {track} {stem} {ext} {weights}, and {artist} {title} {album} from tags.",
)
@click.option("--skip-existing", is_flag=True, help="Pass over songs whose stems are all there.")
@click.option("--overwrite", is_flag=True, help="Replace stems that are there.")
@click.option("--dry-run", is_flag=True, help="Only say what would be written.")
@click.option("-j", "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Songs at a time.")
@click.option("-d", "--device", metavar="NAME", help="cpu, cuda, mps ...; by default a GPU if there is one.")
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    help="What computes the network. By default, for bundled weights and ONNX models on a CPU, OpenVINO if "
    "it is installed, else ONNX Runtime; otherwise torch.",
)
@click.option(
    "--views",
    type=click.IntRange(1, 8),
    default=1,
    show_default=True,
    help="Number of window lengths to average over; three take three times as long.",
)
@click.option("--start", type=_Seconds(), default=0.0, help="Where to begin: seconds, or minutes:seconds.")
@click.option("--duration", type=_Seconds(), help="How much to separate: seconds, or minutes:seconds.")
@click.option("--keep-going", is_flag=True, help="Take what can be decoded of damaged songs.")
@click.option(
    "--on", type=click.Choice(("ray",)), help="Separate a catalogue on Ray, on all CPUs or a cluster."
)
@click.option(
    "--manifest",
    type=click.Path(),
    metavar="TABLE",
    help="With --on ray: its songs, a table or folder, path or URL.",
)
@click.option("--address", help="With --on ray: a cluster, such as auto; by default this machine alone.")
@click.option("--retry-failed", is_flag=True, help="With --on ray: songs that failed before, too.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each song.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
@click.pass_context
def separate(
    context: click.Context,
    songs: tuple[Path, ...],
    out: Path | str,
    weights: str | None,
    recursive: bool,
    stems: tuple[str, ...] | None,
    two_stems: bool,
    form: str,
    bit_depth: str | None,
    bitrate: int | None,
    sample_rate: int | None,
    clip_mode: str | None,
    filename: str,
    skip_existing: bool,
    overwrite: bool,
    dry_run: bool,
    jobs: int,
    device: str | None,
    engine: str | None,
    views: int,
    start: float,
    duration: float | None,
    keep_going: bool,
    on: str | None,
    manifest: str | None,
    address: str | None,
    retry_failed: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Separate songs into vocals and accompaniment.

    A SONG is whatever ffmpeg decodes, video as well, a folder of such files, a pattern, or - for standard
    input. The exit code is 0 if all could be separated, 1 if some, 2 if none.

    With --on ray, the songs are those that --manifest lists: a Parquet, CSV or JSON lines file with a column
    path, or a folder. What became of them is a table in OUT/catalogue/results. A new run skips what is in it.
    """
    if two_stems and stems is not None:
        raise click.UsageError("--two-stems and --stems exclude each other")
    if skip_existing and overwrite:
        raise click.UsageError("--skip-existing and --overwrite exclude each other")
    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose exclude each other")
    form_options = form, bit_depth, bitrate, sample_rate, clip_mode
    if on is not None:
        return catalogue.separate(context, lambda: encoding_of(*form_options))
    for name, value in (("--manifest", manifest), ("--address", address), ("--retry-failed", retry_failed)):
        if value:
            raise click.UsageError(f"{name} goes with --on ray")
    if not songs:
        raise click.UsageError("Missing argument 'SONG...'")
    if isinstance(out, str):
        raise click.UsageError(f"--out {out} is a URL, to which --on ray alone can write")
    to_stdout = out == STDIN
    found = find_songs(songs, None if to_stdout else out, recursive)
    if to_stdout and (as_json or dry_run or len(found) > 1 or len(stems or ()) != 1):
        raise click.UsageError("standard output takes one of --stems of one song, and no --json or --dry-run")
    if to_stdout and sys.stdout is None:
        raise click.UsageError("standard output is closed")
    with process.quits_at_once(), listening():  # nothing is to be cleared away yet, and torch takes long
        from svs_unet_plugin.audio import open_file
        from svs_unet_plugin.cli.batch import Batch
        from svs_unet_plugin.encoding import read_tags
        from svs_unet_plugin.separator import ACCOMPANIMENT, Separator
        from svs_unet_plugin.threads import get_threads, limited_threads
        from svs_unet_plugin.weights import find

        encoding = encoding_of(*form_options)
        engine = engine or _without_torch(weights, device)
        separator = Separator(weights, device, views=views, engine=engine)
        wanted = ("vocals", ACCOMPANIMENT) if two_stems else stems or separator.sources
        if unknown := set(wanted) - set(separator.sources):
            raise click.UsageError(f"--stems may be {', '.join(separator.sources)}, got {', '.join(unknown)}")
        check_template(filename, wanted)
    with listening(), ExitStack() as stack:
        spool = Path(stack.enter_context(tempfile.TemporaryDirectory())) if STDIN in (out, *songs) else Path()
        naming = Naming(
            filename, spool / "out" if to_stdout else out, wanted, form, _weights_name(weights), read_tags
        )
        report = Report(len(found), jobs, as_json=as_json, quiet=quiet, verbose=verbose, to_stdout=to_stdout)
        threads = max(get_threads() // jobs, 1)
        stack.enter_context(limited_threads(threads))
        report.tell(f"{find(weights)} by {separator.engine} on {separator.device}, {threads} threads a song")
        batch = Batch(
            separator,
            lambda: Separator(weights, "cpu", views=views, engine=engine),
            encoding,
            report,
            skip_existing=skip_existing,
            overwrite=overwrite,
            dry_run=dry_run,
            open_file=partial(open_file, keep_going=keep_going, start=start, duration=duration),
            traceback=context.find_root().params["traceback"],
            spool=spool,
        )
        batch.run(found, naming, jobs)
        if to_stdout and report.exit_code == 0:
            with report.outcomes[0].paths[wanted[0]].open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.flush()
    return report.exit_code


def _without_torch(weights: str | None, device: str | None) -> str | None:
    """An engine that takes no torch, whose import takes longer than most songs, where nothing needs torch.

    That is on a CPU, for weights that are there as a graph.
    """
    from svs_unet_plugin.engines import installed
    from svs_unet_plugin.weights import has_graph

    gpu = device is None and any(Path("/dev", name).exists() for name in ("nvidiactl", "dxg", "kfd"))
    if gpu or device not in (None, "cpu") or not has_graph(weights):
        return None
    return "openvino" if "openvino" in installed() else "onnxruntime"


def encoding_of(
    form: str, bit_depth: str | None, bitrate: int | None, sample_rate: int | None, clip_mode: str | None
) -> Encoding:
    """The form of the stems that the options ask for, if it can be written here."""
    from svs_unet_plugin.encoding import Encoding, require

    if clip_mode is None:
        clip_mode = "none" if form == "wav" and bit_depth in (None, "float") else "rescale"
    encoding = Encoding(form, bit_depth, bitrate, sample_rate, clip_mode)
    require(encoding)
    return encoding


def _weights_name(weights: str | None) -> str:
    """What weights are called in the names of stems: that of a bundled or hub model, or of a file."""
    from svs_unet_plugin.weights import DEFAULT_NAME

    if weights is None:
        return DEFAULT_NAME
    return Path(weights).stem if Path(weights).is_file() else weights
