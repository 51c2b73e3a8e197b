"""Run a host's own tests under this package, and compare with what is known to fail: ``make test-hosts``.

The tests come from a folder or an archive of the host's repository; the host that they test is the installed
one. What is known to fail stands in ``<host>.toml``, each with its reason. Nothing is downloaded: the network
is closed to the tests, and ``<host>_suite.py`` puts stand-ins, made on the spot, where they look for files.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
HOSTS = ("nussl", "asteroid")


@dataclass(frozen=True)
class Result:
    """How a test ended: passed, failed or skipped; and the first line of what it said, if it failed."""

    outcome: str
    message: str = ""


@dataclass(frozen=True)
class Known:
    """A test that fails, and why; ``*`` in its id stands for anything."""

    test: str
    reason: str
    network: bool = False

    def matches(self, name: str) -> bool:
        return re.fullmatch(".*".join(map(re.escape, self.test.split("*"))), name, re.DOTALL) is not None


def read_known(path: Path) -> list[Known]:
    """The tests of a file that are known to fail."""
    return [Known(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("fails", [])]


def surprises(results: Mapping[str, Result], known: Sequence[Known], whole: bool = True) -> Iterator[str]:
    """A line for each test that fails and isn't known to, and for each that is known to and does not.

    Args:
        whole: whether all tests were to run, so that those that are known to fail must be there.
    """
    for name, result in results.items():
        if result.outcome == "failed" and not any(entry.matches(name) for entry in known):
            yield f"fails, and is not known to: {name}: {result.message}"
    for entry in known:
        outcomes = {name: result.outcome for name, result in results.items() if entry.matches(name)}
        for name, outcome in outcomes.items():
            if outcome != "failed":
                yield f"known to fail, and {outcome}: {name} ({entry.reason})"
        if whole and not outcomes:
            yield f"known to fail, and not there: {entry.test}"


def summary(host: str, results: Mapping[str, Result], known: Sequence[Known]) -> str:
    """One line of figures."""
    counts = Counter(result.outcome for result in results.values())
    network = sum(
        result.outcome == "failed" and any(entry.network and entry.matches(name) for entry in known)
        for name, result in results.items()
    )
    return (
        f"{host}: {counts['passed']} passed, {counts['failed'] - network} failed, {network} need a network, "
        f"{counts['skipped']} skipped"
    )


def unpack(host: str, repository: Path, folder: Path) -> None:
    """Copy a repository's files to a folder, without the host itself.

    Raises:
        FileNotFoundError: if there are no tests in it.
    """
    if repository.is_file():
        shutil.unpack_archive(repository, folder)
        inside = list(folder.iterdir())
        if len(inside) == 1 and inside[0].name != "tests":
            for path in inside[0].iterdir():
                path.rename(folder / path.name)
    elif repository.is_dir():
        shutil.copytree(repository, folder, ignore=shutil.ignore_patterns(".git"), dirs_exist_ok=True)
    if not (folder / "tests").is_dir():
        raise FileNotFoundError(f"there is no folder tests in {repository}")
    shutil.rmtree(folder / host, ignore_errors=True)
    for name in ("pytest.ini", "pyproject.toml", "setup.cfg", "tox.ini"):  # they ask for plugins of pytest
        (folder / name).unlink(missing_ok=True)


def run(host: str, repository: Path, arguments: Sequence[str] = (), plugin: bool = True) -> dict[str, Result]:
    """The result of every test, by its id.

    Args:
        host: a package; ``<host>_suite.py``, if it is here, is loaded as a plugin of pytest.
        repository: a folder or an archive with the host's ``tests``.
        arguments: more for pytest.
        plugin: whether ``svs_unet_plugin.<host>`` is imported first.

    Raises:
        FileNotFoundError: if there are no tests in the repository.
        RuntimeError: if pytest can't run.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder, record = Path(temporary, "repository"), Path(temporary, "results.json")
        unpack(host, repository, folder)
        (folder / "pytest.ini").write_text("[pytest]\n")
        paths = [str(HERE), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "HOST_PLUGIN": f"svs_unet_plugin.{host}" if plugin else "",
            "HOST_RESULTS": str(record),
            "HOST_SCRATCH": temporary,
        }
        flags = ["-q", "--tb=no", "--continue-on-collection-errors", "-pno:cacheprovider"]
        # What is special about a host is set up before the host is imported.
        flags += [f"-p{path.stem}" for path in HERE.glob(f"{host}_suite.py")] + ["-phost_session"]
        command = [sys.executable, "-m", "pytest", *flags, "tests", *arguments]
        status = subprocess.run(command, cwd=folder, env=environment).returncode
        if status not in (0, 1):  # all passed, some failed
            raise RuntimeError(f"pytest ended with {status}")
        content = json.loads(record.read_text(encoding="utf-8"))
    return {name: Result(*result) for name, result in content.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 if what failed is what is known to fail; 1 if not; 2 if there was nothing to run.
    """
    parser = argparse.ArgumentParser(description="Run the hosts' own tests under svs_unet_plugin.")
    parser.add_argument("hosts", nargs="*", metavar="HOST", help=f"{' or '.join(HOSTS)}; both by default")
    parser.add_argument("--without-plugin", action="store_true", help="the host as it is; only counts")
    options, rest = parser.parse_known_args(arguments)
    unexpected, ran = [], []
    for host in options.hosts or HOSTS:
        name = f"{host.upper()}_REPO"
        if not os.environ.get(name):
            print(f"{host}: set {name} to a folder or an archive of its repository")
            continue
        try:
            results = run(host, Path(os.environ[name]).absolute(), rest, plugin=not options.without_plugin)
        except (OSError, RuntimeError) as error:
            print(f"{host}: {error}")
            continue
        known = read_known(HERE / f"{host}.toml")
        ran.append(summary(host, results, known))
        if not options.without_plugin:
            unexpected += [f"{host}: {line}" for line in surprises(results, known, whole=not rest)]
    print(*unexpected, *ran, sep="\n")
    return 2 if not ran else 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
