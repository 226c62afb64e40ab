"""Gives a network interface back what was set at it, when its driver has made it again.

Only what differs from before is changed, so this may be interrupted and begun again. What others added meanwhile stays;
what the kernel itself added is removed.
"""

import contextlib
import os
import struct
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ixy_vfio_setup import ethtool, netobjects, netstate
from ixy_vfio_setup.netlink import CREATE, EXCL, NESTED, Netlink, pack
from ixy_vfio_setup.netobjects import FOREVER, INET6, Object
from ixy_vfio_setup.netstate import FLAGS, IFF_RUNNING, IFF_UP, LINK, ROOT, Link, State

WAIT = 8.0  # seconds to wait for carrier, and for duplicate address detection
NEWLINKPROP, DELLINKPROP = 108, 109


def write(path: Path, text: str) -> None:
    """Write a file of sysfs or procfs. An empty text would make no system call: the newline is what empties it."""
    path.write_bytes(os.fsencode(text) or b"\n")


class _Restoring:
    """The work on one interface. `said`: what the kernel refused -> why."""

    def __init__(self, netlink: Netlink, index: int, state: State, root: Path) -> None:
        self.netlink, self.index, self.state, self.root = netlink, index, state, root
        self.away = time.clock_gettime(time.CLOCK_BOOTTIME) - state.when if state.when else 0.0
        self.said: dict[str, str] = {}
        self.ethtool: list[str] = []  # what is not as it was

    @property
    def link(self) -> Link:
        """As it is now."""
        return netstate.links(self.netlink, self.index)[0]

    def attempt(self, what: str, act: Callable[[], None]) -> bool:
        """Do it; returns whether it worked. If not, `said` has the reason."""
        try:
            act()
        except OSError as error:
            self.said[what] = f": {error.strerror}"
            return False
        return True

    def set(self, what: str, flags: int, mask: int, *attributes: tuple[int, bytes]) -> None:
        """Change the interface itself."""
        self.attempt(what, lambda: netstate.change(self.netlink, self.index, flags, mask, *attributes))

    def names(self) -> None:
        """The name first, then the other names: the driver or udev may have made one of them the name."""
        name = self.state.name
        if self.link.name != name:
            self.set(f"the name {name}", 0, 0, (netstate.IFNAME, os.fsencode(name) + b"\0"))
        now, then = self.link.altnames, self._altnames
        if now != then:
            self.other_names(DELLINKPROP, 0, now)
            self.other_names(NEWLINKPROP, CREATE | EXCL, then)

    def other_names(self, kind: int, flags: int, names: list[bytes]) -> None:
        """Remove these, or add them."""
        for name in names:
            body = struct.pack("=BxHiII", 0, 0, self.index, 0, 0)
            body += pack([(netstate.PROP_LIST | NESTED, pack([(netstate.ALT_IFNAME, name + b"\0")]))])
            self.attempt(f"the other name {os.fsdecode(name)}", partial(self.netlink.change, kind, body, flags))

    @property
    def _altnames(self) -> list[bytes]:
        return [os.fsencode(name) for name in self.state.altnames]

    def settings(self) -> None:
        """Attributes and files. Three times, because some of them change others."""
        for _ in range(3):
            for kind, value in self.attributes():
                self.set(f"the {LINK[kind]}", 0, 0, (kind, value))
            for path, text in self.files():
                self.attempt(str(path), partial(write, path, text))

    def attributes(self) -> list[tuple[int, bytes]]:
        """Those that differ, with the values from before."""
        then = {int(kind): bytes.fromhex(text) for kind, text in self.state.link.items()}
        now = self.link.attributes
        return [(kind, value) for kind, value in then.items() if now.get(kind) != value]

    def files(self) -> list[tuple[Path, str]]:
        """Those that differ, with what stood in them before."""
        now = dict(netstate.files(self.link.name, self.root))
        then = ((now.get(name, Path("/") / name), text) for name, text in self.state.files.items())
        return [(path, text) for path, text in then if netstate.text_of(path) != text]

    def objects(self) -> tuple[list[tuple[Object, bool]], list[Object]]:
        """What is missing now, each as in `State.objects` with `first`; and what the kernel added."""
        today = {link.name: link.index for link in netstate.links(self.netlink)}
        indexes = {int(index): today[name] for index, name in self.state.names.items() if name in today}
        indexes[self.state.index] = self.index
        wanted = []
        for kind, text, left, preferred, first in self.state.objects:
            lives = [FOREVER if one == FOREVER else max(0, round(one - self.away)) for one in (left, preferred)]
            if lives[0]:  # else it would have expired by now
                wanted.append((netobjects.translated(kind, bytes.fromhex(text), indexes, *lives), first))
        now = netobjects.of_interface(self.netlink, self.index, netstate.groups(self.link.name, self.root))
        then = {one.key for one, _ in wanted}
        have = {one.key for one in (*now, *netobjects.read(self.netlink, "route"))}
        extra = [one for one in now if one.key not in then and netobjects.kernels(one)]
        return [(one, first) for one, first in wanted if one.key not in have], extra

    def reconcile(self) -> None:
        """Make what is missing and remove what the kernel added, until nothing is left to do or WAIT has passed."""
        end = time.monotonic() + WAIT
        settled = False
        while time.monotonic() < end:
            missing, extra = self.objects()
            for one in extra:
                with contextlib.suppress(OSError):  # it was removed together with another one
                    netobjects.remove(self.netlink, one)
            if self.make(missing) or extra:
                continue
            as_before = not missing and not self.awaits_carrier()
            if as_before and settled:
                return
            settled = as_before  # looked at twice: the kernel adds some things a little later
            time.sleep(0.1)

    def make(self, missing: list[tuple[Object, bool]]) -> int:
        """Make these, in their order; returns how many were made. If one is refused, its rivals wait for it."""
        now = {one.key for one in netobjects.read(self.netlink, "route")}
        waiting: set[tuple[bytes, ...]] = set()
        done = 0
        for one, first in missing:
            rivals = netobjects.target(one) if one.kind == "route" else (one.message,)
            if rivals not in waiting and netobjects.settable(one):
                make = partial(netobjects.make, self.netlink, one, now, self.index, first)
                made = self.attempt(netobjects.shown(one), make)
                done += made
                waiting |= set() if made else {rivals}
        return done

    def awaits_carrier(self) -> bool:
        """Whether the kernel will add a link-local address, which was not there, when there is carrier."""
        had = any(kind == "address" and bytes.fromhex(text)[0] == INET6 for kind, text, *_ in self.state.objects)
        return bool(
            self.state.when and not had and self.state.flags & IFF_RUNNING and not self.link.flags & IFF_RUNNING
        )

    def run(self) -> None:
        """Take it down, because some settings need that. Then set everything, in this order."""
        self.set("down", 0, IFF_UP)
        self.names()
        self.ethtool = ethtool.restore(self.index, self.state.ethtool, self.said)
        self.settings()
        self.set("up, or another flag", self.state.flags, FLAGS)
        token = bytes.fromhex(self.state.token)
        if token != self.link.token:
            self.set("the token", 0, 0, (netstate.AF_SPEC, pack([(INET6, pack([(netstate.TOKEN, token)]))])))
        self.ethtool = ethtool.restore(self.index, self.state.ethtool, self.said)
        self.settings()  # again: the kernel changes some of them when the interface comes up
        if self.state.when:
            self.reconcile()

    def differences(self) -> list[str]:
        """What is not as it was, one line each."""
        link, state = self.link, self.state
        found = [f"the name {state.name}"] * (link.name != state.name)
        found += [f"the other name {os.fsdecode(name)}" for name in {*link.altnames} ^ {*self._altnames}]
        found += [f"the {LINK[kind]}" for kind, _ in self.attributes()]
        found += [str(path) for path, _ in self.files()]
        found += ["up, or another flag"] * bool((link.flags ^ state.flags) & FLAGS)
        found += self.ethtool
        found += ["the token"] * (link.token != bytes.fromhex(state.token))
        if state.when:
            missing, extra = self.objects()
            found += [netobjects.shown(one) for one in (*(one for one, _ in missing), *extra)]
        return [what + self.said.get(what, "") for what in found]


def restore(index: int, state: State, root: Path = ROOT) -> list[str]:
    """Make the interface `index` what `state` says; returns what is not as it was. Raises OSError if it is gone."""
    with Netlink() as netlink:
        restoring = _Restoring(netlink, index, state, root)
        restoring.run()
        return restoring.differences()
