#!/usr/bin/env python3
"""A CNI plugin for the tests of the runtime's side: it records each call and answers from files.

Beside it: ``calls`` gets one JSON line a call; the file ``refuse-COMMAND`` holds ``CODE TIMES``: so often the
command is refused with that code. Addresses are 10.1.0.x, x counting up from 2.
"""

import json
import os
import sys
from pathlib import Path

here = Path(__file__).parent
config = json.load(sys.stdin)
command = os.environ["CNI_COMMAND"]
call = {key: value for key, value in os.environ.items() if key.startswith("CNI_")}
with (here / "calls").open("a") as calls:
    calls.write(json.dumps({"env": call, "config": config}) + "\n")

refusal = here / f"refuse-{command}"
if refusal.exists():
    code, times = map(int, refusal.read_text().split())
    if times:
        refusal.write_text(f"{code} {times - 1}")
        print(json.dumps({"cniVersion": "1.1.0", "code": code, "msg": "not now", "details": "told to"}))
        sys.exit(1)

if command == "ADD":
    number = sum('"ADD"' in line for line in (here / "calls").read_text().splitlines()) + 1
    print(json.dumps({"cniVersion": config["cniVersion"], "ips": [{"address": f"10.1.0.{number}/32"}]}))
