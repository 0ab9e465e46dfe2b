#!/usr/bin/env python3
"""Stands in for the `nvidia-cuda-mps-control` of a driver that differs from 535 and 550.

As drivers of the 615 series were seen to: no `control_lock`, but a flock on the pid file, and
status 244 without libcuda. Beyond that the process in the foreground only waits for a second one,
which listens, so that nothing in the product depends on which process does.
"""

import os
import signal
import socket
import sys

PIPE = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")
TOLD = os.environ.get("STAND_IN", "")
NO_LIBCUDA = 244


def printed(limit: str) -> str:
    mib = int(limit.removesuffix("M"))
    return f"{mib // 1024}G" if mib >= 1024 else f"{mib}M"


class Daemon:
    def __init__(self) -> None:
        self.default = ""
        self.servers: dict[int, str] = {}  # limits, by PID

    def run(self) -> int:
        path = f"{PIPE}/control"
        with socket.socket(socket.AF_UNIX) as listener:
            if os.path.exists(path):
                os.unlink(path)
            listener.bind(path)
            os.chmod(path, 0o666)
            listener.listen()
            while True:
                peer, _ = listener.accept()
                with peer:
                    words = peer.recv(4096).decode().splitlines()
                    answers = [answer for word in words if (answer := self.obey(word.split()))]
                    peer.sendall("\n".join(answers).encode())
                    if any(word.startswith("quit") for word in words):
                        return 0

    def obey(self, words: list[str]) -> str:
        while self.servers and (ended := os.waitpid(-1, os.WNOHANG)[0]):
            self.servers.pop(ended, None)
        match words:
            case ["get_server_list"]:
                return "\n".join(map(str, self.servers))
            case ["start_server", "-uid", uid]:
                server = os.fork()
                if server == 0:
                    os.setuid(int(uid))
                    os.execvp("nvidia-cuda-mps-server", ["nvidia-cuda-mps-server"])
                self.servers[server] = self.default
            case ["get_server_status", pid]:
                return "ACTIVE" if int(pid) in self.servers else f"Server {pid} not found"
            case ["set_default_device_pinned_mem_limit", "0", limit]:
                self.default = limit
            case ["get_default_device_pinned_mem_limit", "0"]:
                return printed(self.default) if self.default else ""
            case ["set_device_pinned_mem_limit", pid, "0", limit]:
                self.servers[int(pid)] = limit
            case ["get_device_pinned_mem_limit", pid, "0"]:
                limit = self.servers[int(pid)]
                return printed(limit) if limit else ""
            case ["quit", *_]:
                for server in self.servers:
                    os.kill(server, signal.SIGKILL)
                    os.waitpid(server, 0)
            case _:
                return f'Unknown command "{" ".join(words)}"'
        return ""


def serve() -> int:
    if os.path.exists(f"{TOLD}/no-libcuda"):
        return NO_LIBCUDA
    import fcntl

    lock = os.open(f"{PIPE}/nvidia-cuda-mps-control.pid", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.stderr.write("An instance of this daemon is already running\n")
        return 1
    worker = os.fork()
    if worker == 0:
        os._exit(Daemon().run())
    return os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])


def command() -> int:
    with socket.socket(socket.AF_UNIX) as peer:
        try:
            peer.connect(f"{PIPE}/control")
        except OSError:
            sys.stderr.write("Cannot find MPS control daemon process\n")
            return 1
        peer.sendall(sys.stdin.read().encode())
        while part := peer.recv(4096):
            sys.stdout.write(part.decode())
    return 0


def main(words: list[str]) -> int:
    if words == ["-f"]:
        return serve()
    if words == ["-d"]:
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os._exit(serve())
        return 0
    return command()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
