"""The command line: ``svs-unet separate``, ``info``, ``convert``, ``asteroid-infer`` and ``data``."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

import svs_unet_plugin
from svs_unet_plugin import audio, checkpoint, files
from svs_unet_plugin.separator import Progress, Separator

ERRORS = (OSError, ValueError, ImportError, RuntimeError, MemoryError)
"""What is said in one sentence: bad input, a full disk or GPU, a missing package, a dead worker."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0; 1 if some of the songs could not be separated; 2 if nothing could be done; 130 for Ctrl-C. Each
        reason is one sentence on standard error.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.run is not _asteroid_infer:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that unfinished files are cleared away
    try:
        return options.run(options) or 0
    except ERRORS as error:
        if options.traceback:
            raise
        print(f"svs-unet: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("svs-unet: stopped; what was finished is kept", file=sys.stderr)
        return 130


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, ModuleNotFoundError):
        return f"this needs the package {error.name}: pip install 'svs_unet_plugin[all]'"
    return next(iter(str(error).splitlines()), "") or f"{type(error).__name__}, without a reason"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="svs-unet", description=svs_unet_plugin.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=svs_unet_plugin.__version__)
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("separate", help="separate songs into vocals and accompaniment")
    command.add_argument("songs", nargs="+", type=Path, metavar="SONG", help="any audio file")
    command.add_argument("-o", "--out", type=Path, required=True, help="writes OUT/<song>/<source>.wav")
    command.add_argument("-w", "--weights", help="path of a checkpoint, or name of bundled weights")
    command.add_argument("-d", "--device", help="cpu, cuda …; default: a GPU if there is one")
    command.add_argument(
        "--views",
        type=int,
        default=1,
        help="window lengths to average over, in as many times the time: 1 (default) to 8",
    )
    command.set_defaults(run=_separate)

    command = commands.add_parser("info", help="show what a checkpoint holds")
    command.add_argument("checkpoint", help="path of a checkpoint, or name of bundled weights")
    command.set_defaults(run=_info)

    command = commands.add_parser(
        "convert", help="turn a nussl checkpoint into an asteroid file, or an asteroid file into a checkpoint"
    )
    command.add_argument("checkpoint", help="path of a checkpoint, or name of bundled weights")
    command.add_argument("out", type=Path, metavar="OUT")
    command.set_defaults(run=_convert)

    command = commands.add_parser(
        "asteroid-infer",
        help="asteroid's own command line, with this model in it; takes all of its flags (-h)",
        add_help=False,  # asteroid has its own
    )
    command.set_defaults(run=_asteroid_infer)

    data = commands.add_parser("data", help="make or prepare data").add_subparsers(
        required=True, metavar="DATA"
    )
    command = data.add_parser("demo", help="make synthetic songs, in MUSDB18-HQ's layout")
    command.add_argument("out", type=Path, metavar="OUT")
    command.add_argument("--tracks", type=int, default=24, help="how many (default 24)")
    command.add_argument("--seconds", type=float, default=20.0, help="how long each (default 20)")
    command.add_argument("--seed", type=int, default=0, help="other seeds, other songs (default 0)")
    command.add_argument("--rate", type=int, default=44_100, metavar="HZ", help="default 44100")
    command.add_argument("--stems", action="store_true", help="write .stem.mp4 files, as MUSDB18 has them")
    command.set_defaults(run=_data_demo)

    command = data.add_parser("mir1k", help="sort a folder of MIR-1K clips into nussl's mix-source layout")
    command.add_argument("clips", type=Path, metavar="CLIPS", help="folder of two-channel clips")
    command.add_argument("out", type=Path, metavar="OUT")
    command.set_defaults(run=_data_mir1k)

    command = data.add_parser("fetch-mir1k", help="download MIR-1K, and print the folder of its clips")
    command.add_argument("out", type=Path, metavar="OUT")
    command.set_defaults(run=_data_fetch_mir1k)

    command = data.add_parser("musdb7s", help="download MUSDB18's 7-second sample")
    command.add_argument("out", type=Path, metavar="OUT")
    command.set_defaults(run=_data_musdb7s)

    command = data.add_parser("check", help="list what is in a folder of MUSDB18, and what is wrong with it")
    command.add_argument("source", type=Path, metavar="SOURCE", help="with .stem.mp4 files or WAV folders")
    command.add_argument("--jobs", type=int, help="processes (default: one a core)")
    command.set_defaults(run=_data_check)

    command = data.add_parser("prepare", help="bring MUSDB18 to 8192 Hz, in MUSDB18-HQ's layout")
    command.add_argument("source", type=Path, metavar="SOURCE", help="with .stem.mp4 files or WAV folders")
    command.add_argument("out", type=Path, metavar="OUT")
    command.add_argument("--segment", type=float, metavar="SECONDS", help="cut training tracks, at 30 s, say")
    command.add_argument("--trim", type=float, metavar="SECONDS", help="shorten their silences to this")
    command.add_argument("--jobs", type=int, help="processes (default: one a core)")
    command.set_defaults(run=_data_prepare)
    return parser


def _separate(options: argparse.Namespace) -> int:
    folders = {song: options.out / audio.track_name(song) for song in options.songs}
    for folder, times in Counter(folders.values()).items():
        if times > 1:
            raise ValueError(f"{times} of these songs would be written to {folder}: separate them one by one")
    separator = Separator(options.weights, options.device, views=options.views)
    failed = 0
    for song, folder in folders.items():
        try:
            with _bar(song.name) as progress:
                paths = separator.separate_file(song, folder, progress=progress)
        except ERRORS as error:
            if options.traceback:
                raise
            failed += 1
            sentence = _sentence(error)
            named = sentence if str(song) in sentence else f"{song}: {sentence}"
            print(f"svs-unet: {named}", file=sys.stderr)
        else:
            print(*paths.values(), sep="\n", flush=True)
    return 0 if not failed else 1 if failed < len(folders) else 2


@contextmanager
def _bar(name: str) -> Iterator[Progress]:
    with tqdm(desc=name, unit="s", disable=not sys.stderr.isatty()) as bar:

        def show(done: float, total: float) -> None:
            bar.total = round(total, 1)
            bar.update(round(done, 1) - bar.n)

        yield show


def _info(options: argparse.Namespace) -> None:
    loaded = checkpoint.read(options.checkpoint)
    network, stft, metadata = loaded.network, loaded.stft, loaded.metadata
    parameters = sum(parameter.numel() for parameter in network.parameters())
    rows = {
        "file": checkpoint.find(options.checkpoint),
        "network": f"U-Net, {parameters:,} parameters, first layer {network.channels} wide"
        + (f", {network.residual_blocks} residual blocks a layer" if network.residual_blocks else "")
        + (f", {network.bottleneck_type} bottleneck" if network.bottleneck_type else ""),
        "sources": ", ".join(network.sources),
        "transform": f"{stft.sample_rate} Hz, window {stft.window_length}, hop {stft.hop_length}",
        "nussl": metadata.get("nussl_version"),
        "asteroid": metadata.get("software_versions", {}).get("asteroid_version"),
        "trained on": (metadata.get("train_dataset") or {}).get("name"),
        "epochs": (metadata.get("trainer.state_dict") or {}).get("epoch"),
    }
    for key, losses in (metadata.get("trainer.state.epoch_history") or {}).items():
        rows[key] = f"{losses[-1]:.5f} at the end, {min(losses):.5f} at best"
    for key, value in rows.items():
        if value is not None:
            print(f"{key:<16} {value}")


def _convert(options: argparse.Namespace) -> None:
    loaded = checkpoint.read(options.checkpoint)
    if loaded.host == "asteroid":
        import svs_unet_plugin.nussl as svs

        svs.save(svs.from_network(loaded.network), options.out, stft=loaded.stft)
    else:
        import torch

        from svs_unet_plugin.asteroid import SVSUNet

        with files.atomic_write(options.out) as beside:
            torch.save(SVSUNet.from_network(loaded.network, loaded.stft).serialize(), beside)
    print(options.out)


def _asteroid_infer(options: argparse.Namespace) -> None:
    from svs_unet_plugin.asteroid import infer

    infer(options.rest)


def _data_demo(options: argparse.Namespace) -> None:
    from svs_unet_plugin.corpora.synthetic.corpus import make_corpus

    make_corpus(
        options.out,
        options.tracks,
        options.seconds,
        options.seed,
        stems=options.stems,
        sample_rate=options.rate,
    )
    print(options.out)


def _data_mir1k(options: argparse.Namespace) -> None:
    from svs_unet_plugin.corpora.mir1k import prepare

    prepare(options.clips, options.out)
    print(options.out)


def _data_fetch_mir1k(options: argparse.Namespace) -> None:
    from svs_unet_plugin.corpora.mir1k import fetch

    print(fetch(options.out))


def _data_musdb7s(options: argparse.Namespace) -> None:
    from svs_unet_plugin.corpora.musdb import fetch_sample

    fetch_sample(options.out)
    print(options.out)


def _data_check(options: argparse.Namespace) -> None:
    from svs_unet_plugin.corpora import musdb

    print(musdb.summary(musdb.check(options.source, options.jobs)))


def _data_prepare(options: argparse.Namespace) -> None:
    from svs_unet_plugin.corpora.prepare import Settings, prepare

    settings = Settings(segment_seconds=options.segment, trim_seconds=options.trim)
    prepared = prepare(options.source, options.out, settings, jobs=options.jobs)
    for name, problem in prepared.skipped.items():
        print(f"skipped: {name}: {problem}", file=sys.stderr)
    print(prepared.folder)


if __name__ == "__main__":
    sys.exit(main())
