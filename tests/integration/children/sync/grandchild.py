"""The child of js-fixtures/family.cjs: starts a Node of its own: grandchild.py NODE PROGRAM."""

import json
import subprocess
import sys

from nodecompat.sync import connect_parent

with connect_parent() as parent:
    # close_fds=False: whatever is inheritable would be inherited.
    grandchild = subprocess.Popen(
        sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False
    )
    assert grandchild.stdout is not None
    says = json.loads(grandchild.stdout.readline())["node"]
    parent.send({"pid": grandchild.pid, "says": says})
sys.stdin.read()
grandchild.communicate()
