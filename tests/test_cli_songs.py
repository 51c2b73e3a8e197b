"""Which songs are found, and what their stems are called."""

import os
from pathlib import Path, PurePath

import pytest

from svs_unet_plugin.cli.songs import Naming, Song, check_template, find_songs

STEMS = ("vocals", "accompaniment")


def naming(tmp_path: Path, template: str = "{track}/{stem}.{ext}", **tags: str) -> Naming:
    return Naming(template, tmp_path / "out", STEMS, "wav", "owner/name@main", lambda path: tags)


def below_out(paths: list[dict[str, Path]], tmp_path: Path) -> list[str]:
    """The vocals' paths, which must lie in the output folder as the file system sees it."""
    for named in paths:
        for path in named.values():
            assert Path(os.path.normpath(path)) == path and path.is_relative_to(tmp_path / "out")
    return [str(named["vocals"].relative_to(tmp_path / "out")) for named in paths]


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_what_is_found_in_folders_and_by_patterns(tmp_path: Path) -> None:
    music, out = tmp_path / "music", tmp_path / "music" / "out"
    names = ["b.MP3", "a.wav", "cover.jpg", "._a.wav", "deep/er/film.mkv", ".hidden/x.wav", "[1] a.flac"]
    touch(*(music / name for name in names), out / "a" / "vocals.wav", tmp_path / "none" / "notes.txt")

    def tracks(*arguments: str, recursive: bool = False) -> list[str]:
        return [str(song.track) for song in find_songs([tmp_path / a for a in arguments], out, recursive)]

    assert tracks("music") == ["[1] a", "a", "b"]
    assert tracks("music", recursive=True) == ["[1] a", "a", "b", "deep/er/film"]  # but nothing in out
    for elsewhere in (music, tmp_path):
        assert len(find_songs([music], elsewhere, recursive=False)) == 3
    assert tracks("music/*.wav", "music/**/*.mkv") == ["a", "film"]
    assert tracks("music/**/*.wav") == ["a"] and tracks("music/out/**/*.wav") == ["vocals"]
    assert tracks("music/[1] a.flac") == ["[1] a"]  # a file, before it is a pattern
    assert tracks("music/a.wav", "music/../music/a.wav", "music") == ["a", "[1] a", "b"]  # each once
    assert tracks("gone.wav", "*.ogg") == ["gone", "*"]  # what is not there is said when it is opened
    (tmp_path / "link").symlink_to(music)
    assert tracks("link", recursive=True) == tracks("music", recursive=True)  # nor what is there by a link
    (empty,) = find_songs([tmp_path / "none"], out)
    assert empty.problem == f"no songs in the folder {tmp_path / 'none'}: --recursive looks deeper"
    (stdin,) = find_songs([Path("-")], out)
    assert str(stdin.track) == "stdin"


@pytest.mark.parametrize(
    "file, track", [("...wav", "...wav"), ("..mp3", "..mp3"), (".stem.mp4", ".stem.mp4"), ("a.b.wav", "a.b")]
)
def test_a_name_of_dots_leads_nowhere(tmp_path: Path, file: str, track: str) -> None:
    touch(tmp_path / file)
    paths = naming(tmp_path).paths(find_songs([tmp_path / file], tmp_path / "out"))
    assert below_out(paths, tmp_path) == [f"{track}/vocals.wav"]


def test_names_from_tags_stay_in_the_folder(tmp_path: Path) -> None:
    template = "{artist}/{album}/{title} ({weights}) {stem}.{ext}"
    songs = [Song(tmp_path / "song.wav", PurePath("sub/song"))]
    for tags, expected in [
        ({}, "Unknown artist/Unknown album/song"),
        ({"artist": "..", "album": "/", "title": "../../a\\b\n"}, "__/_/.._.._a_b"),
        ({"artist": " ", "album": ".", "title": "♪" * 300}, "Unknown artist/_/" + "♪" * 33),
    ]:
        paths = naming(tmp_path, template, **tags).paths(songs)
        assert below_out(paths, tmp_path) == [f"{expected} (owner_name@main) vocals.wav"]


def test_a_name_of_weights_leads_nowhere(tmp_path: Path) -> None:
    songs = [Song(tmp_path / "song.wav", PurePath("song"))]
    for weights, name in {"\n": "weights", " ": "weights", "../..": ".._..", "\ud800a": "a"}.items():
        for template in ("{weights}/{stem}.wav", "{weights}{weights}/{stem}.wav"):
            paths = Naming(template, tmp_path / "out", STEMS, "wav", weights, lambda path: {}).paths(songs)
            (path,) = below_out(paths, tmp_path)
            assert path.endswith(f"{name}/vocals.wav")


def test_songs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    def named(*files: str, template: str = "{track}/{stem}.{ext}", **tags: str) -> list[str]:
        songs = [Song(tmp_path / file, PurePath(Path(file).stem)) for file in files]
        return below_out(naming(tmp_path, template, **tags).paths(songs), tmp_path)

    assert named("a/x.wav", "b/y.wav") == ["x/vocals.wav", "y/vocals.wav"]
    assert named("a/x.wav", "a/x.mp3") == ["x (wav)/vocals.wav", "x (mp3)/vocals.wav"]
    assert named("a/x.wav", "b/X.wav", "y.wav") == ["x (a)/vocals.wav", "X (b)/vocals.wav", "y/vocals.wav"]
    assert len(set(named("a/1/x.wav", "b/1/x.wav", "c/2/x.wav"))) == 3  # by digests of their paths
    tagged = named("x.wav", "y.mp3", template="{title} {stem}.{ext}", title="Song")
    assert tagged == ["Song (wav) vocals.wav", "Song (mp3) vocals.wav"]
    with pytest.raises(ValueError, match=r"2 songs would be written to .* needs \{track\} or \{title\}"):
        named("x.wav", "y.wav", template="{artist}/{stem}.{ext}")
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (tmp_path, tmp_path / "link"):
        with pytest.raises(ValueError, match=r"x\.wav is one of the songs"):
            Naming("{track}.wav", out, ["vocals"], "wav", "", lambda path: {}).paths(
                [Song(tmp_path / "x.wav", PurePath("x"))]
            )


@pytest.mark.parametrize(
    "template, message",
    [
        ("{track}.{ext}", "it needs {stem}"),
        ("../{track}/{stem}.{ext}", "must be a path below the output folder"),
        ("/tmp/{stem}", "must be a path below"),
        ("{track}//{stem}", "must be a path below"),
        ("{track.__class__}{stem}", "in braces, and nothing else"),
        ("{track!r}{stem}", "in braces, and nothing else"),
        ("{stem:>300}", "in braces, and nothing else"),
        ("{}{stem}", "in braces, and nothing else"),
        ("{stem", "is no template"),
    ],
)
def test_templates_that_are_refused(template: str, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        check_template(template, STEMS)
    assert message in str(refused.value)
    check_template("{track} - {stem}.{ext}", STEMS)
