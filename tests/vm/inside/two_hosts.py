"""Runs in a guest: two interfaces on one wire, each in a network namespace of its own, and traffic between them.

The first words are the two PCI addresses; prints a JSON object of what was seen.
"""

import hashlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from pyroute2 import NetNS, netns

NAMES = ("vm_a", "vm_b")
LINK_DEADLINE = 240.0  # a busy host, and every register access a message
STREAM = 4 << 20


def interface(address: str) -> str:
    """The network interface of a PCI device; waits for its driver."""
    end = time.monotonic() + 120
    folder = Path(f"/sys/bus/pci/devices/{address}")
    while not (found := [*folder.glob("net/*"), *folder.glob("virtio*/net/*")]):  # virtio has a folder between
        if time.monotonic() > end:
            raise TimeoutError(f"{address} has no network interface")
        time.sleep(0.1)
    return found[0].name


def move(name: str, space: str, mtu: int) -> NetNS:
    """Put an interface into a new namespace and bring it up."""
    from pyroute2 import IPRoute

    netns.create(space)
    with IPRoute() as ip:
        ip.link("set", index=ip.link_lookup(ifname=name)[0], net_ns_fd=space)
    inside = NetNS(space)
    index = inside.link_lookup(ifname=name)[0]
    inside.link("set", index=index, mtu=mtu)
    inside.link("set", index=index, state="up")
    return inside


def address(space: NetNS, name: str, ip: str) -> None:
    index = space.link_lookup(ifname=name)[0]
    space.addr("add", index=index, address=ip, prefixlen=24)
    space.link("set", index=index, state="up")


def wait_for_carrier(spaces: list[tuple[NetNS, str]]) -> bool:
    end = time.monotonic() + LINK_DEADLINE
    while time.monotonic() < end:
        links = [space.get_links(space.link_lookup(ifname=name)[0])[0] for space, name in spaces]
        if all(link.get_attr("IFLA_CARRIER") for link in links):
            return True
        time.sleep(0.2)
    return False


def serve(space: str) -> int:
    """A child in `space` that echoes UDP on port 7 and TCP streams on port 8; returns its process group."""
    pid = os.fork()
    if pid:
        return pid
    os.setpgid(0, 0)
    netns.setns(space)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("0.0.0.0", 7))
    if os.fork() == 0:
        while True:
            data, sender = udp.recvfrom(65536)
            udp.sendto(data, sender)
    listener = socket.create_server(("0.0.0.0", 8))
    while True:
        connection, _ = listener.accept()
        digest = hashlib.sha256()
        left = STREAM
        while left and (data := connection.recv(262144)):
            digest.update(data)
            left -= len(data)
        connection.sendall(digest.hexdigest().encode())
        connection.close()


def give_back(spaces: list[tuple[NetNS, str]], servers: list[int]) -> None:
    """End the servers, and put the interfaces back where they were; the namespaces go."""
    for pid in servers:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    for space, name in spaces:
        index = space.link_lookup(ifname=name)[0]
        space.flush_addr(index=index)
        space.link("set", index=index, state="down")
        space.link("set", index=index, mtu=1500)
        space.link("set", index=index, net_ns_pid=1)
        space.close()
    for space_name in NAMES[: len(spaces)]:
        netns.remove(space_name)


def echoes(host: str, sizes: range, patience: float = 30.0) -> int:
    """How many datagrams of these sizes came back as they were sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(patience)
        good = 0
        for size in sizes:
            sent = bytes((size + i) & 0xFF for i in range(size))
            udp.sendto(sent, (host, 7))
            try:
                good += udp.recv(65536) == sent
            except TimeoutError:
                break
        return good


def stream(host: str) -> bool:
    """Whether the other host saw the same STREAM bytes (segmented and summed by the NIC)."""
    data = os.urandom(1 << 16) * (STREAM >> 16)
    with socket.create_connection((host, 8), timeout=240) as tcp:
        tcp.sendall(data)
        return tcp.recv(64).decode() == hashlib.sha256(data).hexdigest()


def main(first: str, second: str, mtu: int = 1500) -> None:
    names = [interface(first), interface(second)]
    result: dict[str, object] = {}
    spaces = [move(name, space, mtu) for name, space in zip(names, NAMES, strict=True)]
    result["carrier"] = wait_for_carrier(list(zip(spaces, names, strict=True)))
    for number, (space, name) in enumerate(zip(spaces, names, strict=True), 1):
        address(space, name, f"10.82.59.{number}")
        space.link("add", ifname="tagged", kind="vlan", link=space.link_lookup(ifname=name)[0], vlan_id=42)
        address(space, "tagged", f"10.82.60.{number}")
    servers: list[int] = []
    if result["carrier"]:
        servers.append(serve(NAMES[1]))
        time.sleep(1)
        netns.setns(NAMES[0])
        result["echoes"] = echoes("10.82.59.2", range(1, mtu - 27, 37))
        result["tagged"] = echoes("10.82.60.2", range(1, mtu - 27, 211))
        result["stream"] = stream("10.82.59.2")
    for space in spaces:
        space.link("del", index=space.link_lookup(ifname="tagged")[0])
    give_back(list(zip(spaces, names, strict=True)), servers)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
