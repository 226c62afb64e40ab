"""Builds and loads the C reference. It is compiled where and when the benchmark runs, into the package's cache."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cffi import FFI

from ixy_vfio.core.compiled import directory_for

SOURCES = ("mempool.c", "ixgbe.c", "forward.c")  # separate translation units, as in ixy: this is what LTO is about
HERE = Path(__file__).parent
BUILDS = {
    "C -O3": ("-O3",),
    "C -O3 LTO": ("-O3", "-flto"),
    "C -O2": ("-O2",),
    "C -O2 LTO": ("-O2", "-flto"),
}
MAIN = "gcc -O3"  # the one that ratios are taken to, unless they say "best"

ffi = FFI()
ffi.cdef("""
int64_t reference_forward(void *reference);
void reference_driver(int64_t (*function)(uint64_t state));
int64_t reference_call(uint64_t state);
void reference_configure(void *reference, uint32_t batch, uint32_t rounds);
void *reference_new(void);
void reference_port(void *reference, uint32_t number, void *ring, uint32_t size, void *rdt, void *tdt,
                    void *buffers, uint64_t iova, uint32_t entries);
void reference_free(void *reference);
""")


@dataclass(frozen=True, slots=True)
class Build:
    """One compiled reference: `name` says by what."""

    name: str
    path: Path
    library: Any


def compilers() -> dict[str, str]:
    """The C compilers that are here: name and path."""
    return {name: path for name in ("gcc", "clang") if (path := shutil.which(name))}


def build(compiler: str, flags: tuple[str, ...], march: str = "native") -> Path:
    """The shared object; compiled unless it is kept. Raises OSError or CalledProcessError."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    digest = hashlib.sha256(version + repr((flags, march)).encode())
    for source in ("reference.h", *SOURCES):
        digest.update((HERE / source).read_bytes())
    # The directory is named by the CPU, too.
    kept = directory_for(frozenset({Path(__file__)}))
    if kept is None:
        raise OSError("there is no directory to keep it in")
    target = kept / f"reference-{digest.hexdigest()[:16]}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as directory:
            made = Path(directory) / target.name
            command = [compiler, *flags, f"-march={march}", "-std=gnu11", "-fPIC", "-fvisibility=hidden", "-Wall"]
            objects = []
            for source in SOURCES:
                objects.append(str(Path(directory) / source.replace(".c", ".o")))
                subprocess.run([*command, "-c", str(HERE / source), "-o", objects[-1]], check=True, capture_output=True)
            subprocess.run([*command, "-shared", *objects, "-o", str(made)], check=True, capture_output=True)
            os.replace(made, target)
    return target


def builds(*, march: str = "native", everything: bool = True) -> tuple[list[Build], list[str]]:
    """All builds that can be had here, and a line on each that cannot. gcc -O3 comes first."""
    found, notes = [], []
    here = compilers()
    if not here:
        notes.append("no C compiler (gcc or clang) on this machine: the C reference is left out")
    for compiler, path in here.items():
        for name, flags in BUILDS.items():
            full = name.replace("C ", f"{compiler} ")
            if full != MAIN and not everything:
                continue
            try:
                target = build(path, flags, march)
            except (OSError, subprocess.CalledProcessError) as error:
                said = getattr(error, "stderr", b"") or str(error).encode()
                notes.append(f"{full}: does not build here ({said.decode(errors='replace').strip().splitlines()[-1:]})")
                continue
            found.append(Build(full, target, ffi.dlopen(str(target))))
    return found, notes


def address_of(library: Any, function: str) -> int:
    """Where a function of the library lies."""
    return int(ffi.cast("uintptr_t", ffi.addressof(library, function)))
