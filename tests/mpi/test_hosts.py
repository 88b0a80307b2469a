"""The hosts are what they say: a cable of a rate, nothing shared, and nothing left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import HANG_S

from .hosts import Host, Hosts, Process
from .launch import Launcher

pytestmark = pytest.mark.mpi

BYTES = 4_000_000
RECEIVE = """
import socket, sys
with socket.create_server(("", 9000)) as server:
    print("listening", flush=True)
    connection, _ = server.accept()
    total = 0
    while piece := connection.recv(1 << 16):
        total += len(piece)
    connection.sendall(total.to_bytes(8, "big"))
"""
SEND = f"""
import socket, time
with socket.create_connection(("host-2", 9000)) as connection:
    began = time.perf_counter()
    connection.sendall(bytes({BYTES}))
    connection.shutdown(socket.SHUT_WR)
    assert int.from_bytes(connection.recv(8), "big") == {BYTES}
    print(time.perf_counter() - began, flush=True)
"""
MESSAGE = f"""
from mpi4py import MPI
world, name = MPI.COMM_WORLD, MPI.Get_processor_name()
data = bytearray({BYTES})
if world.rank == 0:
    world.Send([data, MPI.BYTE], 1)
elif world.rank == 1:
    world.Recv([data, MPI.BYTE], 0)
names = world.gather(name)
if names:
    print(*names)
"""

MakeHosts = Callable[..., Hosts]


def python(host: Host, code: str, folder: Path, name: str) -> Process:
    return host.start([sys.executable, "-c", code], os.environ, folder, name)


def said(folder: Path, name: str) -> str:
    return (folder / f"{name}.out").read_text() or (folder / f"{name}.err").read_text()


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + HANG_S
    while not holds():
        assert time.monotonic() < end, "it hangs"
        time.sleep(0.01)


def send(hosts: Hosts, folder: Path) -> Process:
    """Start a transfer from the first host to the second."""
    python(hosts[1], RECEIVE, folder, "receive")
    wait_for(lambda: said(folder, "receive") == "listening\n")
    return python(hosts[0], SEND, folder, "send")


def test_the_cable_has_its_rate(make_hosts: MakeHosts, tmp_path: Path) -> None:
    hosts = make_hosts(2, rate="80mbit")
    assert send(hosts, tmp_path).handle.wait(HANG_S) == 0, said(tmp_path, "send")
    # What the bucket holds goes at once; a slow machine may take longer than the cable.
    assert float(said(tmp_path, "send")) > 0.8 * 8 * BYTES / 80e6
    assert BYTES < hosts[0].traffic()[0] < 1.2 * BYTES
    assert BYTES < hosts[1].traffic()[1] < 1.2 * BYTES
    assert hosts[0].processes() == []


def test_a_cut_cable_carries_nothing(make_hosts: MakeHosts, tmp_path: Path) -> None:
    hosts = make_hosts(2, rate="8mbit")
    process = send(hosts, tmp_path)
    wait_for(lambda: hosts[1].traffic()[1] > BYTES // 10)
    hosts[1].cut()
    before = hosts[1].traffic()
    time.sleep(0.5)
    assert hosts[1].traffic() == before
    assert process.handle.poll() is None
    hosts.restore(hosts[1])
    wait_for(lambda: hosts[1].traffic()[1] > before[1] + BYTES // 20)


def test_hosts_share_no_memory_and_no_name(make_hosts: MakeHosts, tmp_path: Path) -> None:
    hosts = make_hosts(2)
    code = "import os, socket; print(socket.gethostname(), os.listdir('/dev/shm')); open('/dev/shm/own', 'w')"
    for index, host in enumerate(hosts.hosts):
        assert python(host, code, tmp_path, f"look-{index}").handle.wait(HANG_S) == 0
        assert said(tmp_path, f"look-{index}") == f"host-{index + 1} []\n"


def test_a_dead_host_has_no_process(make_hosts: MakeHosts, tmp_path: Path) -> None:
    hosts = make_hosts(2)
    process = python(hosts[1], "import time; time.sleep(3600)", tmp_path, "sleep")
    assert hosts[1].processes() == [process.pid]
    hosts[1].die()
    wait_for(lambda: hosts[1].processes() == [])
    assert process.handle.wait(HANG_S) != 0


def test_nothing_is_left_when_the_maker_is_killed(tmp_path: Path) -> None:
    code = f"""
import os, sys, time
from pathlib import Path
from mpi.hosts import Hosts
with Hosts(2, Path({str(tmp_path)!r})) as hosts:
    sleepers = [host.start(["sleep", "3600"], os.environ, Path({str(tmp_path)!r}), host.name) for host in hosts.hosts]
    print(*(process.pid for process in sleepers), *(host.pid for host in hosts.hosts), flush=True)
    time.sleep(3600)
"""
    tests = str(Path(__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": tests}
    ) as maker:
        assert maker.stdout is not None
        pids = [int(word) for word in maker.stdout.readline().split()]
        assert len(pids) == 4
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
        maker.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


@pytest.mark.parametrize("ranks", [2, 3])
def test_messages_of_mpi_cross_the_cable(make_hosts: MakeHosts, launcher: Launcher, tmp_path: Path, ranks: int) -> None:
    hosts = make_hosts(ranks)
    words = launcher.words(ranks, [sys.executable, "-c", MESSAGE], hosts)
    process = hosts[0].start(words, {**os.environ, **launcher.environment(hosts)}, tmp_path, "mpi")
    assert process.handle.wait(HANG_S) == 0, said(tmp_path, "mpi")
    assert said(tmp_path, "mpi").split() == [host.name for host in hosts.hosts]
    assert hosts[0].traffic()[0] > BYTES
    assert hosts[1].traffic()[1] > BYTES
    wait_for(lambda: not any(host.processes() for host in hosts.hosts))
