"""A plugin of pytest for a host's tests: imports ours first, closes the network, records every result."""

import importlib
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

RESULTS: dict[str, tuple[str, str]] = {}

if os.environ["HOST_PLUGIN"]:
    importlib.import_module(os.environ["HOST_PLUGIN"])

_getaddrinfo = socket.getaddrinfo


def _local_only(host: Any, *args: Any, **kwargs: Any) -> Any:
    if host not in (None, "localhost", "127.0.0.1", "::1"):
        raise socket.gaierror(socket.EAI_NONAME, f"the network is closed to these tests: {host}")
    return _getaddrinfo(host, *args, **kwargs)


socket.getaddrinfo = _local_only


def _record(report: pytest.TestReport | pytest.CollectReport) -> None:
    crash = getattr(report.longrepr, "reprcrash", None)
    message = (crash.message if crash else str(report.longrepr or "").strip().rpartition("\n")[2]).strip()
    RESULTS[report.nodeid] = (report.outcome, message.partition("\n")[0])


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if not report.passed:
        _record(report)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or not report.passed:  # an error in a fixture, and what skips itself
        _record(report)


def pytest_sessionfinish() -> None:
    Path(os.environ["HOST_RESULTS"]).write_text(json.dumps(RESULTS), encoding="utf-8")
