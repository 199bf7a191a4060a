"""A parent: sends numbered messages and ends without a word: burst.py NODE PROGRAM ARG COUNT."""

import sys

from nodecompat.sync import fork

node, program, argument, count = sys.argv[1:]
child = fork(program, [argument], exec_path=node)
for number in range(int(count)):
    child.send(number)
