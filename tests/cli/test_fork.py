"""``nodecompat fork``: JSON lines in, JSON lines out, with real Node children."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from tests.cli.conftest import LIMIT, Program

ECHO = "process.on('message', (m) => process.send(m));"

Write = Callable[[str], str]


@pytest.fixture
def js(tmp_path: Path) -> Write:
    """Writes a JavaScript program and gives its path."""

    def write(text: str) -> str:
        path = tmp_path / "program.js"
        path.write_text(text)
        return str(path)

    return write


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


# ---------------------------------------------------------------------- messages


def test_messages_there_and_back(program: Program, js: Write) -> None:
    messages = ['{"a": 1}', "[1, 2.5, null, true]", '"Grüße 🐍"', "0", "null"]
    # The last line has no end, and the child never disconnects.
    done = program.run("fork", js(ECHO), stdin="\n".join(messages))
    assert done.stderr == ""
    assert lines(done.stdout) == [json.loads(text) for text in messages]
    assert done.stdout.endswith("null\n")
    assert done.returncode == 0


def test_many_messages_keep_their_order(program: Program, js: Write) -> None:
    count = 5000
    # Node drops what it has not written yet when it disconnects: only in the callback is it safe.
    child = js(
        "process.on('message', (m) => process.send(m, () => {"
        f"if (m === {count - 1}) process.disconnect(); }}));"
    )
    done = program.run("fork", child, stdin="".join(f"{number}\n" for number in range(count)))
    assert (done.returncode, done.stderr) == (0, "")
    assert lines(done.stdout) == list(range(count))


def test_a_long_line(program: Program, js: Write) -> None:
    text = "x" * 3_000_000
    child = js("process.on('message', (m) => process.send(m.length, () => process.disconnect()));")
    done = program.run("fork", child, stdin=json.dumps(text))
    assert (done.returncode, done.stdout, done.stderr) == (0, "3000000\n", "")


def test_stdin_is_a_file(program: Program, js: Write, tmp_path: Path) -> None:
    (tmp_path / "messages").write_text('{"from": "a file"}\n')
    with open(tmp_path / "messages", "rb") as stdin:
        done = program.run("fork", js(ECHO), stdin=stdin)
    assert (done.returncode, lines(done.stdout), done.stderr) == (0, [{"from": "a file"}], "")


def test_stdin_is_closed(program: Program, js: Write) -> None:
    child = js("process.send('alone', () => process.disconnect());")
    command = 'exec "$@" <&-'
    done = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-m", "nodecompat", "fork", child],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=program.env(),
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, '"alone"\n', "")


def test_empty_lines_are_left_out(program: Program, js: Write) -> None:
    done = program.run("fork", js(ECHO), stdin="\n1\n  \r\n\n2\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n2\n", "")


@pytest.mark.parametrize("wrong", [b"{'a': 1}", b'{"a": 1', b"NaN", b"1 2", b'"\xff"'])
def test_a_line_that_is_not_json(program: Program, js: Write, wrong: bytes) -> None:
    done = program.run("fork", js(ECHO), stdin=b"1\n" + wrong + b"\n3\n")
    assert done.stdout == "1\n3\n"
    assert done.stderr.startswith("nodecompat fork: line 2 of stdin is not sent: ")
    assert done.stderr.count("\n") == 1
    assert done.returncode == 1


def test_a_message_that_json_cannot_carry(program: Program, js: Write) -> None:
    child = js(
        "const cycle = {}; cycle.itself = cycle;"
        "process.send(1); process.send(cycle); process.send(3, () => process.disconnect());"
    )
    done = program.run("fork", "--serialization", "advanced", child)
    assert done.stdout == "1\n3\n"
    assert "a message that JSON cannot carry is not printed: " in done.stderr
    assert "circular" in done.stderr
    assert done.returncode == 1


def test_what_is_not_the_protocol(program: Program, js: Write) -> None:
    child = js("require('fs').writeSync(3, 'no JSON\\n'); setInterval(() => {}, 1000);")
    done = program.run("fork", child)
    assert done.stdout == ""
    assert "no JSON" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


# ---------------------------------------------------------------------- the child


def test_what_the_child_writes_goes_to_stderr(program: Program, js: Write) -> None:
    child = js(
        "console.log('to stdout'); console.error('to stderr');"
        "process.send('a message', () => process.disconnect());"
    )
    done = program.run("fork", child)
    assert done.stdout == '"a message"\n'
    assert sorted(done.stderr.split("\n")) == ["", "to stderr", "to stdout"]


def test_all_after_the_program_is_the_childs(program: Program, js: Write) -> None:
    arguments = ["-x", "--linger", "3", "--help", "--", "plain", "--serialization=none"]
    child = js("process.send(process.argv.slice(2), () => process.disconnect());")
    done = program.run("fork", child, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert lines(done.stdout) == [arguments]


def test_a_python_program_is_run_by_this_python(program: Program, tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(
        "import sys\n"
        "from nodecompat.sync import connect_parent\n"
        "with connect_parent() as parent:\n"
        "    for message in parent:\n"
        "        parent.send([sys.executable, parent.serialization, message])\n"
        "        break\n"
    )
    child = str(tmp_path / "child.py")
    root = str(Path(__file__).parents[2])
    done = program.run("fork", child, stdin="{}", PYTHONPATH=root)
    assert (done.returncode, done.stderr) == (0, "")
    assert lines(done.stdout) == [[sys.executable, "json", {}]]


def test_advanced_mode(program: Program, js: Write) -> None:
    done = program.run("fork", "--serialization", "advanced", js(ECHO), stdin='{"a": [1, 2.5]}')
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"a":[1,2.5]}\n', "")


def test_exec_path(program: Program, js: Write) -> None:
    child = js("process.send(process.execPath, () => process.disconnect());")
    done = program.run(
        "fork", "--exec-path", program.node, child, NODECOMPAT_NODE="/nonexistent/node"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [os.path.realpath(path) for path in lines(done.stdout)] == [
        os.path.realpath(program.node)
    ]


def test_no_node(program: Program, js: Write) -> None:
    done = program.run("fork", js(ECHO), NODECOMPAT_NODE="/nonexistent/node")
    assert (done.returncode, done.stdout) == (127, "")
    assert "/nonexistent/node" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_exec_path_that_is_not_there(program: Program, js: Write) -> None:
    done = program.run("fork", "--exec-path", "/nonexistent/node", js(ECHO))
    assert (done.returncode, done.stdout) == (127, "")
    assert done.stderr.count("\n") == 1


def test_an_exec_path_that_is_no_program(program: Program, js: Write) -> None:
    child = js(ECHO)
    done = program.run("fork", "--exec-path", child, child)
    assert (done.returncode, done.stdout) == (126, "")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [[], ["--linger", "-1", "x.js"], ["--linger", "nan", "x.js"], ["--lingr", "x.js"]]
)
def test_a_wrong_command_line(program: Program, arguments: list[str]) -> None:
    done = program.run("fork", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: nodecompat fork" in done.stderr


# ---------------------------------------------------------------------- the end


def test_an_answer_that_takes_its_time(program: Program, js: Write) -> None:
    child = js(
        "process.on('message', (m) => { process.send('at once');"
        "setTimeout(() => process.send('late', () => process.disconnect()), 1500); });"
    )
    done = program.run("fork", "--linger", "inf", child, stdin="1")
    assert (done.returncode, lines(done.stdout), done.stderr) == (0, ["at once", "late"], "")


def test_a_child_that_never_answers(program: Program, js: Write) -> None:
    child = js("process.on('message', (m) => console.log(m)); process.on('disconnect', () => {});")
    forever = "import nodecompat.cli.fork as fork; fork._LINGER_FIRST = 1e9"
    done = program.run("fork", "--linger", "0", child, stdin='"heard"', setup=forever)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "heard\n")


def test_a_child_that_goes_before_stdin_ends(program: Program, js: Write) -> None:
    child = js("process.on('message', () => process.disconnect());")
    with program.start("fork", child) as process:
        assert process.stdin is not None
        process.stdin.write(b"1\n")
        process.stdin.flush()
        # stdin stays open.
        assert process.wait(LIMIT) == 0


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("process.exit(7)", 7),
        ("process.kill(process.pid, 'SIGKILL')", 137),
        ("process.kill(process.pid, 'SIGTERM'); setInterval(() => {}, 1000)", 143),
        ("process.exit(0)", 0),
    ],
)
def test_the_exit_status_is_the_childs(program: Program, js: Write, text: str, status: int) -> None:
    done = program.run("fork", js(text))
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_the_childs_own_status_before_that_of_a_wrong_line(program: Program, js: Write) -> None:
    child = js("process.on('message', (m) => process.exit(m));")
    done = program.run("fork", child, stdin="wrong\n9\n")
    assert done.returncode == 9
    assert "line 1 of stdin" in done.stderr


# ---------------------------------------------------------------------- signals


def first_line(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_child(
    program: Program, js: Write, number: signal.Signals, status: int
) -> None:
    child = js(f"{ECHO} process.send(process.pid);")
    with program.start("fork", child) as process:
        pid = first_line(process)
        process.send_signal(number)
        assert process.wait(LIMIT) == status
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_childs_last_words(program: Program, js: Write) -> None:
    child = js(
        "process.on('SIGTERM', () => process.send('bye', () => process.exit(5)));"
        "process.on('message', () => {}); process.send('ready');"
    )
    with program.start("fork", child) as process:
        assert first_line(process) == "ready"
        process.terminate()
        assert first_line(process) == "bye"
        assert process.wait(LIMIT) == 5


STUBBORN = (
    "process.on('SIGTERM', () => process.send('no'));"
    "process.on('message', () => {}); process.send('ready');"
)


def test_the_second_signal_kills(program: Program, js: Write) -> None:
    patient = "import nodecompat.cli.fork as fork; fork._GRACE = 1e9"
    with program.start("fork", js(STUBBORN), setup=patient) as process:
        assert first_line(process) == "ready"
        process.terminate()
        assert first_line(process) == "no"
        process.terminate()
        assert process.wait(LIMIT) == 137


def test_a_child_that_stays_after_a_signal_is_killed(program: Program, js: Write) -> None:
    impatient = "import nodecompat.cli.fork as fork; fork._GRACE = 0.5"
    with program.start("fork", js(STUBBORN), setup=impatient) as process:
        assert first_line(process) == "ready"
        process.terminate()
        assert process.wait(LIMIT) == 137


FLOOD = (
    "process.on('message', () => {}); process.send(process.pid);"
    "const flood = () => process.send('x'.repeat(10000), () => setImmediate(flood)); flood();"
)


def test_a_reader_that_goes_away(program: Program, js: Write) -> None:
    with program.start("fork", js(FLOOD)) as process:
        pid = first_line(process)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(LIMIT) == 141
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_slow_reader_of_a_stdout_that_is_non_blocking(program: Program, js: Write) -> None:
    # libuv sets O_NONBLOCK on the pipe that is its stdout; after 2>&1 that pipe is ours too. And
    # nobody reads for longer than the --linger time, while one more message is to come.
    child = js(
        "process.stdout; const text = 'x'.repeat(10000);"
        "for (let left = 100; left > 0; left -= 1) process.send(text);"
        "setTimeout(() => process.send('late', () => process.disconnect()), 1800);"
    )
    command = 'exec "$@" 2>&1 | { sleep 2.5; cat; }'
    done = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-m", "nodecompat", "fork", child],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=program.env(),
        check=False,
    )
    assert lines(done.stdout) == ["x" * 10000] * 100 + ["late"]


def test_stdin_that_is_non_blocking(program: Program, js: Write) -> None:
    child = js("process.on('message', (m) => process.send(m, () => process.disconnect()));")
    read, write = os.pipe()
    os.set_blocking(read, False)
    with (
        open(write, "wb", buffering=0) as stdin,
        open(read, "rb", buffering=0) as theirs,
        subprocess.Popen(
            [sys.executable, "-m", "nodecompat", "fork", child],
            stdin=theirs,
            stdout=subprocess.PIPE,
            env=program.env(),
        ) as process,
    ):
        try:
            # By then it has found nothing to read.
            time.sleep(1)
            stdin.write(b"1\n")
            assert process.stdout is not None
            assert process.stdout.read() == b"1\n"
            assert process.wait(LIMIT) == 0
        finally:
            process.kill()


def test_a_signal_while_nobody_reads(program: Program, js: Write) -> None:
    with program.start("fork", js(FLOOD)) as process:
        pid = first_line(process)
        wait_until_full(process.stdout)
        process.terminate()
        assert process.wait(LIMIT) == 143
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def wait_until_full(pipe: IO[bytes] | None) -> None:
    assert pipe is not None
    waiting = bytearray(4)
    deadline = time.monotonic() + LIMIT
    while int.from_bytes(waiting, sys.byteorder) <= select.PIPE_BUF * 15:
        assert time.monotonic() < deadline, "the pipe does not fill"
        time.sleep(0.05)
        fcntl.ioctl(pipe, termios.FIONREAD, waiting)
