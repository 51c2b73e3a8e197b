"""Which songs are meant by the arguments of a command, and what their stems are called."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import string
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from svs_unet_plugin.cli.paths import STDIN

FIELDS = ("track", "stem", "ext", "artist", "title", "album", "weights")
"""What may stand in braces in a template of names."""

_TAGS = ("artist", "title", "album")
_TAG_BYTES = 100  # most that a tag adds to a name, which may have 255 bytes


@dataclass(frozen=True)
class Song:
    """A song to separate.

    Args:
        path: of its file.
        track: what it is called: its file's name without the extension, below the folders that lie between
            it and the folder that was asked for.
        problem: why it can't be separated, if that is known.
    """

    path: Path
    track: PurePath
    problem: str = ""


def find_songs(arguments: Iterable[Path], out: Path | None, recursive: bool = False) -> list[Song]:
    """The songs that are meant by paths of files and folders, patterns, and ``-``, each once, in order.

    Args:
        arguments: paths; a folder stands for the songs in it, by their extensions.
        out: where stems are written: what lies there is no song, if it is a folder in a folder of songs or
            below the folder that a pattern begins with.
        recursive: whether to look in the folders of folders.
    """
    from svs_unet_plugin.audio import track_name

    songs: dict[str, Song] = {}
    for path in (path for argument in arguments for path in _expanded(argument, out)):
        if path == STDIN:
            songs["-"] = Song(path, PurePath("stdin"))
        elif path.is_dir():
            found = list(_walk(path, recursive))
            if out is not None and _is_below(out, path):
                found = [file for file in found if not _is_below(file, out)]
            for file in found:
                track = file.relative_to(path).parent / track_name(file)
                songs.setdefault(os.path.abspath(file), Song(file, track))
            if not found:
                problem = f"no songs in the folder {path}" + (
                    "" if recursive else ": --recursive looks deeper"
                )
                songs[os.path.abspath(path)] = Song(path, PurePath(path.name), problem)
        else:
            songs.setdefault(os.path.abspath(path), Song(path, PurePath(track_name(path))))
    return list(songs.values())


def _expanded(path: Path, out: Path | None) -> Iterator[Path]:
    """The paths that a pattern stands for, where the shell left that to us."""
    if os.path.lexists(path) or not glob.has_magic(str(path)):
        yield path
        return
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    root = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
    if out is not None and _is_below(out, root):
        found = [file for file in found if not _is_below(file, out)]
    yield from found or [path]


def _walk(folder: Path, recursive: bool) -> Iterator[Path]:
    from svs_unet_plugin.audio import EXTENSIONS

    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS:
                yield Path(parent, name)


def _is_below(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents


def check_template(template: str, stems: Sequence[str]) -> None:
    """See that a template of names, such as ``{track}/{stem}.{ext}``, stays in its folder.

    Raises:
        ValueError: if it names an unknown field, leads elsewhere, or gives all stems one name.
    """
    known = ", ".join(f"{{{field}}}" for field in FIELDS)
    try:
        parts = [part[1:] for part in string.Formatter().parse(template)]
    except ValueError as error:
        raise ValueError(f"--filename {template!r} is no template: {error}") from error
    used = [field for field, _, _ in parts if field is not None]
    if any(field not in FIELDS for field in used) or any(spec or how for _, spec, how in parts):
        raise ValueError(f"--filename {template!r} may have {known} in braces, and nothing else")
    if len(stems) > 1 and "stem" not in used:
        raise ValueError(f"--filename {template!r} gives all stems one name: it needs {{stem}}")
    try:
        encoded = os.fsencode(template)
    except UnicodeEncodeError as error:
        raise ValueError(f"--filename {template!a} is no name that a file can have") from error
    if set(template.split("/")) & {"", ".", ".."} or b"\0" in encoded:
        raise ValueError(f"--filename {template!r} must be a path below the output folder")


@dataclass(frozen=True)
class Naming:
    """How stems are called.

    Args:
        template: see `check_template`.
        out: the folder that all lie in.
        stems: their names.
        extension: of their files.
        weights: what the weights are called.
        read_tags: the tags of a file, by name; asked only if the template needs them.
    """

    template: str
    out: Path
    stems: Sequence[str]
    extension: str
    weights: str
    read_tags: Callable[[Path], Mapping[str, str]]

    def paths(self, songs: Sequence[Song]) -> list[dict[str, Path]]:
        """A path for each stem of each song, no two of them the same, and none of them a song's.

        Songs that would be written to the same files are told apart by their extensions, by the folders that
        they lie in, or by a digest of their paths, in brackets.

        Raises:
            ValueError: if the template can't tell them apart.
        """
        tags = [self._tags(song) for song in songs]
        paths = [self._song(song, tag) for song, tag in zip(songs, tags, strict=True)]
        for same in self._same(paths):
            if not {"{track}", "{title}"} & set(re.findall(r"{\w+}", self.template)):
                raise ValueError(
                    f"{len(same)} songs would be written to {next(iter(paths[same[0]].values()))}: "
                    "--filename needs {track} or {title}"
                )
            for number, label in zip(same, _labels([songs[number].path for number in same]), strict=True):
                paths[number] = self._song(songs[number], tags[number], f" ({label})")
        inputs = {_key(path) for song in songs for path in (song.path, Path(os.path.realpath(song.path)))}
        for path in (path for named in paths for path in named.values()):
            if _key(path) in inputs:
                raise ValueError(f"{path} is one of the songs: choose another folder or --filename")
        if any(self._same(paths)):
            raise ValueError(f"--filename {self.template!r} gives several songs the same name")
        return paths

    def _tags(self, song: Song) -> Mapping[str, str]:
        return self.read_tags(song.path) if any(f"{{{tag}}}" in self.template for tag in _TAGS) else {}

    def _song(self, song: Song, tags: Mapping[str, str], label: str = "") -> dict[str, Path]:
        known = {tag: _safe(tags.get(tag, "")) for tag in _TAGS}
        values = {
            "track": f"{song.track}{label}",
            "title": (known["title"] or song.track.name) + label,
            "artist": known["artist"] or "Unknown artist",
            "album": known["album"] or "Unknown album",
            "weights": _safe(self.weights) or "weights",
            "ext": self.extension,
        }
        return {stem: self.out / self.template.format(**values, stem=stem) for stem in self.stems}

    @staticmethod
    def _same(paths: Sequence[Mapping[str, Path]]) -> list[list[int]]:
        """The numbers of songs that share a path, together."""
        by_path = defaultdict(list)
        for number, named in enumerate(paths):
            for key in {_key(path) for path in named.values()}:
                by_path[key].append(number)
        groups = {tuple(numbers) for numbers in by_path.values() if len(numbers) > 1}
        return [list(group) for group in sorted(groups)]


def _key(path: Path) -> str:
    """The same for paths that some file system takes for one: macOS ignores case and normal forms.

    Links to folders are followed; a link that has the name of an output is replaced.
    """
    whole = os.path.join(os.path.realpath(path.parent), path.name)
    return unicodedata.normalize("NFC", whole).casefold()


def _labels(paths: Sequence[Path]) -> list[str]:
    """A short label for each path, no two of them the same."""
    for labels in (
        [path.suffix[1:] for path in paths],
        [Path(os.path.abspath(path)).parent.name for path in paths],
    ):
        if all(labels) and len({label.casefold() for label in labels}) == len(labels):
            return labels
    return [hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()[:8] for path in paths]


def _safe(text: str) -> str:
    """A tag as a part of a file's name: no folders, no control characters, not too long."""
    text = re.sub(r"[\x00-\x1f\x7f/\\]", "_", text.strip())
    text = text.encode(errors="ignore")[:_TAG_BYTES].decode(errors="ignore").strip()
    return text if text.strip(".") else "_" * len(text)
