"""The child of js-fixtures/family.cjs: starts a Node of its own: grandchild.py NODE PROGRAM."""

import json
import subprocess
import sys

from nodecompat import process

# The first use of the channel takes its variables out of the environment.
if not process.connected:
    sys.exit("no channel")
# close_fds=False: whatever is inheritable would be inherited.
grandchild = subprocess.Popen(
    sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False
)
assert grandchild.stdout is not None
says = json.loads(grandchild.stdout.readline())["node"]
process.send({"pid": grandchild.pid, "says": says})
process.disconnect()
sys.stdin.read()
grandchild.communicate()
