"""Catalogues of songs, separated by Ray Data on one machine or on a cluster: `separate_catalogue`.

A catalogue is a table of paths, its result a table of what became of them. Nothing but paths goes through
Ray: workers read the songs and write the stems themselves, whole or not at all, on any file system that
fsspec knows. A song that can't be separated is a row with an error.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset
import pyarrow.json
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from tqdm import tqdm

from svs_unet_plugin import audio, files
from svs_unet_plugin.encoding import Encoding
from svs_unet_plugin.engines import Graph
from svs_unet_plugin.errors import first_line, sentence
from svs_unet_plugin.separator import Separator
from svs_unet_plugin.stft import STFT
from svs_unet_plugin.threads import cpus, set_threads
from svs_unet_plugin.weights import PRETRAINED, parts

if TYPE_CHECKING:
    from svs_unet_plugin.unet import UNet

ATTEMPTS = 2
"""How many workers may end at a song before it is given up."""

START_ATTEMPTS = 3
"""How often Ray is started: on a machine that is very busy it may take longer than Ray waits."""

MOST_SONGS_A_TASK = 32
"""Songs that a worker takes at a time; few, since what becomes of them is told when all are done."""

LONGEST_WAIT = 60.0
"""Seconds that results wait for being written, at most; less at the beginning of a run."""

_FORMATS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "json", ".ndjson": "json", ".json": "json"}
_CSV = pyarrow.dataset.CsvFileFormat(  # in which names of digits are text, too
    convert_options=pyarrow.csv.ConvertOptions(column_types={"path": pa.large_string()})
)

STEM = pa.struct(
    [("stem", pa.string()), ("path", pa.string()), ("bytes", pa.int64()), ("sha256", pa.string())]
)

SCHEMA = pa.schema(
    [
        ("path", pa.large_string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("duration", pa.float64()),
        ("seconds", pa.float64()),
        ("stems", pa.list_(STEM)),
    ]
)
"""A row of results: the path as the manifest has it, ``done`` or ``failed``, why, the song's duration and the
time that it took in seconds, and what was written."""


@dataclass(frozen=True)
class Summary:
    """What became of a catalogue.

    Args:
        done, failed: songs of this run.
        before: songs that an earlier run has listed, done or failed, and that were skipped.
        failed_before: those of them that failed.
        results: the folder of the table.
    """

    done: int
    failed: int
    before: int
    failed_before: int
    results: str


@dataclass(frozen=True)
class Job:
    """What is the same for every song.

    Args:
        base: what paths in the manifest are relative to, a path or URL.
        out: where the stems go, a path or URL.
    """

    base: str
    out: str
    stems: tuple[str, ...]
    encoding: Encoding
    views: int


class Worker:
    """One process of many, with a network of its own; Ray Data calls it with paths, and gets rows of results.

    Args:
        network, stft: as `Separator` takes them.
        starts: the actor that counts, by path, the workers that have begun a song.
    """

    def __init__(self, network: UNet | Graph, stft: STFT, job: Job, starts: Any) -> None:
        set_threads(1)
        self.job, self.starts = job, starts
        self.separator = Separator(network, stft=stft, views=job.views)  # on the GPU that Ray gives, or none

    def __call__(self, songs: pa.Table) -> Iterator[pa.Table]:
        for path in songs["path"].to_pylist():
            yield pa.Table.from_pylist([self.result(path)], SCHEMA)

    def result(self, path: str) -> dict[str, Any]:
        """The row of a song, whatever happens."""
        import ray

        start = time.monotonic()
        row: dict[str, Any] = {"path": path, "status": "failed", "stems": []}
        if ray.get(self.starts.begin.remote(path)) > ATTEMPTS:
            row["error"] = f"{ATTEMPTS} workers were killed while they separated it"
        else:
            try:
                row["duration"], row["stems"] = self.separate(path)
                row["status"] = "done"
            except Exception as error:
                row["error"] = sentence(error)
        self.starts.end.remote(path)
        return {**row, "seconds": time.monotonic() - start}

    def separate(self, path: str) -> tuple[float, list[dict[str, Any]]]:
        """Separate a song.

        Returns:
            Its duration in seconds, and what was written, as in `SCHEMA`.
        """
        url = located(path, self.job.base)
        source, at = _file_system(url)
        target, root = _file_system(self.job.out)
        folder = f"{root.rstrip('/')}/{folder_of(path)}"
        with ExitStack() as stack:
            if isinstance(source, LocalFileSystem) and isinstance(target, LocalFileSystem):
                scratch = Path()
            else:
                scratch = stack.enter_context(_scratch(path))
            song = Path(at)
            if not isinstance(source, LocalFileSystem):
                song = scratch / song.name
                source.get_file(at, str(song))
            local = Path(folder) if isinstance(target, LocalFileSystem) else scratch / "stems"
            for leftover in local.glob(f".*{files.PART_SUFFIX}"):  # of a worker that was killed here
                leftover.unlink(missing_ok=True)
            seconds = 0.0

            def progress(done: float, total: float) -> None:
                nonlocal seconds
                seconds = total

            try:
                written = self.separator.separate_file(
                    song, local, stems=self.job.stems, encoding=self.job.encoding, progress=progress
                )
            except Exception as error:
                said = sentence(error).replace(files.printable(str(song)), files.printable(url))
                raise ValueError(said) from error
            rows = []
            for name, file in written.items():
                end = f"{folder}/{file.name}"
                if not isinstance(target, LocalFileSystem):
                    target.put_file(str(file), end)  # which is there when all of it is
                    end = target.unstrip_protocol(end)
                size, checksum = file.stat().st_size, files.digest(file)
                rows.append({"stem": name, "path": end, "bytes": size, "sha256": checksum})
        return seconds, rows


class _Starts:
    """Counts how often each song was begun; one that has ended is forgotten."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def begin(self, path: str) -> int:
        self.counts[path] = self.counts.get(path, 0) + 1
        return self.counts[path]

    def end(self, path: str) -> None:
        self.counts.pop(path, None)


def _file_system(url: str) -> tuple[Any, str]:
    """Where a path or URL is, and its path there; of a path, fsspec would take :: for two URLs."""
    if "://" in url:
        system, path = fsspec.core.url_to_fs(url)
        return system, str(path)
    return LocalFileSystem(), os.path.abspath(url)


def located(path: str, base: str) -> str:
    """A path or URL of the manifest, in full."""
    return path if "://" in path or path.startswith("/") else f"{base.rstrip('/')}/{path}"


def folder_of(path: str) -> str:
    """The folder of a song's stems, below the catalogue's: no two songs share it, and none is outside.

    It is called after the song and 20 digits of the SHA-256 of its path in the manifest.
    """
    track = audio.track_name(Path(path.rpartition("/")[2])).lstrip(".")
    name = "".join(character if character.isprintable() else "_" for character in track)
    digits = hashlib.sha256(path.encode()).hexdigest()
    return f"{digits[:2]}/{name[:60].encode()[:200].decode(errors='ignore')}-{digits[:20]}"


@contextmanager
def _scratch(path: str) -> Iterator[Path]:
    """A folder for one song, the same for the next worker if this one is killed."""
    import ray

    digits = hashlib.sha256(path.encode()).hexdigest()[:20]
    folder = Path(tempfile.gettempdir(), f"svs-unet-{ray.get_runtime_context().get_job_id()}-{digits}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_manifest(
    manifest: str | os.PathLike[str], out: str | os.PathLike[str] | None = None
) -> tuple[pa.ChunkedArray, str]:
    """The paths of a catalogue's songs, and what they are relative to.

    Args:
        manifest: a path or URL of a table (Parquet, CSV or JSON lines) with a column ``path``, or of a folder
            of songs.
        out: a folder whose files are no songs, if it lies in that of the songs.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it holds no songs, has no such column, or a song twice.
    """
    manifest = str(manifest).rstrip("/")
    system, at = _file_system(manifest)
    suffix = Path(at).suffix.lower()
    if not system.exists(at):
        raise FileNotFoundError(f"no such manifest: {manifest}")
    if suffix in _FORMATS:
        try:
            if _FORMATS[suffix] == "json":
                paths = _json_paths(system, at)
            else:
                kind = _CSV if _FORMATS[suffix] == "csv" else _FORMATS[suffix]
                table = pyarrow.dataset.dataset(at, filesystem=system, format=kind)
                if "path" not in table.schema.names:
                    names = ", ".join(n if n.isprintable() else repr(n) for n in table.schema.names[:20])
                    raise ValueError(f"{manifest} needs a column path, the songs' paths; it has {names}")
                paths = table.to_table(columns=["path"])["path"].cast(pa.large_string())
            paths.validate(full=True)  # that all is UTF-8
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = first_line(error) or "it is damaged"
            raise ValueError(f"{manifest} can't be read as {_FORMATS[suffix]}: {reason}") from error
        base = manifest.rpartition("/")[0] if "://" in manifest else os.path.dirname(at)
    elif system.isdir(at):
        stems = f"{_file_system(str(out))[1]}/" if out is not None else None
        if isinstance(system, LocalFileSystem):  # where links lead to one folder by several names
            at, stems = os.path.realpath(at), stems and f"{os.path.realpath(stems)}/"
        songs = sorted(
            file[len(at) :].lstrip("/")
            for file in system.find(at)
            if os.path.splitext(file)[1].lower() in audio.EXTENSIONS
            and not (stems and file.startswith(stems))
            and "/." not in file[len(at) :]
        )
        base = manifest
        try:
            paths = pa.chunked_array([songs], pa.large_string())
        except UnicodeEncodeError as error:
            raise ValueError(f"{error.object!a} is no name that a table can hold: rename it") from error
    else:
        raise ValueError(f"{manifest} is neither a folder nor a table that ends with {', '.join(_FORMATS)}")
    if not len(paths):
        raise ValueError(f"{manifest} holds no songs")
    if empty := pc.sum(pc.fill_null(pc.equal(pc.utf8_length(paths), 0), True)).as_py():
        raise ValueError(f"{manifest} has {empty} rows without a path")
    if pc.count_distinct(paths).as_py() < len(paths):
        counts = pc.value_counts(paths)
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
        raise ValueError(f"{manifest} lists {len(twice)} songs more than once; the first is {twice[0]}")
    return paths, base if "://" in base else os.path.abspath(base)


def _json_paths(system: Any, at: str) -> pa.ChunkedArray:
    """The column ``path`` of JSON lines, whose others may change their kind from row to row."""
    options = pyarrow.json.ParseOptions(
        explicit_schema=pa.schema([("path", pa.large_string())]), unexpected_field_behavior="ignore"
    )
    with system.open(at, "rb") as file:
        return pyarrow.json.read_json(file, parse_options=options)["path"]


class _Results:
    """The table of results, a folder of Parquet files that are written as songs are done.

    What is found there is what the last run had written, whenever it was killed.
    """

    def __init__(self, folder: str) -> None:
        self.system, self.folder = _file_system(folder)
        self.rows: list[pa.Table] = []
        self.begun = self.written = time.monotonic()
        self.system.makedirs(self.folder, exist_ok=True)
        found = self.system.find(self.folder, maxdepth=1)  # a pattern would be one in the folder's name, too
        self.parts = sorted(path for path in found if re.fullmatch(r"\d+\.parquet", path.rpartition("/")[2]))

    def listed(self) -> pa.Table:
        """The path and the status of each row."""
        if not self.parts:
            return SCHEMA.empty_table()
        columns = ["path", "status"]
        return pq.read_table(self.parts, columns=columns, filesystem=self.system, schema=SCHEMA)

    def forget_failed(self, paths: pa.ChunkedArray) -> None:
        """Take the rows of those of some songs that failed out, a file at a time."""
        for part in self.parts:
            table = pq.read_table(part, filesystem=self.system, schema=SCHEMA)
            others = pc.invert(pc.is_in(table["path"], value_set=paths))
            left = table.filter(pc.or_(pc.equal(table["status"], "done"), others))
            if len(left) < len(table):
                self._write(part, left)

    def add(self, rows: pa.Table) -> None:
        """Keep rows, and write them once they have waited for a hundredth of the run's time."""
        self.rows.append(rows)
        now = time.monotonic()
        if now - self.written >= min((now - self.begun) / 100, LONGEST_WAIT):
            self.flush()

    def flush(self) -> None:
        """Write what is kept."""
        if self.rows:
            number = int(Path(self.parts[-1]).stem) + 1 if self.parts else 0
            self.parts.append(f"{self.folder}/{number:08}.parquet")
            self._write(self.parts[-1], pa.concat_tables(self.rows))
        self.rows, self.written = [], time.monotonic()

    def _write(self, path: str, table: pa.Table) -> None:
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        if isinstance(self.system, LocalFileSystem):
            files.write_bytes(path, buffer.getbuffer())
        else:
            self.system.pipe_file(path, buffer.getvalue())


def separate_catalogue(
    manifest: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    views: int = 1,
    stems: Sequence[str] | None = None,
    encoding: Encoding = Encoding(),  # noqa: B008, it can't be changed
    address: str | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
    progress: bool = False,
    worker: type[Worker] = Worker,
) -> Summary:
    """Separate all songs of a catalogue, but those that an earlier run into the same folder has listed.

    Args:
        manifest: as in `read_manifest`. A relative path in it is relative to the folder that it lies in.
        out: a path or URL of a folder. Stems go to ``<out>/<2 digits>/<song>-<digits>/<stem>.<format>``,
            results to ``<out>/catalogue/results/*.parquet``; see `SCHEMA`.
        weights, views: as in `Separator`.
        stems, encoding: as in `Separator.separate_file`.
        address: of a Ray cluster that this machine is part of, such as ``auto``; by default Ray runs here
            alone, for as long as this takes. On a cluster, local paths must be the same on each machine.
        workers: processes, ≥ 1; by default all that there are CPUs for, or one a GPU where there are some.
        retry_failed: whether songs that failed in an earlier run are tried again.
        progress: whether to show a bar on standard error.
        worker: what separates.

    Raises:
        FileNotFoundError: if there is no such manifest, or no such weights.
        ModuleNotFoundError: if Ray, or the package for a kind of URL, is not installed.
        ValueError: if the manifest is none, an argument is out of its range, or ``out`` was made with other
            settings or is in use.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    url = str(out).rstrip("/")
    url = url if "://" in url else os.path.abspath(url)
    paths, base = read_manifest(manifest, url)
    separator = Separator(weights, "cpu", views=views)
    names = tuple(separator.sources if stems is None else stems)
    if not names or not set(names) <= set(separator.sources):
        raise ValueError(f"stems must be some of {', '.join(separator.sources)}, got {', '.join(names)}")
    relative = any(located(path, base) != path for path in paths.to_pylist())
    settings = {
        "songs below": base if relative else "",  # two songs of one name are told apart by it alone
        "weights": _digest(separator),
        "views": views,
        "stems": names,
        "encoding": asdict(encoding),
    }
    with _claimed(f"{url}/catalogue", settings):
        results = _Results(f"{url}/catalogue/results")
        if retry_failed:
            results.forget_failed(paths)
        listed = results.listed()
        pending = paths.filter(pc.invert(pc.is_in(paths, value_set=listed["path"])))
        of_these = listed["status"].filter(pc.is_in(listed["path"], value_set=paths))
        failed = pc.sum(pc.equal(of_these, "failed")).as_py() or 0
        summary = Summary(0, 0, len(paths) - len(pending), failed, results.folder)
        if not len(pending):
            return summary
        with _connected(address):
            job = Job(base, url, names, encoding, views)
            rows = _run(pending, worker, separator, job, workers)
            often = 0.1 if sys.stderr.isatty() else 10.0
            bar = tqdm(
                desc="Catalogue", total=len(pending), unit="song", mininterval=often, disable=not progress
            )
            with bar:
                try:
                    for table in rows:
                        results.add(table)
                        failed = pc.sum(pc.equal(table["status"], "failed")).as_py()
                        summary = replace(
                            summary, done=summary.done + len(table) - failed, failed=summary.failed + failed
                        )
                        bar.set_postfix_str(f"{summary.failed} failed", refresh=False)
                        bar.update(len(table))
                finally:
                    results.flush()
    return summary


def _run(
    paths: pa.ChunkedArray, worker: type[Worker], separator: Separator, job: Job, workers: int | None
) -> Iterator[pa.Table]:
    """Rows of results for paths, as they come."""
    import ray
    import ray.data
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0))
    fitting = gpus or int(there.get("CPU", 0))
    if not fitting:
        raise ValueError("this Ray cluster has no CPUs for workers")
    size = min(workers or fitting, fitting, len(paths))
    songs = min(max(len(paths) // (64 * size), 1), MOST_SONGS_A_TASK)
    table = pa.table({"path": paths.combine_chunks()})
    # It must outlive every worker, so it lives where this process does.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    starts = ray.remote(_Starts).options(num_cpus=0, scheduling_strategy=here).remote()
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    songs_of_tasks = [table.slice(start, songs) for start in range(0, len(table), songs)]
    results = ray.data.from_arrow(songs_of_tasks).map_batches(
        worker,
        fn_constructor_args=(separator.network, separator.stft, job, starts),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1,
        num_gpus=1 if gpus else None,
        compute=ray.data.ActorPoolStrategy(
            min_size=1, initial_size=size, max_size=size, max_tasks_in_flight_per_actor=1
        ),
    )
    yield from results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """To a Ray cluster, or to a Ray that runs here until the end; one that runs already is kept."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is not None:
        try:
            ray.init(address, **quiet)
        except ConnectionError as error:
            raise ValueError(f"there is no Ray cluster at {address}: start one with 'ray start'") from error
    for attempt in range(START_ATTEMPTS if address is None else 0):
        try:
            ray.init("local", num_cpus=cpus(), include_dashboard=False, **quiet)
            break
        except Exception as error:  # Ray raises no other where its processes are not up within 30 seconds
            ray.shutdown()
            if attempt == START_ATTEMPTS - 1:
                raise RuntimeError(f"Ray can't be started: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _claimed(folder: str, settings: dict[str, Any]) -> Iterator[None]:
    """As `files.claim`, also on remote file systems, which have no locks."""
    system, at = _file_system(folder)
    if isinstance(system, LocalFileSystem):
        with files.claim(at, settings, holds="results"):
            yield
        return
    record = f"{at}/{files.SETTINGS_FILE}"
    if system.exists(record):
        files.check_settings(
            folder,
            files.from_json(system.cat_file(record), record, "record of settings"),
            settings,
            holds="results",
        )
    else:
        system.pipe_file(record, json.dumps(settings, indent=2).encode())
    yield


def _digest(separator: Separator) -> str:
    """The SHA-256 of a network's weights."""
    total = hashlib.sha256()
    network = separator.network
    if isinstance(network, Graph):
        if isinstance(network.model, bytes):
            return hashlib.sha256(network.model).hexdigest()
        for path in parts(PRETRAINED / network.model.name):
            total.update(files.digest(path).encode())
        return total.hexdigest()
    for name, value in network.state_dict().items():
        total.update(name.encode() + value.numpy().tobytes())
    return total.hexdigest()
