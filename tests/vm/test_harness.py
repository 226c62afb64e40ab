"""What the harness finds out about the machine; no guest is booted here."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.vm.harness import Config, Missing, VmError, build, debian, kernel, machine, qemu

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: trixie trixie-updates
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
Enabled: no
URIs: http://other.example/debian
Suites: trixie
Components: main
"""


def test_deb822_sources() -> None:
    (source,) = debian.parse_deb822(DEB822)
    assert source.uri == "http://mirror.example/debian"
    assert (source.suites, source.components) == (("trixie", "trixie-updates"), ("main", "contrib"))
    assert source.signed_by == "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc"


def test_one_line_sources() -> None:
    line = "deb [arch=amd64 signed-by=/a,/b] http://m.example/debian sid main # x\n"
    assert debian.parse_list("# deb http://no.example/debian sid main\n" + line) == [
        debian.Source("http://m.example/debian", ("sid",), ("main",), "/a /b")
    ]


def test_the_mirror_is_a_debian_one(tmp_path: Path) -> None:
    folder = tmp_path / "sources.list.d"
    folder.mkdir()
    (tmp_path / "sources.list").write_text("deb http://s.example/debian-security bookworm-security main\n")
    (folder / "a.list").write_text("deb http://v.example/vendor stable vendor\n")
    with pytest.raises(Missing, match="no Debian mirror"):
        debian.mirror(tmp_path)
    (folder / "b.sources").write_text(DEB822)
    assert debian.mirror(tmp_path).uri == "http://mirror.example/debian"


def test_initramfs_is_a_cpio_archive() -> None:
    archive = kernel._cpio({"init": b"12345"}, ("dev",))
    assert archive[:6] == b"070701"
    assert len(archive) % 4 == 0
    at = archive.index(b"init\0")
    header = archive[at - 110 : at]
    assert (int(header[14:22], 16), int(header[54:62], 16), int(header[94:102], 16)) == (0o100755, 5, 5)
    assert archive[at + 6 : at + 14] == b"12345\0\0\0"  # data begins on a multiple of 4


def test_a_device_knows_its_root_port() -> None:
    config = Config(nics=("igb",), ports=2)
    assert config.devices == ("nic0", "port0", "port1")
    assert config.root_port("port1") == "0000:00:12.0"
    properties = machine.device(config, "port0", Path("/sockets"))
    assert properties["socket"] == {"type": "unix", "path": "/sockets/port0.sock"}


@pytest.mark.parametrize("wrong", [{"nics": ("ne2000",)}, {"iommu": "arm"}, {"ports": 13}])
def test_a_machine_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(VmError, match=r"no NIC ne2000|no IOMMU arm|at most 12 devices"):
        Config(**wrong)  # type: ignore[arg-type]  # the point of the test


def test_a_kernel_that_is_not_there_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(Missing, match="no kernel image"):
        kernel.find(str(tmp_path / "vmlinuz"))
    image = tmp_path / "image"
    image.write_bytes(b"")
    monkeypatch.setenv(kernel.ENVIRONMENT, str(image))
    assert kernel.find().image == kernel.iommufd().image == image


def test_without_qemu_and_without_a_mirror_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_mirror(etc: Path = Path("/")) -> debian.Source:
        raise Missing("no Debian mirror")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(debian, "mirror", no_mirror)
    monkeypatch.setattr(qemu, "NEEDED", (1000, 0))
    with pytest.raises(Missing, match=r"install QEMU >= 1000\.0 .*: (no Debian mirror|no apt-get)"):
        qemu.find()


MAKEFILE = """\
tinyconfig: ; echo CONFIG_TINY=y > .config
olddefconfig: ; sed -i '/=n/d; /CONFIG_PERF_EVENTS/d; {lost}' .config
bzImage: ; {compile}
"""
COMPILE = "mkdir -p arch/x86/boot; cp .config arch/x86/boot/bzImage"


def kernel_source(work: Path, lost: str = "", compile: str = COMPILE) -> None:
    """A package whose kernel is its configuration."""
    if not (shutil.which("make") and shutil.which("xz")):
        pytest.skip("no make or no xz here")
    source = work / "linux-source-9.9"
    (source / "scripts/kconfig").mkdir(parents=True)
    (source / "Makefile").write_text(MAKEFILE.format(lost=lost, compile=compile))
    merge = source / "scripts/kconfig/merge_config.sh"  # -m -O FOLDER BASE FRAGMENT
    merge.write_text('#!/bin/sh\ncat "$5" >> "$3/.config"\n')
    merge.chmod(0o755)
    (work / "package/usr/src").mkdir(parents=True)
    archive = work / "package/usr/src/linux-source-9.9.tar.xz"
    subprocess.run(["tar", "-cJf", archive, "-C", work, source.name], check=True)
    shutil.rmtree(source)


def test_a_kernel_is_configured_checked_and_compiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernel_source(tmp_path)
    image = build._build(tmp_path, "linux-source-9.9")
    assert image == tmp_path / "linux-source-9.9/arch/x86/boot/bzImage"
    assert {"CONFIG_TINY=y", *build.WANTED} <= set(image.read_text().splitlines())
    said = "linux-source-9.9 does not know CONFIG_PERF_EVENTS=y; going on without\ncompiling ...\n"
    assert capsys.readouterr().err == said


def test_a_kernel_without_what_the_tests_need_is_not_compiled(tmp_path: Path) -> None:
    kernel_source(tmp_path, lost="/IOMMUFD=/d")
    with pytest.raises(VmError, match=r"does not know CONFIG_IOMMUFD=y, CONFIG_PERF_EVENTS=y: scripts/kernel\.frag"):
        build._build(tmp_path, "linux-source-9.9")


def test_a_compilation_that_fails_says_why(tmp_path: Path) -> None:
    kernel_source(tmp_path, compile="echo boot.c:1: no such thing; exit 1")
    with pytest.raises(VmError, match=r"make bzImage failed:\n(.*\n)*boot.c:1: no such thing"):
        build._build(tmp_path, "linux-source-9.9")
