"""A parent: sends 0, 1, 2 and then a long string: large.py NODE PROGRAM ARG CHARACTERS."""

import sys

from nodecompat.sync import fork

node, program, argument, size = sys.argv[1:]
with fork(program, [argument], exec_path=node) as child:
    child.send_many([0, 1, 2])
    child.send("x" * int(size))
