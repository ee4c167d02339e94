"""The user network, which passt makes: an address, a name, a page, and whoever comes in through a forwarded port."""

from __future__ import annotations

import http.server
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from helpers import LIMIT, PYKVM, ROOT

from pykvm import ConfigError, Machine
from pykvm.net.packets import Forward
from pykvm.net.user import UserNet, parse_forward

Guest = Callable[[str], Path]

PAGE = bytes(range(32, 127)) * 100


class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(PAGE + self.path.encode())

    def log_message(self, *about: object) -> None:
        pass


@contextmanager
def page_server() -> Iterator[int]:
    """The port of an HTTP server on this machine's loopback."""
    with http.server.HTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def on_the_internet(guest: Guest, backend: UserNet) -> Iterator[Machine]:
    with Machine(guest("internet"), nics=[backend]) as machine:
        machine.start(3 * LIMIT)
        machine.serial.wait_for("ready\n", LIMIT)
        assert "address 10.0.2.15, router 10.0.2.2, dns 10.0.2.3\n" in machine.serial.text
        yield machine


def call(port: int) -> bytes:
    """What the guest's server at the forwarded port answers to a greeting."""
    with socket.create_connection(("127.0.0.1", port), LIMIT) as sock:
        sock.sendall(b"good morning\n")
        answer = b""
        while part := sock.recv(4096):
            answer += part
    return answer


@pytest.mark.needs("kvm", "passt")
def test_an_address_a_page_and_a_forwarded_port(guest: Guest) -> None:
    port = free_port()
    backend = UserNet([Forward("tcp", "127.0.0.1", port, 22)])
    with page_server() as pages, on_the_internet(guest, backend) as machine:
        machine.serial.send(f"get 10.0.2.2 {pages} /a/path\n")
        machine.serial.wait_for("end of page\n", LIMIT)
        assert "page: 95" in machine.serial.text
        assert "200 OK" in machine.serial.text
        machine.serial.send("listen 22\n")
        machine.serial.wait_for("listening\n", LIMIT)
        assert call(port) == b"good morning\n"
        machine.serial.wait_for("served: 13 bytes\n", LIMIT)
        machine.serial.send(f"get 10.0.2.2 {port + 1 if port < 65535 else 1} /\n")
        machine.serial.wait_for("get: refused\n", LIMIT)
        machine.serial.send("quit\n")
        assert machine.wait(LIMIT).code == 0
    assert not os.path.exists(f"/proc/{backend.pid}")


@pytest.mark.needs("kvm", "passt")
def test_a_restricted_guest_reaches_nothing_and_is_reached(guest: Guest) -> None:
    port = free_port()
    with page_server() as pages:
        backend = UserNet([Forward("tcp", "127.0.0.1", port, 80)], restrict=True)
        with on_the_internet(guest, backend) as machine:
            machine.serial.send("listen 80\n")
            machine.serial.wait_for("listening\n", LIMIT)
            assert call(port) == b"good morning\n"
            machine.serial.send(f"get 10.0.2.2 {pages} /\n")
            machine.serial.wait_for("get: no answer\n", LIMIT)
            assert "page:" not in machine.serial.text


OFFLINE = """
import socket, struct, sys, threading
from pykvm import Machine
from pykvm.net.user import UserNet
limit = float(sys.argv[2])
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
def serve():
    question, who = server.recvfrom(512)
    assert question[12:] == b"\\4host\\7example\\0\\0\\1\\0\\1", question
    answer = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4\\xc6\\x33\\x64\\x07"
    server.sendto(question[:2] + b"\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0" + question[12:] + answer, who)
thread = threading.Thread(target=serve, daemon=True)
thread.start()
with Machine(sys.argv[1], nics=[UserNet()]) as machine:
    machine.start(3 * limit)
    machine.serial.wait_for("ready\\n", limit)
    machine.serial.send("resolve host.example\\n")
    machine.serial.wait_for("resolved: 198.51.100.7\\n", limit)
    print(machine.serial.text)
"""


@pytest.mark.needs("kvm", "passt", "own-mounts")
def test_a_name_of_a_resolver_on_a_host_without_a_network(guest: Guest, tmp_path: Path) -> None:
    """In a network of its own, which is a loopback with a DNS server, as hosts have it with systemd-resolved."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    script = 'ip link set lo up && mount --bind "$0" "$(realpath /etc/resolv.conf)" && exec "$@"'
    words = ["unshare", "-mn", "sh", "-c", script, tmp_path / "resolv.conf", sys.executable, "-c", OFFLINE]
    done = subprocess.run(
        [*words, guest("internet"), str(LIMIT)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=3 * LIMIT,
    )
    assert done.returncode == 0, done.stderr
    assert "resolved: 198.51.100.7" in done.stdout


@pytest.mark.needs("kvm", "passt")
def test_kill_9_leaves_no_passt_and_no_port(guest: Guest) -> None:
    port = free_port()
    words = [*PYKVM, "run", guest("internet"), "--nic", f"user,hostfwd=tcp:127.0.0.1:{port}-:22"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        while b"ready" not in (line := process.stdout.readline()):
            assert line
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
        (passt,) = (os.pidfd_open(int(child)) for child in children.split())
        process.kill()
    select.select([passt], [], [])
    os.close(passt)
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.needs("kvm", "passt")
def test_a_passt_that_dies_is_a_cable_that_leads_nowhere(guest: Guest) -> None:
    backend = UserNet()
    with on_the_internet(guest, backend) as machine:
        os.kill(backend.pid, signal.SIGKILL)
        machine.serial.send("get 10.0.2.2 80 /\n")
        machine.serial.wait_for("get: no answer\n", LIMIT)
        machine.serial.send("quit\n")
        assert machine.wait(LIMIT).code == 0
    assert backend.fileno() is None


@pytest.mark.needs("kvm", "passt")
def test_a_fork_has_a_cable_of_its_own(guest: Guest) -> None:
    with on_the_internet(guest, UserNet()) as machine:
        snapshot = machine.snapshot()
        machine.stop()
        machine.wait()
    with snapshot.fork() as fork:
        fork.start(LIMIT)
        fork.serial.send("get 10.0.2.2 1 /\n")
        fork.serial.wait_for("get: no answer\n", LIMIT)
    with page_server() as pages, snapshot.fork(nics=[UserNet()]) as fork:
        fork.start(LIMIT)
        fork.serial.send(f"get 10.0.2.2 {pages} /\n")
        fork.serial.wait_for("end of page\n", LIMIT)


@pytest.mark.needs("passt")
def test_a_port_that_is_taken_is_told_in_passts_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match=f"passt does not serve a network: .*{port}"):
            UserNet([Forward("tcp", "127.0.0.1", port, 22)])


def test_without_passt_the_message_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="passt, which is not installed: on Debian, `apt-get install passt`"):
        UserNet()


@pytest.mark.needs("passt")
def test_a_port_for_datagrams_is_there() -> None:
    port = free_port()
    with (
        closing(UserNet([parse_forward(f"udp::{port}-:7")])),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        pytest.raises(OSError, match="in use"),
    ):
        sock.bind(("127.0.0.1", port))
