"""What the source may not do: run what it reads, or take from a network what nobody has checked."""

import ast
import re
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ALWAYS = """
    pickle.load pickle.loads pickle.Unpickler cloudpickle.load cloudpickle.loads dill.load dill.loads
    marshal.load marshal.loads shelve.open joblib.load pandas.read_pickle torch.jit.load
    torch.package.PackageImporter torch.hub.load_state_dict_from_url torch.hub.download_url_to_file
    yaml.load yaml.load_all yaml.full_load yaml.unsafe_load yaml.Loader yaml.UnsafeLoader
    builtins.eval builtins.exec builtins.compile builtins.__import__ os.system os.popen subprocess.getoutput
    subprocess.getstatusoutput asyncio.create_subprocess_shell shutil.unpack_archive tempfile.mktemp
    urllib.request.urlopen urllib.request.urlretrieve requests.get requests.post requests.Session httpx.get
    httpx.post httpx.stream httpx.Client
""".split()
"""Functions that the source has no use for."""

METHODS = {"extractall", "extract", "exec_module", "load_from_checkpoint", "cached_download", "runcode"}
"""Likewise, of whatever object."""

EXCEPTIONS = {
    ("svs_unet_plugin/checkpoint.py", "torch.load"): (
        "load_weights_only, through which all checkpoints go: torch.load's own code, called with "
        "weights_only=True, with a list of classes that belongs to the call"
    ),
    (
        "svs_unet_plugin/checkpoint.py",
        "exec_module",
    ): "a second copy of torch's own unpickler, from torch's file",
    ("svs_unet_plugin/asteroid/compat.py", "exec_module"): "repairs that are made while asteroid is imported",
    ("svs_unet_plugin/asteroid/compat.py", "builtins.__import__"): "the same",
    ("docs/nussl.md", "os.system"): "the example of a file that is refused",
    ("docs/asteroid.md", "torch.jit.load"): "the example's own trace",
    ("svs_unet_plugin/export.py", "torch.jit.load"): "the file that it has just written, to check it",
    ("svs_unet_plugin/weights.py", "urllib.request.urlopen"): (
        "HEAD of the hub's address, to see whether it can be reached; the answer is thrown away"
    ),
    ("svs_unet_plugin/corpora/archives.py", "pooch.retrieve"): (
        "MIR-1K and the sample of MUSDB18 have no published checksums: what comes is unpacked by "
        "archives.unpack, which trusts nothing in it, and then only decoded as audio"
    ),
    ("svs_unet_plugin/asteroid/compat.py", "cached_download"): (
        "asteroid's from_pretrained with what its user names; what comes is read by load_weights_only"
    ),
}
"""By file and name, each with its reason."""


def sources() -> Iterator[tuple[str, str]]:
    """Names and texts of all Python that ships: modules, and blocks of documents and of shell scripts."""
    files = [ROOT / "hubconf.py", ROOT / "setup.py", *ROOT.glob("*.md")]
    for folder in ("svs_unet_plugin", "recipes", "benchmarks", "docs", "scripts", ".ci"):
        files += [path for path in (ROOT / folder).rglob("*") if not {"exp", "data"} & set(path.parts)]
    for path in sorted(files):
        name = path.relative_to(ROOT).as_posix()
        if path.suffix == ".py":
            yield name, path.read_text(encoding="utf-8")
        elif path.suffix == ".md":
            for block in re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S):
                yield name, block
        elif path.suffix in ("", ".sh") and path.is_file():
            text = path.read_text(encoding="utf-8")
            for block in re.findall(r"<<'?(?:EOF|END)'?[^\n]*\n(.*?)^(?:EOF|END)$", text, re.M | re.S):
                yield name, block
            for block in re.findall(r"python\S* -c '(.*?)'|-c '\n(.*?)'", text, re.S):
                yield name, "".join(block)


def found(text: str) -> Iterator[tuple[str, int]]:
    """What is not allowed in a text, and in which line."""
    tree = ast.parse(text)
    names = {"eval", "exec", "compile", "__import__"}
    meant = {name: f"builtins.{name}" for name in names}
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                meant[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and not node.level:
            meant.update({a.asname or a.name: f"{node.module}.{a.name}" for a in node.names})

    def full(node: ast.expr) -> str:
        if isinstance(node, ast.Attribute):
            above = full(node.value)
            return f"{above}.{node.attr}" if above else ""
        return meant.get(node.id, "") if isinstance(node, ast.Name) else ""

    def given(node: ast.expr) -> dict[str, object]:
        """Arguments of the call whose function this is, by name, where they are constants."""
        call = calls.get(id(node))
        keywords = call.keywords if call else []
        return {k.arg or "": getattr(k.value, "value", ...) for k in keywords}

    for node in ast.walk(tree):
        if isinstance(node, ast.keyword):
            if node.arg == "shell" and getattr(node.value, "value", True) is not False:
                yield "shell=", node.value.lineno
            if node.arg in ("weights_only", "allow_pickle") and isinstance(node.value, ast.Constant):
                if node.value.value is (node.arg == "allow_pickle"):
                    yield f"{node.arg}=", node.value.lineno
        if not isinstance(node, ast.Attribute | ast.Name) or not isinstance(node.ctx, ast.Load):
            continue
        name = full(node)
        if name in ALWAYS or re.fullmatch(r"os\.(exec|spawn|posix_spawn)\w*", name):
            yield name, node.lineno
        elif (
            name in ("torch.load", "torch.serialization.load") and given(node).get("weights_only") is not True
        ):
            yield name, node.lineno
        elif (
            name.startswith("huggingface_hub.")
            and name.endswith("download")
            and "revision" not in given(node)
        ):
            yield name, node.lineno
        elif name == "torch.hub.load" and given(node).get("source") != "local":
            yield name, node.lineno
        elif name == "pooch.retrieve" and given(node).get("known_hash") is None:
            yield name, node.lineno
        elif isinstance(node, ast.Attribute) and node.attr in METHODS:
            yield node.attr, node.lineno


def test_the_source_runs_nothing_that_it_reads() -> None:
    everything = list(sources())
    assert len(everything) > 120
    places = {(name, what, line) for name, text in everything for what, line in found(text)}
    assert {place for place in places if place[:2] not in EXCEPTIONS} == set()
    assert EXCEPTIONS.keys() <= {place[:2] for place in places}, "an exception that nothing needs any more"


@pytest.mark.parametrize(
    "line",
    [
        "import torch; torch.load(path)",
        "from torch import load as read; read(path)",
        "import torch as t; t.load(path, weights_only=maybe)",
        "import torch; opened = map(torch.load, paths)",
        "anything(path, weights_only=False)",
        "import pickle; pickle.loads(data)",
        "import numpy as np; np.load(path, allow_pickle=True)",
        "import joblib; joblib.load(path)",
        "import yaml; yaml.load(text, yaml.SafeLoader)",
        "eval(text)",
        "import subprocess; subprocess.run(line, shell=True)",
        "run(line, shell=maybe)",
        "import os; os.system(line)",
        "import zipfile\nwith zipfile.ZipFile(p) as z:\n    z.extractall()",
        "from huggingface_hub import hf_hub_download; hf_hub_download(name, file)",
        "import pooch; pooch.retrieve(url, known_hash=None)",
        "import torch; torch.hub.load('owner/name', 'model')",
        "from urllib.request import urlopen; urlopen(url)",
    ],
)
def test_what_is_not_allowed_is_found(line: str) -> None:
    assert list(found(line))


def test_what_is_allowed_is_not_found() -> None:
    right = """
import subprocess, yaml, torch, numpy as np
from huggingface_hub import hf_hub_download
hf_hub_download(name, file, revision=revision)
torch.load(path, weights_only=True); np.load(path); yaml.safe_load(text)
subprocess.run(["ls"]); model.eval(); subprocess.run(["ls"], shell=False)
"""
    assert list(found(right)) == []


def test_shell_scripts_run_no_text_and_fetch_nothing() -> None:
    scripts = [path for pattern in ("**/*.sh", ".ci/run", "Makefile") for path in ROOT.glob(pattern)]
    for path in scripts:
        if not {"build", ".venv", "exp", "node_modules"} & set(path.parts):
            lines = [line.partition("#")[0] for line in path.read_text().splitlines()]
            assert not [line for line in lines if re.search(r"(^|[;&|(]\s*|\s)(eval|curl|wget)\s", line)], (
                path
            )


def test_an_advisory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What CI makes of pip-audit's JSON (2.10)."""
    audit = SourceFileLoader("audit", str(ROOT / ".ci" / "audit.py")).load_module()
    found = {"id": "PYSEC-2026-1", "aliases": ["CVE-2026-2"], "fix_versions": ["1.2"], "description": ""}
    packages = [
        {"name": "one", "version": "1.1", "vulns": [found]},
        {"name": "two", "version": "3.0", "vulns": []},
        {"name": "three", "skip_reason": "Dependency not found on PyPI"},
    ]
    assert audit.report(packages) == (["one 1.1: PYSEC-2026-1, fixed in 1.2"], 2, 1)
    monkeypatch.setattr(audit, "ACCEPTED", {"CVE-2026-2": "the part that it is in is not used"})
    assert audit.report(packages) == ([], 2, 1)
