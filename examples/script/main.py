from pathlib import Path

from nodecompat.sync import fork

with fork(Path(__file__).with_name("worker.js")) as child:
    for message in child:
        print(message)
print("exit code", child.exit_code)
