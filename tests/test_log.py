"""Events with fields, as text or JSON, ours and the libraries', on standard error only."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from contiv import log

PROGRAM = """
import logging, sys
from contiv import log
early = log.get_logger("early")
log.configure(sys.argv[1], json=sys.argv[2] == "json")
early.info("started", port=3)
log.get_logger("x").debug("detail", a=1)
try:
    1 / 0
except ZeroDivisionError:
    log.get_logger("x").exception("broken", object="default/web")
logging.getLogger("library").warning("old %s", "style")
logging.getLogger("library").info("chatter")
"""


def run(level: str, form: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, level, form], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return done.stderr.splitlines()


def test_json_lines_carry_event_level_logger_and_fields():
    started, broken, library = (json.loads(line) for line in run("info", "json"))
    assert (started["event"], started["level"], started["logger"], started["port"]) == (
        "started",
        "info",
        "early",
        3,
    )
    assert started["timestamp"].endswith("Z")
    assert (broken["level"], broken["object"]) == ("error", "default/web")
    assert "ZeroDivisionError" in json.dumps(broken["exception"])
    assert (library["event"], library["logger"]) == ("old style", "library")


def test_the_level_decides():
    assert any("detail" in line for line in run("debug", "text"))
    quiet = "\n".join(run("error", "text"))
    assert "started" not in quiet
    assert "broken" in quiet


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="choose one of debug"):
        log.configure("loud")
