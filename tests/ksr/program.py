"""KSR as a process of its own, so that a test can kill it: settings as JSON in the first argument."""

from __future__ import annotations

import asyncio
import json
import sys

from contiv.ksr import main
from contiv.log import configure

if __name__ == "__main__":
    configure("info", json=True)
    asyncio.run(main.run(**json.loads(sys.argv[1])))
