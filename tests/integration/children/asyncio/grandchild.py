"""The child of js-fixtures/family.cjs: starts a Node of its own: grandchild.py NODE PROGRAM."""

import asyncio
import json
import subprocess
import sys

from nodecompat.asyncio import connect_parent


async def main() -> None:
    async with connect_parent() as parent:
        # close_fds=False: whatever is inheritable would be inherited.
        grandchild = await asyncio.create_subprocess_exec(
            *sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False
        )
        assert grandchild.stdout is not None
        says = json.loads(await grandchild.stdout.readline())["node"]
        await parent.send({"pid": grandchild.pid, "says": says})
    await asyncio.to_thread(sys.stdin.read)
    await grandchild.communicate(b"")


asyncio.run(main())
