"""Run every command that a Markdown file shows, so that none of them can go stale.

Fenced blocks marked ``bash`` or ``python`` run in order, from the top of the repository, with the virtual
environment's programs first in PATH. A block that cannot run in CI has the reason right above it::

    <!-- ci: skip, it trains for a day -->

(pytest-markdown-docs runs Python blocks only, and requires another markdown-it-py than the tested set has.)

Usage: ``.venv/bin/python .ci/readme_commands.py README.md [more.md ...]``
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIME_LIMIT = 15 * 60  # seconds for one block
BLOCK = re.compile(
    r"^(?:<!-- ci: skip, (?P<reason>.+?) -->\n\s*)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)
INTERPRETERS = {"bash": ["bash", "-eo", "pipefail", "-c"], "python": [sys.executable, "-c"]}


def run(command: list[str]) -> str | None:
    """Run a command; return what went wrong, or None."""
    programs = Path(sys.executable).parent
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, "VIRTUAL_ENV": str(programs.parent)}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, cwd=ROOT, env=environment, timeout=TIME_LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"still running after {TIME_LIMIT} s"
    return None if done.returncode == 0 else f"exit status {done.returncode}"


def main(names: list[str]) -> int:
    """Run the blocks of some files; return 1 if one failed."""
    ran = 0
    skipped = []
    failed = []
    for name in names:
        markdown = (ROOT / name).read_text(encoding="utf-8")
        for block in BLOCK.finditer(markdown):
            language, text = block["language"], block["text"]
            if language not in INTERPRETERS:
                continue
            where = f"{name}:{markdown.count(chr(10), 0, block.start('language')) + 1}"
            if block["reason"]:
                skipped.append(f"{where}: {block['reason']}")
                continue
            print(f"--- {where} ({language})\n{text}---", flush=True)
            start = time.monotonic()
            trouble = run([*INTERPRETERS[language], text])
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
