"""Debian packages from the mirror that this machine's own apt uses: fetched and unpacked, never installed.

apt runs with a state folder of its own, so the machine's package database is not touched and nobody has to be root.
"""

import contextlib
import fcntl
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.vm.harness.errors import Missing

SUITE = "trixie"
BACKPORTS = "trixie-backports"
# A source whose suite is one of these is a Debian mirror: any of them carries SUITE, too.
DEBIAN_SUITES = frozenset({"bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable"})
DEADLINE = 900.0  # a slow mirror; the largest package has 150 MB


def cache_directory() -> Path:
    """$XDG_CACHE_HOME/ixy_vfio, or ~/.cache/ixy_vfio; made if it is not there."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(base) / "ixy_vfio"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def cache_lock() -> Iterator[None]:
    """One process at a time fills the cache."""
    with open(cache_directory() / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True, slots=True)
class Source:
    """A mirror: where it is, which suites the machine takes from it, and the keys that sign it ("" = apt's own)."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""


def parse_deb822(text: str) -> list[Source]:
    """The `deb` sources of a .sources file (sources.list(5), deb822 style)."""
    found = []
    for stanza in re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n?", "", text)):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1].isspace():
                fields[name] = fields.get(name, "") + "\n" + line
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").strip().lower() == "no":
            continue
        suites, components = (tuple(fields.get(key, "").split()) for key in ("suites", "components"))
        found += [Source(uri, suites, components, fields.get("signed-by", "")) for uri in fields["uris"].split()]
    return found


def parse_list(text: str) -> list[Source]:
    """The `deb` sources of a .list file (sources.list(5), one line each)."""
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]*)", line)
        if match:
            options, uri, suite, components = match.groups()
            key = re.search(r"signed-by=(\S+)", options or "")
            found.append(Source(uri, (suite,), tuple(components.split()), key[1].replace(",", " ") if key else ""))
    return found


def mirror(etc: Path = Path("/etc/apt")) -> Source:
    """The first Debian mirror among the machine's apt sources. Raises Missing."""
    sources: list[Source] = []
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if path.is_file() and path.suffix in (".list", ".sources"):
            parse = parse_deb822 if path.suffix == ".sources" else parse_list
            sources += parse(path.read_text(errors="replace"))
    for source in sources:
        if "main" in source.components and DEBIAN_SUITES & set(source.suites):
            return source
    raise Missing(f"no Debian mirror among the sources in {etc}")


class Debian:
    """Debian's packages for amd64, through a private apt."""

    def __init__(self) -> None:
        """Refresh the package lists. Raises Missing: no apt, no mirror, other architecture."""
        if platform.machine() != "x86_64":
            raise Missing(f"guests are x86-64 machines, and so must the host be; this is {platform.machine()}")
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise Missing("no apt-get and dpkg-deb here")
        source = mirror()
        self.state = cache_directory() / "apt"
        for name in ("lists/partial", "archives/partial"):
            (self.state / name).mkdir(parents=True, exist_ok=True)
        (self.state / "status").write_text("")  # nothing is installed: so every dependency is fetched
        key = f"Signed-By: {source.signed_by}\n" if source.signed_by else ""
        (self.state / "debian.sources").write_text(
            f"Types: deb\nURIs: {source.uri}\nSuites: {SUITE} {BACKPORTS}\nComponents: main\n{key}"
        )
        self._apt("apt-get", "update")

    def _apt(self, program: str, *words: str, cwd: Path | None = None) -> str:
        settings = {
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Dir::State": self.state,
            "Dir::State::Lists": self.state / "lists",
            "Dir::State::status": self.state / "status",
            "Dir::Cache": self.state,
            "Dir::Cache::archives": self.state / "archives",
            "Dir::Etc::sourcelist": self.state / "debian.sources",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
        }
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        done = subprocess.run(
            [program, "-q", *options, *words],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            reason = [line for line in done.stderr.splitlines() if line.startswith("E:")] or [done.stderr.strip()]
            raise Missing(f"{program} {words[0]} failed: {reason[-1]}")
        return done.stdout

    def depends(self, package: str, suite: str = SUITE) -> list[str]:
        """The names that `package` of `suite` depends on."""
        lines = self._apt("apt-cache", "depends", "-t", suite, package).splitlines()
        return [line.split()[1] for line in lines if line.strip().startswith("Depends:")]

    def version(self, package: str, suite: str = SUITE) -> str:
        """The version of `package` that would be fetched from `suite`, without epoch and Debian revision."""
        match = re.search(r"Candidate: (\S+)", self._apt("apt-cache", "policy", "-t", suite, package))
        if match is None or match[1] == "(none)":
            raise Missing(f"{suite} has no package {package}")
        return re.sub(r"^\d+:|[+~-].*$", "", match[1])

    def unpack(
        self,
        packages: Sequence[str],
        target: Path,
        suite: str = SUITE,
        dependencies: bool = False,
        more: Sequence[str] = (),
        finish: Callable[[Path], None] = lambda root: None,
    ) -> None:
        """Make the folder `target` with the files of `packages`, of all they depend on if asked, and of `more` alone.

        `finish` gets the folder before it has its name: a folder that is there is complete.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="unpack-") as work:
            alone = [*more] if dependencies else [*packages, *more]
            self._apt("apt-get", "clean")
            if dependencies:
                self._apt("apt-get", "install", "--yes", "--download-only", "-t", suite, *packages)
            if alone:
                self._apt("apt-get", "download", "-t", suite, *alone, cwd=Path(work))
            root = Path(work) / "root"
            for archive in sorted([*Path(work).glob("*.deb"), *(self.state / "archives").glob("*.deb")]):
                subprocess.run(["dpkg-deb", "-x", archive, root], check=True, timeout=DEADLINE)
            self._apt("apt-get", "clean")
            finish(root)
            root.rename(target)
