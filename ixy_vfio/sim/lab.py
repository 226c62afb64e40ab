"""Two hosts of the real kernel network stack at the far ends of two cables, made without root.

    host 0 (own network namespace)      lab (network namespace)            simulator (wherever it runs)
      eth0 10.82.59.1/24  <- veth ->  wire0: packet socket  --- fd passed --- port 0
      eth0 10.82.59.2/24  <- veth ->  wire1: packet socket  --- fd passed --- port 1
    host 1

All namespaces live inside one user namespace, so that any user may make them where the kernel allows user
namespaces. A packet socket works wherever its file descriptor goes: the simulator itself stays outside.
`python -m ixy_vfio.sim.lab wires FD` and `... host N` are the two processes of it; `Lab` starts and ends them.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from ixy_vfio.core.errors import IxyError

ADDRESSES = ("10.82.59.1", "10.82.59.2")
ETH_P_ALL = 0x0003  # linux/if_ether.h
SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_IGNORE_OUTGOING, PACKET_MR_PROMISC = 263, 1, 23, 1  # linux/if_packet.h
START_DEADLINE = 20.0


class LabError(IxyError):
    """The kernel does not let this user make the namespaces; the message says what is missing."""


class Lab:
    """Starts the two hosts; `wires` are the packet sockets' file descriptors, one for each simulated port."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = ["unshare", "--net", sys.executable, "-P", "-m", __spec__.name, "wires", str(theirs.fileno())]
        if os.geteuid() != 0 or not _may_make_network_namespaces():
            command[1:1] = ["--user", "--map-root-user"]
        self._process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for who made the lab, and ends it in its order
        )
        theirs.close()
        self._socket = ours
        ours.settimeout(START_DEADLINE)
        try:
            message, fds, _, _ = socket.recv_fds(ours, 4096, 2)
        except TimeoutError:
            message, fds = b"", []
        self.wires: list[int] = list(fds)
        if not message:
            self._process.kill()
            _, why = self._process.communicate()
            self.close()
            last = (why.strip().splitlines() or ["no reply"])[-1]
            raise LabError(f"cannot make network namespaces as this user: {last}")
        self._hosts: list[int] = json.loads(message)

    def command(self, host: int, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` on a host (0 or 1)."""
        pid = str(self._hosts[host])
        same_user_namespace = os.readlink(f"/proc/{pid}/ns/user") == os.readlink("/proc/self/ns/user")
        user = [] if same_user_namespace else ["--user", "--preserve-credentials"]
        return ["nsenter", "--target", pid, *user, "--net", *argv]

    def run(self, host: int, argv: Sequence[str], timeout: float = 60.0) -> "subprocess.CompletedProcess[str]":
        """Run a command on a host to its end, with its output captured."""
        return subprocess.run(self.command(host, argv), capture_output=True, text=True, timeout=timeout, check=False)

    def start(self, host: int, argv: Sequence[str]) -> "subprocess.Popen[str]":
        """Start a command on a host; the caller ends it."""
        return subprocess.Popen(self.command(host, argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def close(self) -> None:
        """End both hosts and close the packet sockets. Idempotent."""
        for fd in self.wires:
            os.close(fd)
        self.wires = []
        self._socket.close()  # the lab's processes end when they see this
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _may_make_network_namespaces() -> bool:
    return subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode == 0


def _packet_socket(interface: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.bind((interface, ETH_P_ALL))
    sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    index = socket.if_nametoindex(interface)
    membership = index.to_bytes(4, "little") + PACKET_MR_PROMISC.to_bytes(2, "little") + bytes(10)
    sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership)
    for size, forced in ((socket.SO_RCVBUF, 33), (socket.SO_SNDBUF, 32)):  # SO_RCVBUFFORCE, SO_SNDBUFFORCE
        sock.setsockopt(socket.SOL_SOCKET, size, 4 << 20)
        with contextlib.suppress(PermissionError):  # only real root may pass the system's limit
            sock.setsockopt(socket.SOL_SOCKET, forced, 4 << 20)
    return sock


def _plain_frames_only(interface: str) -> None:
    """Turn off every offload that would put a frame on the wire that no wire carries (GSO, partial checksums)."""
    from pyroute2 import Ethtool

    with Ethtool() as ethtool:
        features = ethtool.get_features(interface)
        for name, feature in features.features.items():
            if (
                "segmentation" in name
                or "checksum" in name
                or "-gso" in name
                or name in ("rx-gro", "tx-scatter-gather")
            ):
                feature.enable = False
        ethtool.set_features(interface, features)


def _wait_for(what: str, ready: Any) -> None:
    deadline = time.monotonic() + START_DEADLINE
    while not ready():
        if time.monotonic() > deadline:
            raise LabError(f"{what} within {START_DEADLINE:.0f} s")
        time.sleep(0.01)


def _wires(fd: int) -> None:
    """The lab's own process: makes both hosts, cables them to packet sockets, passes those, waits for the end."""
    from pyroute2 import IPRoute

    parent = socket.socket(fileno=fd)
    own = os.readlink("/proc/self/ns/net")
    hosts = []
    for number in range(2):
        argv = ["unshare", "--net", sys.executable, "-P", "-m", __spec__.name, "host", str(number)]
        hosts.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    wires = []
    with IPRoute() as netlink:
        for number, host in enumerate(hosts):
            _wait_for("no network namespace", lambda pid=host.pid: os.readlink(f"/proc/{pid}/ns/net") != own)
            name = f"wire{number}"
            netlink.link("add", ifname=name, kind="veth", peer={"ifname": "eth0", "net_ns_pid": host.pid})
            _plain_frames_only(name)
            index = netlink.link_lookup(ifname=name)[0]
            netlink.link("set", index=index, state="up", mtu=9000)
            wires.append(_packet_socket(name))
    for number, host in enumerate(hosts):
        if host.stdout is None or host.stdout.readline() != b"ready\n":
            raise LabError(f"host {number} did not start")
    socket.send_fds(parent, [json.dumps([host.pid for host in hosts]).encode()], [wire.fileno() for wire in wires])
    parent.recv(1)  # the end: the other side closed
    for host in hosts:
        host.kill()


def _host(number: int) -> None:
    """One host: waits for its eth0, gives it an address, stays until its standard input ends."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        _wait_for("no eth0", lambda: netlink.link_lookup(ifname="eth0"))
        index = netlink.link_lookup(ifname="eth0")[0]
        _plain_frames_only("eth0")
        netlink.link("set", index=netlink.link_lookup(ifname="lo")[0], state="up")
        netlink.link("set", index=index, state="up", mtu=1500)
        netlink.addr("add", index=index, address=ADDRESSES[number], prefixlen=24)
    print("ready", flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    {"wires": _wires, "host": _host}[sys.argv[1]](int(sys.argv[2]))
