"""Worker processes: how they are started, asked, and kept from running out of turn.

A worker answers the requests that `protocol.rs` describes. Between its turns it is stopped (SIGSTOP), so that no
pool of threads that spins while it waits takes a core from whoever is measured. Only processes started here are
ever signalled, by their numbers.
"""
import glob
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


class Failed(Exception):
    """What a worker said instead of an answer."""


class Channel:
    """Lines of JSON to and from a process."""

    def __init__(self, reader, writer):
        self.reader, self.writer, self.rest = reader, writer, b""

    def send(self, message):
        self.writer.write(json.dumps(message).encode() + b"\n")
        self.writer.flush()

    def receive(self, timeout):
        while b"\n" not in self.rest:
            if not select.select([self.reader], [], [], timeout)[0]:
                raise Failed(f"no answer in {timeout:.0f} s")
            more = os.read(self.reader.fileno(), 1 << 16)
            if not more:
                raise Failed("it ended without an answer")
            self.rest += more
        line, self.rest = self.rest.split(b"\n", 1)
        return json.loads(line)


class Worker:
    """A process that holds one model."""

    def __init__(self, channel, pid, child=None):
        self.channel, self.pid, self.child = channel, pid, child

    def ask(self, timeout, **request):
        os.kill(self.pid, signal.SIGCONT)
        try:
            self.channel.send(request)
            answer = self.channel.receive(timeout)
        except OSError as e:
            raise Failed(f"it ended: {e}") from None
        if "error" in answer:
            raise Failed(answer["error"])
        if request["do"] != "quit":
            os.kill(self.pid, signal.SIGSTOP)
        return answer

    def cpu_seconds(self):
        """Of all its threads, so far."""
        total = 0
        for path in glob.glob(f"/proc/{self.pid}/task/*/schedstat"):
            try:
                with open(path) as f:
                    total += int(f.read().split()[0])
            except OSError:
                # The thread has just ended.
                continue
        return total / 1e9

    def end(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.channel.writer.close()
        if self.child:
            self.child.wait()


class Program:
    """A peer with a worker program of its own."""

    def __init__(self, name, command):
        self.name, self.command = name, command

    def start(self, cpus):
        pipe = subprocess.PIPE
        child = subprocess.Popen(
            self.command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        )
        return Worker(Channel(child.stdout, child.stdin), child.pid, child)

    def close(self):
        pass


class PythonPeer:
    """A peer of `worker.py`: imported once, forked for each model."""

    def __init__(self, name, folder):
        self.name = name
        path = os.path.join(folder, f"{name}.socket")
        if os.path.exists(path):
            os.remove(path)
        shutil.rmtree(os.path.join(folder, f"{name}-cache"), ignore_errors=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        log = open(os.path.join(folder, f"{name}.log"), "w")
        command = [sys.executable, os.path.join(HERE, "worker.py"), name, path]
        self.child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=HERE)
        self.parent, hello = self.accept(120)
        if "missing" in hello:
            raise Failed(hello["missing"])
        self.version = hello["version"]

    def accept(self, timeout):
        self.listener.settimeout(timeout)
        try:
            connection, _ = self.listener.accept()
        except TimeoutError:
            raise Failed("it does not start") from None
        channel = Channel(connection.makefile("rb", buffering=0), connection.makefile("wb"))
        return channel, channel.receive(timeout)

    def start(self, cpus):
        self.parent.send({"do": "fork"})
        channel, hello = self.accept(30)
        # Before it makes any thread of its own.
        os.sched_setaffinity(hello["pid"], cpus)
        return Worker(channel, hello["pid"])

    def close(self):
        self.parent.writer.close()
        self.parent.reader.close()
        self.child.kill()
        self.child.wait()
