"""States of a network interface, generated from a seed, and what the machine says of them, to test bind and unbind.

    python -m tests.netstates SEED COUNT      # in network namespaces, without root: a veth is deleted and made again

tests/vm/inside/netstates.py does the same in a guest with a NIC that is bound and given back.
"""

import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ixy_vfio_setup import netrestore, netstate

FAR = "far"  # the other end of a veth
OTHER = (  # the machine's own interface and default routes, which must stay
    "ip link set {o} up; ip address replace 192.168.50.2/24 dev {o}; ip address replace fd50::2/64 dev {o} nodad",
    "ip route replace default via 192.168.50.1 dev {o}; ip -6 route replace default via fd50::1 dev {o}",
)
SYSCTLS = (  # name, values
    ("ipv4/conf/{n}/proxy_arp", "01"), ("ipv4/conf/{n}/rp_filter", "012"), ("ipv4/conf/{n}/forwarding", "01"),
    ("ipv4/conf/{n}/arp_announce", "012"), ("ipv4/conf/{n}/promote_secondaries", "01"),
    ("ipv6/conf/{n}/forwarding", "01"), ("ipv6/conf/{n}/accept_ra", "012"), ("ipv6/conf/{n}/use_tempaddr", "012"),
    ("ipv6/conf/{n}/addr_gen_mode", "01"), ("ipv6/conf/{n}/keep_addr_on_down", "01"),
    ("ipv6/conf/{n}/hop_limit", ("33", "64", "200")), ("ipv6/conf/{n}/stable_secret", ("fd00:1:2:3:4:5:6:7",)),
    ("ipv6/conf/{n}/mtu", ("1280", "1300")), ("ipv6/conf/{n}/disable_ipv6", "01"),
    ("ipv4/neigh/{n}/gc_stale_time", ("17", "60")), ("ipv6/neigh/{n}/app_solicit", "03"),
    ("ipv4/neigh/{n}/retrans_time_ms", ("500", "2000")), ("ipv6/neigh/{n}/unres_qlen", ("7", "50")),
)  # fmt: skip
LINK = (
    "ip link set {n} mtu {mtu}", "ip link set {n} txqueuelen {small}", "ip link set {n} alias 'of shelf {small}'",
    "ip link set {n} promisc on", "ip link set {n} allmulticast on", "ip link set {n} group {small}",
    "ip link set {n} address 02:00:00:00:01:{byte}", "ip link property add dev {n} altname other-name-{byte}",
    "ip link property add dev {n} altname b{byte}", "ip link set {n} multicast off", "ip link set {n} dynamic on",
    "ip link set {n} gso_max_size {gso}", "ip link set {n} gso_max_segs {small}", "ip link set {n} mode dormant",
    "ip link set {n} arp off", "echo {small} > /sys/class/net/{n}/gro_flush_timeout",
    "echo {small} > /sys/class/net/{n}/napi_defer_hard_irqs", "echo 1 > /sys/class/net/{n}/queues/rx-0/rps_cpus",
    "ip maddress add 01:00:5e:00:01:{byte} dev {n}", "bridge fdb add 02:00:00:00:02:{byte} dev {n} self",
)  # fmt: skip
ADDRESSES = (
    "ip address add 10.{i}.0.1/24 dev {n}", "ip address add 10.{i}.0.1/24 brd + dev {n} label {n}:{i}",
    "ip address add 10.{i}.0.1/24 dev {n} noprefixroute metric {small}",
    "ip address add 10.{i}.0.{j} peer 10.3{i}.0.1/32 dev {n}", "ip address add 10.{i}.0.{j}/32 dev {n} scope link",
    "ip address add 10.{i}.0.{j}/32 dev {n} scope host", "ip address add 10.{i}.0.{j}/24 dev {n}",
    "ip address add 10.{i}.0.1/24 dev {n} valid_lft 5000 preferred_lft {life}",
    "ip address add fd0{i}::1/64 dev {n} nodad", "ip address add fd0{i}::{j}/64 dev {n}",
    "ip address add fd0{i}::{j}/64 dev {n} home noprefixroute", "ip address add fd0{i}::1/64 dev {n} metric {small}",
    "ip address add fd0{i}::{j} peer fd0{i}::77/128 dev {n} nodad",
    "ip address add fd0{i}::{j}/64 dev {n} valid_lft 5000 preferred_lft {life}",
    "ip address add fe80::{j}/64 dev {n}",
)  # fmt: skip
ROUTES = (
    "ip route add default via 10.{i}.0.9 dev {n} table {table}", "ip route add default dev {n} metric {small}",
    "ip route append default via 10.{i}.0.9 dev {n}", "ip route prepend 10.9{i}.0.0/16 dev {n}",
    "ip route append 10.9{i}.0.0/16 dev {o}", "ip route append 10.9{i}.0.0/16 via 10.{i}.0.{j}",
    "ip route add 10.7{i}.0.0/16 nexthop via 10.{i}.0.9 weight {j} nexthop via 192.168.50.9",
    "ip route add 10.8{i}.0.0/16 via inet6 fd0{i}::9 dev {n}", "ip route add 10.6{i}.0.0/16 dev {o} src 10.{i}.0.1",
    "ip route add 10.5{i}.0.0/16 via 172.16.0.{j} dev {n} onlink mtu lock 1300 advmss 900 table {table}",
    "ip route add 10.4{i}.0.0/16 dev {n} src 10.{i}.0.1 realm {j} protocol 66 tos 0x10",
    "ip route add local 10.10{i}.0.0/16 dev {n} table {table}", "ip route add broadcast 10.11{i}.0.1 dev {n}",
    "ip nexthop replace id {i} via 10.{i}.0.9 dev {n}; ip route add 10.12{i}.0.0/16 nhid {i}",
    "ip nexthop replace id {i} via 10.{i}.0.9 dev {n}; ip nexthop replace id 90 via 192.168.50.9 dev {o};"
    " ip nexthop replace id 5{i} group {i}/90,{j}; ip route add 10.13{i}.0.0/16 nhid 5{i}",
    "ip -6 route add default via fd0{i}::9 dev {n} metric {small} pref high",
    "ip -6 route add default via fe80::9 dev {n} table {table}",
    "ip -6 route add fd2{i}::/64 nexthop via fd0{i}::9 dev {n} weight {j} nexthop via fd50::9 dev {o}",
    "ip -6 route add fd3{i}::/64 dev {o} src fd0{i}::1", "ip -6 route add fd4{i}::/64 dev {n} expires 5000",
    "ip -6 route add fd5{i}::/64 via fd0{i}::9 dev {n} src fd0{i}::1 mtu 1400 protocol ra table {table}",
    "ip -6 route append fd6{i}::/64 dev {n}; ip -6 route append fd6{i}::/64 dev {o}",
    "ip route delete broadcast 10.{i}.0.255 dev {n} table local", "ip -6 route delete fe80::/64 dev {n}",
    "ip rule add from 10.{i}.0.1 table {table} priority 10{i}", "ip rule add iif {n} table {table} priority 20{i}",
    "ip -6 rule add oif {n} table {table} priority 30{i}", "ip route add unreachable 10.14{i}.0.0/16",
)  # fmt: skip
NEIGHBOURS = (
    "ip neighbour add 10.{i}.0.9 lladdr 02:00:00:00:00:{byte} dev {n}", "ip neighbour add proxy 10.{i}.0.8 dev {n}",
    "ip neighbour add 10.{i}.0.7 lladdr 02:00:00:00:00:{byte} nud noarp dev {n}",
    "ip neighbour add fd0{i}::9 lladdr 02:00:00:00:00:{byte} dev {n}", "ip neighbour add proxy fd0{i}::8 dev {n}",
    "ip neighbour add 10.{i}.0.6 lladdr 02:00:00:00:00:{byte} dev {n} extern_learn",
    "ip -6 address flush dev {n} scope link",
)  # fmt: skip
ETHTOOL = (
    "ethtool -K {n} tso off", "ethtool -K {n} gro off", "ethtool -K {n} tx off", "ethtool -K {n} rxhash off",
    "ethtool -G {n} rx {ring} tx {ring}", "ethtool -C {n} rx-usecs {small}", "ethtool -L {n} combined 1",
    "ethtool -A {n} autoneg off rx off tx off", "ethtool -s {n} wol g", "ethtool -s {n} msglvl {small}",
    "ethtool -s {n} advertise 0x008", "ethtool --set-eee {n} eee off", "ethtool -K {n} rxvlan off txvlan off",
)  # fmt: skip
HEAVY = ("tc qdisc add dev {n} root handle 1: htb", "tc qdisc add dev {n} ingress")


def commands(seed: int, nic: str, other: str) -> list[str]:
    """What sets up one state; a command that the kernel refuses is no part of it."""
    rng = random.Random(seed)

    def filled(text: str) -> str:
        return text.format(
            n=nic, o=other, i=rng.randint(1, 3), j=rng.randint(2, 6), small=rng.randint(2, 60), table=rng.choice(
                ("100", "main", "70000")), byte=f"{rng.randint(16, 99)}", mtu=rng.choice((1280, 1400, 1496)),
            ring=rng.choice((128, 512)), gso=rng.randint(20000, 60000), life=rng.choice((0, 4000)),
        )  # fmt: skip

    def some(kinds: tuple[str, ...], most: int) -> list[str]:
        return [filled(rng.choice(kinds)) for _ in range(rng.randint(0, most))]

    settings = [
        f"echo {rng.choice(values)} > /proc/sys/net/{name.format(n=nic)}"
        for name, values in rng.sample(SYSCTLS, rng.randint(0, 5))
    ]
    up = [f"ip link set {nic} up"] if rng.random() < 0.85 else []
    found = [*(text.format(n=nic, o=other) for text in OTHER), *some(LINK, 4), *some(ETHTOOL, 3), *settings, *up]
    found += [filled("ip address add 10.{i}.0.1/24 dev {n}"), *some(ADDRESSES, 6), *some(ROUTES, 8)]
    found += [*some(NEIGHBOURS, 3), *some(LINK, 1)]
    if rng.random() < 0.15:
        found += some(HEAVY, 1)
    if rng.random() < 0.1:
        found.append(f"ip link set {nic} down")
    return found


def run(command: str) -> str:
    """By the shell; what it said, whether it worked or not."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, errors="replace")
    return done.stdout


def _objects(command: str, nic: str) -> list[str]:
    """A JSON answer of ip, one sorted line an object, less what goes on by itself."""
    found = []
    for one in json.loads(run(command) or "[]"):
        local6 = one.get("protocol") == "kernel" and one.get("dst", "").startswith(("fe80", "ff00"))
        if one.get("dev") == FAR or (local6 and one.get("dev") != nic):  # comes and goes with another's carrier
            continue
        for name in ("ifindex", "link_index", "cacheinfo", "cache", "link_netnsid", "expires", "used"):
            one.pop(name, None)
        if "nexthops" in one and ":" in str(one.get("nexthops")):  # the order of IPv6 nexthops means nothing
            one["nexthops"].sort(key=str)
        for hop in [one, *one.get("nexthops", [])]:
            if isinstance(hop, dict) and "flags" in hop:
                hop["flags"] = sorted({*hop["flags"]} - {"linkdown", "dead", "LOWER_UP", "NO-CARRIER", "offload"})
        found.append(json.dumps(one, sort_keys=True))
    return found


def dump(nic: str) -> dict[str, list[str]]:
    """All that the machine says of its routes, rules and addresses, and of the settings of one interface."""
    (link,) = json.loads(run(f"ip -json -details address show dev {nic}"))
    addresses = [
        {name: value for name, value in one.items() if name not in ("valid_life_time", "preferred_life_time")}
        | {"ends": one["valid_life_time"] < 0xFFFFFFFF, "deprecated": one["preferred_life_time"] == 0}
        for one in link.pop("addr_info")
    ]
    for one in addresses:
        one.pop("tentative", None)
    kept = ("ifname", "mtu", "group", "txqlen", "address", "broadcast", "promiscuity", "altnames", "ifalias",
            "linkmode", "gso_max_size", "gso_max_segs", "gro_max_size", "inet6_addr_gen_mode", "master")  # fmt: skip
    found = {
        "flags": sorted({*link["flags"]} - {"LOWER_UP", "NO-CARRIER", "LOOPBACK"}),
        "link": [f"{name}={link.get(name)}" for name in kept],
        "addresses": [json.dumps(one, sort_keys=True) for one in addresses],
        "fdb": sorted(line for line in run(f"bridge fdb show dev {nic}").splitlines() if not line.startswith("33:33")),
        "groups": sorted(" ".join(line.split()[2:]) for line in Path("/proc/net/dev_mcast").read_text().splitlines()
                         if line.split()[1] == nic and line.split()[3] != "0"),
        "qdiscs": [line for line in run(f"tc qdisc show dev {nic}").splitlines() if " 0: " not in line],
    }  # fmt: skip
    for family in ("-4", "-6"):
        found[f"routes {family}"] = _objects(f"ip {family} -json -details route show table all", nic)
        found[f"rules {family}"] = _objects(f"ip {family} -json -details rule show", nic)
        found[f"proxies {family}"] = _objects(f"ip {family} -json neighbour show proxy dev {nic}", nic)
        show = f"ip {family} neighbour show dev {nic}"
        permanent = run(f"{show} nud permanent; {show} nud noarp; {show} | grep extern")
        found[f"neighbours {family}"] = sorted(
            line for line in permanent.splitlines() if not re.match(r"(ff02|224|239|255|10\.\d+\.0\.255)", line)
        )
    for letter in ("k", "g", "c", "l", "a"):
        found[f"ethtool -{letter}"] = run(f"ethtool -{letter} {nic} 2>/dev/null").splitlines()
    words = ("Advertised", "Wake-on", "Current message", "Auto-neg")
    found["ethtool"] = [
        line for line in run(f"ethtool {nic} 2>/dev/null").splitlines() if any(w in line for w in words)
    ]
    found["nexthops"] = _objects("ip -json -details nexthop show", nic)
    found["routes -6"] = sorted(found["routes -6"])
    for name, path in netstate.files(nic, Path("/")):
        if "/queues/" in name and "UP" not in link["flags"]:
            continue  # a driver shows other ones until it is opened first
        found[name] = [str(netstate.text_of(path))]
    return found


def settled(nic: str) -> dict[str, list[str]]:
    """The same, when duplicate address detection is over."""
    end = time.monotonic() + 4.0  # without carrier it is never over
    while "tentative" in run(f"ip -6 address show dev {nic}") and time.monotonic() < end:
        time.sleep(0.1)
    return dump(nic)


def differences(before: dict[str, list[str]], after: dict[str, list[str]]) -> Iterator[str]:
    """One line each."""
    for name in sorted({*before, *after}):
        then, now = before.get(name, []), after.get(name, [])
        for line in then:
            if line not in now:
                yield f"{name}: lost {line}"
        for line in now:
            if line not in then:
                yield f"{name}: new {line}"
        if sorted(then) == sorted(now) and then != now:
            yield f"{name}: in another order: {then} {now}"


def clean_up() -> None:
    """Rules, routes and nexthops that may be left of a state."""
    for command in (
        "ip rule flush", "ip -6 rule flush", "ip rule add priority 32766 table main",
        "ip rule add priority 32767 table default", "ip -6 rule add priority 32766 table main", "ip nexthop flush",
        *(f"ip {family} route flush {what}" for family in ("-4", "-6") for what in ("table 100", "table 70000")),
        "ip route flush type unreachable",
    ):  # fmt: skip
        run(command)


def unexplained(found: list[str], lost: list[str]) -> list[str]:
    """Those differences that were not named beforehand."""
    if any("traffic control" in line for line in lost):
        found = [line for line in found if not line.startswith("qdiscs")]
    named = [re.search(r"the (?:route to|address|neighbour) ([^\s,]+?)(?:/\d+)?[ :]", line) for line in lost]
    targets = [f'"{match[1]}' for match in named if match]
    return [line for line in found if not any(target in line for target in targets)]


def judge(script: list[str], nic: str, away: Callable[[], list[str]]) -> dict[str, list[str]] | None:
    """`away` takes the NIC and gives it back. Returns what is not as it was and was not named before, with reasons."""
    run("\n".join(script))
    before = settled(nic)
    lost = netstate.lost(int(Path(f"/sys/class/net/{nic}/ifindex").read_text()))
    notes = away()
    found = unexplained(list(differences(before, settled(nic))), lost)
    clean_up()
    return {"differences": found, "lost": lost, "notes": notes, "commands": script} if found else None


def _veth(name: str) -> None:
    run(f"ip link add {name} address 02:00:00:00:00:01 type veth peer name {FAR}; ip link set {FAR} up")


def main(scripts: dict[str, list[str]], forget: bool) -> None:
    """In a network namespace of our own: the interface is deleted, and made again under another name.

    With `forget` only its name is given back.
    """
    run("ip link add o1 type veth peer name o2; ip link set o2 up; ip link set lo up")

    def away() -> list[str]:
        state = netstate.save(int(Path("/sys/class/net/nic/ifindex").read_text()))
        run("ip link delete nic")
        _veth("eth7")
        if forget:
            run("ip link set eth7 name nic")
            return []
        kept = netstate.from_json(json.loads(json.dumps(netstate.to_json(state))))
        return netrestore.restore(int(Path("/sys/class/net/eth7/ifindex").read_text()), kept)

    wrong = {}
    for name, script in scripts.items():
        _veth("nic")
        if found := judge(script, "nic", away):
            wrong[name] = found
        run("ip link delete nic; ip address flush dev o1")
    print(json.dumps(wrong, indent=1))


def namespaced(*words: str, script: str = "") -> dict[str, dict[str, list[str]]]:
    """Run this module in a network namespace; returns what it found."""
    mount = 'mount -t sysfs sysfs /sys && exec "$@"'  # that of the new namespace
    command = ["unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c", mount, "sh",
               sys.executable, "-m", "tests.netstates", "inside", *words]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, input=script)
    found: dict[str, dict[str, list[str]]] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    if sys.argv[1] != "inside":
        wrong = namespaced(*sys.argv[1:])
        print(json.dumps(wrong, indent=1))
        sys.exit(1 if wrong else 0)
    elif sys.argv[2] == "script":
        main({"script": sys.stdin.read().splitlines()}, "forget" in sys.argv)
    else:
        first, count = int(sys.argv[2]), int(sys.argv[3])
        main({str(seed): commands(seed, "nic", "o1") for seed in range(first, first + count)}, False)
