import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from killing import environment_of, kill_script_when

from svs_unet_plugin import files

SETTINGS = {"hop": 768, "model": {"channels": 16, "sources": ["vocals"]}}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(path: Path, content: str, folder: bool) -> None:
    if folder:
        path.mkdir()
        for i in range(20):
            (path / f"{i}.txt").write_text(content)
    else:
        path.write_text(20 * content)


def content_of(path: Path) -> str:
    texts = [item.read_text() for item in sorted(path.iterdir())] if path.is_dir() else [path.read_text()]
    return "".join(texts)


WRITER = """
import sys
from pathlib import Path
from svs_unet_plugin import files
from test_files import fill
path, content, folder = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "True"
print("ready", flush=True)
input()
for _ in range(200):
    with files.atomic_write(path) as beside:
        fill(beside, content, folder)
"""


@pytest.mark.parametrize("folder", [False, True])
def test_two_processes_that_write_one_target(tmp_path: Path, folder: bool) -> None:
    tests = Path(__file__).parent
    script = f"import sys; sys.path[:0] = [{str(tests)!r}, {str(tests.parent)!r}]\n{WRITER}"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, tmp_path / "target", content, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for content in ("a", "b")
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert names(tmp_path) == ["target"]
    assert content_of(tmp_path / "target") in (20 * "a", 20 * "b")


@pytest.mark.parametrize("folder", [False, True])
def test_what_is_not_finished_leaves_what_was_there(tmp_path: Path, folder: bool) -> None:
    fill(tmp_path / "target", "old", folder)
    with pytest.raises(KeyboardInterrupt), files.atomic_write(tmp_path / "target") as beside:
        fill(beside, "new", folder)
        raise KeyboardInterrupt
    assert names(tmp_path) == ["target"] and content_of(tmp_path / "target") == 20 * "old"
    with files.atomic_write(tmp_path / "target") as beside:
        fill(beside, "new", folder)
    assert names(tmp_path) == ["target"] and content_of(tmp_path / "target") == 20 * "new"


def test_a_file_does_not_replace_a_folder_but_a_folder_a_file(tmp_path: Path) -> None:
    fill(tmp_path / "folder", "old", True)
    with (
        pytest.raises(IsADirectoryError, match="folder is a directory"),
        files.atomic_write(tmp_path / "folder") as beside,
    ):
        beside.write_text("new")
    fill(tmp_path / "file", "old", False)
    with files.atomic_write(tmp_path / "file") as beside:
        fill(beside, "new", True)
    assert names(tmp_path) == ["file", "folder"]
    assert [content_of(tmp_path / name) for name in names(tmp_path)] == [20 * "new", 20 * "old"]


def test_text_and_json(tmp_path: Path) -> None:
    files.write_json(tmp_path / "new" / "a.json", SETTINGS)
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == SETTINGS
    files.write_text(tmp_path / "a.txt", "é\n")
    assert (tmp_path / "a.txt").read_bytes() == "é\n".encode()


def test_digest_is_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # NIST's example for "abc".
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.digest(tmp_path / "a") == expected


def change_a_name(folder: Path) -> None:
    (folder / "deep" / "b.wav").rename(folder / "deep" / "c.wav")


def change_a_size(folder: Path) -> None:
    (folder / "deep" / "b.wav").write_text("longer")


def change_a_time(folder: Path) -> None:
    import os

    os.utime(folder / "a.wav", ns=(1, 1))


def add_a_file(folder: Path) -> None:
    (folder / "d.wav").touch()


@pytest.mark.parametrize("change", [change_a_name, change_a_size, change_a_time, add_a_file])
def test_fingerprint(tmp_path: Path, change: Callable[[Path], None]) -> None:
    source = tmp_path / "musdb"
    (source / "deep").mkdir(parents=True)
    (source / "a.wav").write_text("a")
    (source / "deep" / "b.wav").write_text("b")
    before = files.fingerprint([source])
    assert files.fingerprint([source]) == before
    change(source)
    assert files.fingerprint([source]) != before


def test_a_folder_is_locked_once(tmp_path: Path) -> None:
    with files.lock(tmp_path / "new"):
        for attempt in ("nested", "thread"):
            errors: list[str] = []

            def try_it(errors: list[str] = errors) -> None:
                try:
                    with files.lock(tmp_path / "new"):
                        pass
                except ValueError as error:
                    errors.append(str(error))

            if attempt == "nested":
                try_it()
            else:
                thread = threading.Thread(target=try_it)
                thread.start()
                thread.join()
            assert len(errors) == 1 and "new is in use by another run" in errors[0]
    with files.lock(tmp_path / "new"):
        pass


CLAIM = """
import sys, time
from svs_unet_plugin import files
settings = {"hop": 768, "model": {"channels": 16, "sources": ["vocals"]}}
with files.claim(sys.argv[1], settings, holds="results"):
    with files.atomic_write(sys.argv[1] + "/half") as beside:
        beside.write_text("half")
        time.sleep(600)
"""


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    """Its lock as well as its unfinished files; the settings stay."""
    refused = []

    def works() -> bool:
        if not list(tmp_path.glob(f".*{files.PART_SUFFIX}")):
            return False
        if (tmp_path / files.SETTINGS_FILE).is_file() and not refused:
            with (
                pytest.raises(ValueError, match="in use by another run"),
                files.claim(tmp_path, SETTINGS, holds="results"),
            ):
                pass
            refused.append(True)
        return bool(refused)

    assert kill_script_when(works, CLAIM, tmp_path)
    with files.claim(tmp_path, SETTINGS, holds="results") as resumed:
        assert resumed
        assert names(tmp_path) == [files.LOCK_FILE, files.SETTINGS_FILE]


WRITE = """
import sys, time
from svs_unet_plugin import files
with files.atomic_write(sys.argv[1]) as beside:
    beside.write_text("half")
    time.sleep(600)
"""


def test_what_a_killed_process_left_goes_with_the_next_file(tmp_path: Path) -> None:
    """But what others are writing at the moment stays, and what another machine left, whose processes nobody
    here knows."""
    half = lambda: [path.name for path in tmp_path.glob(f".*{files.PART_SUFFIX}")]  # noqa: E731
    (tmp_path / f".0123abcd-1-0{files.PART_SUFFIX}").touch()
    (tmp_path / f".notes{files.PART_SUFFIX}").touch()
    mine = set(half())
    program = f"from svs_unet_plugin import files; files.write_text({str(tmp_path / 'other')!r}, 'a')"
    write = [sys.executable, "-c", program]

    def wrote() -> bool:
        if len(half()) == len(mine):
            return False
        subprocess.run(write, check=True, env=environment_of())
        assert len(half()) == len(mine) + 1  # it is at work
        return True

    assert kill_script_when(wrote, WRITE, tmp_path / "file")
    assert len(half()) == len(mine) + 1
    subprocess.run(write, check=True, env=environment_of())
    assert set(half()) == mine and not (tmp_path / "file").exists()


def test_a_claim_with_different_settings(tmp_path: Path) -> None:
    with files.claim(tmp_path / "a", SETTINGS, holds="results") as resumed:
        assert not resumed
    other = {"hop": 256, "model": {"channels": 8, "sources": ("vocals",)}}
    expected = (
        r"a holds results made with different settings: hop was 768 and is now 256; model.channels was 16"
    )
    for may_change in ((), ("seed",)):
        with (
            pytest.raises(ValueError, match=expected),
            files.claim(tmp_path / "a", other, holds="results", may_change=may_change),
        ):
            pass
    assert files.read_settings(tmp_path / "a") == SETTINGS
    with files.claim(tmp_path / "a", other, holds="results", may_change=("hop", "model.channels")) as resumed:
        assert resumed
    assert files.read_settings(tmp_path / "a") == {
        "hop": 256,
        "model": {"channels": 8, "sources": ["vocals"]},
    }


def test_a_claim_to_what_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").touch()
    for name, content in {
        "damaged": b"{",
        "list": b"[1]",
        "utf-16": b"\xff\xfe{\0",
        "deep": b"[" * 10**5,
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / files.SETTINGS_FILE).write_bytes(content)
    for name, message in [
        ("file", "file is a file, and results need a folder"),
        ("folder", "folder holds thesis.tex, which is no part of results"),
        *((name, "settings.json is no record of settings") for name in ("damaged", "list", "utf-16", "deep")),
    ]:
        with (
            pytest.raises(ValueError, match=message),
            files.claim(tmp_path / name, SETTINGS, holds="results"),
        ):
            pass
    assert names(tmp_path / "folder") == ["thesis.tex"]
    assert files.read_settings(tmp_path / "folder") is None


def test_a_claim_removes_leftovers_but_those_of_folders_with_a_lock_of_their_own(tmp_path: Path) -> None:
    with files.claim(tmp_path, {}, holds="songs"), files.lock(tmp_path / "other"):
        pass
    (tmp_path / "deep" / "folder").mkdir(parents=True)
    name = f".0123{files.PART_SUFFIX}"
    for folder in (".", "deep/folder", "other"):
        (tmp_path / folder / name).touch()
    (tmp_path / "deep" / name).mkdir()
    with files.claim(tmp_path, {}, holds="songs"):
        assert list(tmp_path.rglob(name)) == [tmp_path / "other" / name]


def test_what_a_killed_worker_leaves_is_removed_at_the_end(tmp_path: Path) -> None:
    half = tmp_path / f".song{files.PART_SUFFIX}"
    with pytest.raises(OSError, match="full"), files.lock(tmp_path):
        half.mkdir()
        (half / "vocals.wav").touch()
        raise OSError("full")
    assert names(tmp_path) == [files.LOCK_FILE]


def test_differences() -> None:
    assert files.differences(SETTINGS, json.loads(json.dumps(SETTINGS))) == []
    now = {"hop": 768, "model": {"channels": 16}, "seed": 1, "limit": None}
    assert files.differences(SETTINGS, now) == [
        "model.sources was ['vocals'] and is now None",
        "seed was None and is now 1",
    ]
    assert files.differences(SETTINGS, now, ["seed", "model.sources"]) == []
    (long,) = files.differences({"a\n": "x" * 10**6}, {"a\n": 1})
    assert len(long) < 300 and "\n" not in long
