"""Known vulnerabilities of the versions in constraints.txt, by pip-audit and PyPI's advisories.

    python .ci/audit.py

It fails if there is one that is not in `ACCEPTED`. Where the advisories can't be had, it says so, and does
not fail: a mirror of PyPI has none, and then nothing is known.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ACCEPTED: dict[str, str] = {}
"""Advisories that do not concern us, such as "GHSA-...", and why not; a fixed version is better."""

ROOT = Path(__file__).resolve().parents[1]


def report(audit: list[dict]) -> tuple[list[str], int, int]:
    """What is wrong, a line each, and how many packages were looked up and how many could not be.

    Args:
        audit: ``dependencies`` of pip-audit's JSON.
    """
    lines = []
    skipped = sum("skip_reason" in package for package in audit)
    for package in audit:
        for found in package.get("vulns", []):
            names = {found["id"], *found.get("aliases", [])}
            if not names & ACCEPTED.keys():
                fixed = " or ".join(found.get("fix_versions", [])) or "no version yet"
                lines.append(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}")
    return lines, len(audit) - skipped, skipped


def audit() -> list[dict] | None:
    """What pip-audit finds, in an environment of its own; None where it can't be had or gets no answer."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        for name in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT", "PYTHONPATH"):
            environment.pop(name, None)
        pip = [python, "-m", "pip", "install", "-q", "pip-audit"]
        if subprocess.run(pip, env=environment).returncode:
            return None
        command = [python, "-m", "pip_audit", "-r", "constraints.txt", "--no-deps", "--disable-pip"]
        command += ["-f", "json", "--progress-spinner", "off", "--timeout", "15"]
        run = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            return json.loads(run.stdout)["dependencies"]
        except (ValueError, KeyError):  # it stops at the first address that does not answer
            return None


def main() -> int:
    found = audit()
    if found is None:
        print("audit: pip-audit or the advisories could not be had: nothing is known")
        return 0
    lines, known, skipped = report(found)
    for line in lines:
        print(f"audit: {line}")
    print(f"audit: {known} packages looked up, {len(lines)} advisories", end="")
    print(f"; {skipped} are not where pip-audit looks: nothing is known of them" if skipped else "")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
