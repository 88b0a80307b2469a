"""Hosts on one machine, with separate networks, host names and shared memory, joined by a switch of a given rate.

All of them live in one process namespace, the site. Its first process ends when the standard input that this process
holds is closed, however this process ends; the kernel then kills everything inside, and with it go the networks. The
namespaces have no names, so nothing stays behind. Needs root, `ip` and `tc` (iproute2), `unshare` and `nsenter`.

A host is a member of the site with its own network: whoever is in that network belongs to it. Files are shared, except
`/dev/shm` and `/etc/hosts`. The agent stands in for ssh: `AGENT HOST COMMAND..` runs a shell's command on a host.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

TOOLS = ("ip", "tc", "unshare", "nsenter")
INTERFACE = "eth0"
_NETWORK = "10.87.0"
_BURST = "256kb"
_QUEUE = "20ms"
_READY_S = 60.0

_SITE = """
set -e
mount -t proc proc /proc
ip link set lo up
ip link add switch type bridge
ip link set switch up
trap '' CHLD
echo ready
exec cat > /dev/null
"""

_HOST = """
set -e
mount -t tmpfs tmpfs /dev/shm
mount --bind "$2" /etc/hosts
hostname "$1"
ip link set lo up
echo $$
exec sleep infinity > /dev/null
"""

_AGENT = """#!/bin/sh
# Called as ssh is: AGENT [-options] HOST COMMAND..
while [ "${1#-}" != "$1" ]; do shift; done
name=$1
shift
case $name in
%s
*) echo "agent: no host $name" >&2; exit 255 ;;
esac
exec nsenter --target $number --net --uts --ipc --mount sh -c "$*"
"""


def missing() -> str | None:
    """Why there can be no hosts here, None if there can."""
    if os.geteuid() != 0:
        return "hosts need root"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"not found: {', '.join(absent)}" if absent else None


def _first_child(process: subprocess.Popen[bytes]) -> int:
    """Number, outside of the site, of what `nsenter` or `unshare` started in another process namespace."""
    end = time.monotonic() + _READY_S
    while time.monotonic() < end and process.poll() is None:
        found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if found:
            return int(found[0])
        time.sleep(0.002)
    raise RuntimeError(f"{process.args!r} started nothing, exit code {process.poll()}")


def _line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().decode().strip()
    if not line:
        raise RuntimeError(f"{process.args!r} ended, exit code {process.wait()}")
    return line


def _place_of(pid: int) -> str:
    """The site and the network that a process is in, empty when it is gone."""
    try:
        return " ".join(str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in ("pid", "net"))
    except OSError:
        return ""


@dataclass
class Process:
    """A process on a host. `pid` is its number outside of the site, for signals and for /proc."""

    handle: subprocess.Popen[bytes]
    pid: int

    def signal(self, signum: int) -> None:
        """Send it a signal; nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)


@dataclass
class Host:
    """One host. `pid` is a process of it as it is numbered outside of the site, `inside` as in it."""

    name: str
    address: str
    port: str
    pid: int
    inside: int
    site: int
    place: str = field(init=False)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.place = _place_of(self.pid)

    def start(self, words: Sequence[object], env: Mapping[str, str], folder: Path, name: str) -> Process:
        """Start a command on this host in `folder`; what it says goes into `name.out` and `name.err` there."""
        enter = ["nsenter", "--target", str(self.pid), "--all", f"--wdns={folder}"]
        with (folder / f"{name}.out").open("wb") as out, (folder / f"{name}.err").open("wb") as err:
            handle = subprocess.Popen(
                [*enter, *map(str, words)], env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        self.started.append(handle)
        return Process(handle, _first_child(handle))

    def processes(self) -> list[int]:
        """Numbers, outside of the site, of the processes on this host, without the one that keeps it."""
        found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [pid for pid in found if pid != self.pid and _place_of(pid) == self.place]

    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received through the interface since the host exists, headers included."""
        for line in Path(f"/proc/{self.pid}/net/dev").read_text().splitlines():
            name, _, numbers = line.partition(":")
            if name.strip() == INTERFACE:
                counts = numbers.split()
                return int(counts[8]), int(counts[0])
        raise RuntimeError(f"{self.name} has no interface")

    def cut(self) -> None:
        """Pull the cable: the port of the switch goes down."""
        _in_network(self.site, "ip", "link", "set", self.port, "down")

    def die(self) -> None:
        """The power fails: nobody hears of it, and no process is left."""
        self.cut()
        while members := [pid for pid in self.processes() if _state(pid) != "Z"]:
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def _in_network(pid: int, *words: str) -> None:
    subprocess.run(["nsenter", "--target", str(pid), "--net", *words], check=True, capture_output=True)


class Hosts:
    """`count` hosts at a switch, with `rate` in each direction of each cable (as `tc` writes it, such as `1gbit`;
    None leaves the cables as fast as the machine). Use it as a context manager."""

    def __init__(self, count: int, folder: Path, *, rate: str | None = "1gbit") -> None:
        self.folder = folder
        self.rate = rate
        self.names = [f"host-{number}" for number in range(1, count + 1)]
        self.hosts: list[Host] = []
        self._keepers: list[subprocess.Popen[bytes]] = []
        self._site: subprocess.Popen[bytes] | None = None
        self._site_pid = 0

    def __enter__(self) -> Hosts:
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getitem__(self, index: int) -> Host:
        return self.hosts[index]

    def __len__(self) -> int:
        return len(self.hosts)

    def restore(self, host: Host) -> None:
        """Plug the cable of a host in again; everybody forgets that it could not be reached."""
        _in_network(self._site_pid, "ip", "link", "set", host.port, "up")
        for other in self.hosts:
            _in_network(other.pid, "ip", "neighbour", "flush", "all")

    @property
    def agent(self) -> Path:
        """What a launcher calls instead of ssh."""
        return self.folder / "agent"

    @property
    def temporary(self) -> Path:
        """A folder for temporary files of this site alone."""
        return self.folder / "tmp"

    def _open(self) -> None:
        self.temporary.mkdir(parents=True, exist_ok=True)
        addresses = [f"{_NETWORK}.{number}" for number in range(1, len(self.names) + 1)]
        known = "".join(f"{a} {n}\n" for a, n in zip(addresses, self.names, strict=True))
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{known}")
        self._site = subprocess.Popen(
            ["unshare", "--net", "--pid", "--mount", "--fork", "--kill-child", "sh", "-c", _SITE],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        _line(self._site)
        self._site_pid = _first_child(self._site)
        for name, address in zip(self.names, addresses, strict=True):
            self.hosts.append(self._host(name, address))
        cases = "\n".join(f"{host.name} | {host.address}) number={host.inside} ;;" for host in self.hosts)
        self.agent.write_text(_AGENT % cases)
        self.agent.chmod(0o755)

    def _host(self, name: str, address: str) -> Host:
        site = str(self._site_pid)
        keeper = subprocess.Popen(
            ["nsenter", "--target", site, "--pid", "--mount", "unshare", "--net", "--uts", "--ipc", "--mount",
             "sh", "-c", _HOST, "sh", name, str(self.folder / "hosts")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._keepers.append(keeper)
        inside = int(_line(keeper))
        pid, port = _first_child(keeper), f"port-{name.rpartition('-')[2]}"
        subprocess.run(
            ["ip", "link", "add", port, "netns", site, "type", "veth", "peer", "name", INTERFACE, "netns", str(pid)],
            check=True, capture_output=True,
        )  # fmt: skip
        _in_network(self._site_pid, "ip", "link", "set", port, "master", "switch", "up")
        _in_network(pid, "ip", "address", "add", f"{address}/24", "dev", INTERFACE)
        _in_network(pid, "ip", "link", "set", INTERFACE, "up")
        if self.rate is not None:
            # The host sends at this rate, and the switch sends to the host at this rate.
            for place, device in ((pid, INTERFACE), (self._site_pid, port)):
                _in_network(
                    place, "tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", self.rate, "burst", _BURST,
                    "latency", _QUEUE,
                )  # fmt: skip
        return Host(name, address, port, pid, inside, self._site_pid)

    def close(self) -> None:
        """End everything on the hosts, and the hosts."""
        if self._site is None:
            return
        assert self._site.stdin is not None
        self._site.stdin.close()
        try:
            self._site.wait(_READY_S)
        except subprocess.TimeoutExpired:
            self._site.kill()
        for process in [self._site, *self._keepers, *(each for host in self.hosts for each in host.started)]:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._site, self._keepers, self.hosts = None, [], []
