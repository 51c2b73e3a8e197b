"""tests/hosts: a host's own tests are run, and compared with what is known to fail."""

import shutil
from pathlib import Path

import pytest
from hosts import suite
from hosts.suite import Known, Result

TESTS = """
import socket
import pytest
import asteroid
from asteroid.models import XUMX, DPRNNTasNet

NAMES = ["mpariente/ConvTasNet_WHAM!_sepclean", "julien-c/DPRNNTasNet-ks16_WHAM_sepclean"]

def test_the_host_is_repaired():
    assert XUMX.__name__ == "XUMX"

def test_the_host_is_the_installed_one():
    assert asteroid.__version__ != "of the repository"

@pytest.mark.parametrize("name", NAMES)
def test_a_download(name):
    assert DPRNNTasNet.from_pretrained(name)(asteroid.torch_utils.torch.ones(1, 800)).shape == (1, 2, 800)

def test_the_network():
    socket.create_connection(("example.org", 80))

@pytest.fixture
def broken():
    raise KeyError("no such fixture")

def test_an_error_before_it_runs(broken):
    pass
"""
XUMX = """
import pytest

@pytest.mark.skip(reason="broken by torch 2")
def test_forward():
    pass
"""
CANNOT_BE_IMPORTED = "import a_package_that_is_not_there"
SKIPPED = "import pytest\npytest.skip('not today', allow_module_level=True)"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a host of the same name, which is not the one to be tested."""
    folder = tmp_path_factory.mktemp("repository")
    files = {
        "asteroid/__init__.py": "__version__ = 'of the repository'",
        "setup.cfg": "[tool:pytest]\naddopts = --an-option-of-a-plugin",
        "tests/__init__.py": "",
        "tests/a_test.py": TESTS,
        "tests/b_test.py": CANNOT_BE_IMPORTED,
        "tests/c_test.py": SKIPPED,
        "tests/models/xumx_test.py": XUMX,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_suite_under_the_plugin(repository: Path) -> None:
    before = sorted(repository.rglob("*"))
    results = suite.run("asteroid", repository)
    assert sorted(repository.rglob("*")) == before
    failed = {name: result.message for name, result in results.items() if result.outcome == "failed"}
    assert failed.keys() == {
        "tests/a_test.py::test_the_network",
        "tests/a_test.py::test_an_error_before_it_runs",
        "tests/b_test.py",
    }
    assert "the network is closed to these tests: example.org" in failed["tests/a_test.py::test_the_network"]
    assert "a_package_that_is_not_there" in failed["tests/b_test.py"]
    assert {name for name, result in results.items() if result.outcome == "passed"} == {
        "tests/a_test.py::test_the_host_is_repaired",
        "tests/a_test.py::test_the_host_is_the_installed_one",
        "tests/a_test.py::test_a_download[mpariente/ConvTasNet_WHAM!_sepclean]",
        "tests/a_test.py::test_a_download[julien-c/DPRNNTasNet-ks16_WHAM_sepclean]",
        "tests/models/xumx_test.py::test_forward",
    }
    assert results["tests/c_test.py"].outcome == "skipped"


def test_the_command(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """From an archive, and without the plugin."""
    archive = shutil.make_archive(
        str(tmp_path / "asteroid-0.7.0"), "gztar", repository.parent, repository.name
    )
    monkeypatch.setenv("ASTEROID_REPO", archive)
    assert suite.main(["asteroid", "--without-plugin", "--ignore=tests/a_test.py"]) == 0
    assert capfd.readouterr().out.endswith("\nasteroid: 0 passed, 1 failed, 0 need a network, 2 skipped\n")
    monkeypatch.setenv("ASTEROID_REPO", str(tmp_path / "nowhere"))
    assert suite.main(["asteroid"]) == 2
    monkeypatch.delenv("ASTEROID_REPO")
    assert suite.main(["asteroid"]) == 2
    said = capfd.readouterr().out
    assert "there is no folder tests in" in said and "set ASTEROID_REPO" in said


def test_what_is_reported() -> None:
    results = {
        "t.py::test_a[1-2]": Result("failed", "ValueError: 1"),
        "t.py::test_a[3-4]": Result("passed"),
        "t.py::test_b": Result("failed", "gaierror"),
        "t.py::test_c": Result("failed", "KeyError: 'c'"),
        "t.py::test_d": Result("passed"),
    }
    known = [Known("t.py::test_a[*-2]", "old"), Known("t.py::test_b", "far away", network=True)]
    assert list(suite.surprises(results, known)) == [
        "fails, and is not known to: t.py::test_c: KeyError: 'c'"
    ]
    assert suite.summary("host", results, known) == "host: 2 passed, 2 failed, 1 need a network, 0 skipped"
    elsewhere = Known("u.py::test_a", "not among those that ran")
    assert len(list(suite.surprises(results, [*known, elsewhere], whole=False))) == 1
    known = [Known("t.py::test_[abc]*", "?"), Known("t.py::test_a*", "x"), Known("t.py::test_[c]", "y")]
    assert set(
        suite.surprises(results, [*known, Known("t.py::test_c", "z"), Known("t.py::test_b", "w")])
    ) == {
        "known to fail, and passed: t.py::test_a[3-4] (x)",
        "known to fail, and not there: t.py::test_[abc]*",
        "known to fail, and not there: t.py::test_[c]",
    }


@pytest.mark.parametrize("host", suite.HOSTS)
def test_the_lists_give_reasons(host: str) -> None:
    known = suite.read_known(suite.HERE / f"{host}.toml")
    assert len({entry.test for entry in known}) == len(known)
    assert all(entry.reason and entry.test.startswith("tests/") for entry in known)
