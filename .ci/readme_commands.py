"""Run every command that a Markdown file shows, so that none of them can go stale.

Fenced blocks marked ``bash``, ``sh``, ``shell``, ``console`` or ``python`` run in order, from the top of the
repository, with the virtual environment's programs first in PATH. In ``console`` blocks the lines that begin
with ``$`` are the commands, and the rest is their output. A block that cannot run in CI has the reason right
above it::

    <!-- ci: skip, it trains for a day -->

Usage: ``.venv/bin/python .ci/readme_commands.py README.md [more.md ...]``
"""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIME_LIMIT = 15 * 60  # seconds for one block
SHELLS = {"bash", "sh", "shell", "console"}
# .ci/run runs these before it comes here.
ALREADY_RUN = re.compile(r"make (venv|test|lint|demo)( STEPS=\S+)?\s*(#.*)?")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, its text, and why it is not to run, if so."""

    line: int
    language: str
    text: str
    skip: str | None


def blocks(markdown: str) -> list[Block]:
    """Return the shell and Python blocks of a Markdown text, in order."""
    found = []
    skip = None
    lines = markdown.splitlines()
    i = 0
    while i < len(lines):
        fence = re.fullmatch(r"(\s*)(`{3,}|~{3,})\s*([\w+-]*).*", lines[i])
        if fence is None:
            comment = re.fullmatch(r"\s*<!--\s*ci:\s*skip,?\s*(.*?)\s*-->\s*", lines[i])
            if comment is not None:
                skip = comment.group(1)
                if not skip:
                    raise ValueError(f"line {i + 1}: 'ci: skip' needs a reason, as in <!-- ci: skip, why -->")
            elif lines[i].strip():
                skip = None
            i += 1
            continue
        indent, mark, language = fence.groups()
        start = i + 1
        i = start
        while i < len(lines) and not re.fullmatch(rf"\s*{re.escape(mark)}{mark[0]}*\s*", lines[i]):
            i += 1
        text = "\n".join(line.removeprefix(indent) for line in lines[start:i])
        if language in SHELLS or language == "python":
            found.append(Block(start, language, text, skip))
        skip = None
        i += 1
    return found


def commands(block: Block) -> str:
    """Return the shell text of a block, without a console's output and without what CI has run before."""
    lines = block.text.splitlines()
    if block.language == "console":
        kept = []
        continued = False
        for line in lines:
            if line.startswith("$ "):
                kept.append(line[2:])
            elif continued:
                kept.append(line.removeprefix("> "))
            else:
                continue
            continued = kept[-1].endswith("\\")
        lines = kept
    return "\n".join(line for line in lines if not ALREADY_RUN.fullmatch(line.strip())).strip()


def run(block: Block) -> str | None:
    """Run a block; return what went wrong, or None."""
    if block.language == "python":
        command = [sys.executable, "-c", block.text]
    else:
        command = ["bash", "-eo", "pipefail", "-c", commands(block)]
    environment = dict(os.environ)
    programs = Path(sys.executable).parent
    environment["PATH"] = f"{programs}{os.pathsep}{environment.get('PATH', '')}"
    environment["VIRTUAL_ENV"] = str(programs.parent)
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, cwd=ROOT, env=environment, timeout=TIME_LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"still running after {TIME_LIMIT} s"
    return None if done.returncode == 0 else f"exit status {done.returncode}"


def main(names: list[str]) -> int:
    ran = 0
    skipped = []
    failed = []
    for name in names:
        for block in blocks((ROOT / name).read_text(encoding="utf-8")):
            where = f"{name}:{block.line}"
            if block.skip is not None:
                skipped.append(f"{where}: {block.skip}")
                continue
            text = block.text if block.language == "python" else commands(block)
            if not text:
                print(f"--- {where}: has been run before", flush=True)
                continue
            print(f"--- {where} ({block.language})\n{text}\n---", flush=True)
            start = time.monotonic()
            trouble = run(block)
            print(f"--- {where}: {trouble or 'passed'} in {time.monotonic() - start:.1f} s", flush=True)
            ran += 1
            if trouble is not None:
                failed.append(f"{where}: {trouble}")
    print(f"\n{ran} blocks run, {len(skipped)} skipped, {len(failed)} failed")
    for line in skipped:
        print(f"skipped {line}")
    for line in failed:
        print(f"FAILED {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["README.md"]))
