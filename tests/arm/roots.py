"""Debian for ARM in folders of this machine, entered through QEMU's user emulation.

A root is unpacked by mmdebstrap without running its packages' scripts, and entered in namespaces of
its own, so that neither a mount nor a handler of foreign programs is left on this machine. What is
inside sees processors as an ARM board shows them: with this machine's /proc/cpuinfo interpreters
crash, and with no /sys/devices/system/cpu LiteRT runs without the kernels of XNNPACK, and so not
as on a board.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".arm"
SOURCE = ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "edge_runtime", "trainer", "export")
SUITE, MIRROR = "bookworm", "deb http://deb.debian.org/debian bookworm main"
EVERY_SYSTEM = ("dash", "libstdc++6")  # has these, besides the packages that the guide installs
PYTHON = "3.11"  # of this suite
HOME = "home/user"  # inside, where the guide's lines are typed
TESTS = "opt/tests"
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
TOOLS = {"mmdebstrap": "mmdebstrap", "qemu-aarch64-static": "qemu-user-static",
         "qemu-arm-static": "qemu-user-static", "unshare": "util-linux"}  # fmt: skip

# $1: the root; $2: a line for binfmt_misc, by which the kernel hands what is inside to QEMU.
ENTER = """
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
printf %s "$2" > /proc/sys/fs/binfmt_misc/register
mount --rbind /dev "$1/dev"
mount --rbind /proc "$1/proc"
mount --bind "$1/etc/cpuinfo" "$1/proc/cpuinfo"
root=$1
shift 2
exec chroot "$root" "$@"
"""
CPUINFO = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: {architecture}
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 3

"""


class Unavailable(Exception):
    """A root cannot be set up here; the text says why."""


class Architecture(NamedTuple):
    """Debian's name, the emulator, the processor that it plays, what the kernel knows programs by
    (elf: class, data and machine), the machine in the names of wheels, and /proc/cpuinfo."""

    name: str
    emulator: str
    processor: str
    magic: str
    wheels: str
    cpuinfo: str


def _magic(bits: int, machine: str) -> str:
    """The first 20 bytes of a program, and which of them count, as binfmt_misc reads them."""
    head = rf"\x7fELF\x0{bits}\x01\x01" + r"\x00" * 9 + rf"\x02\x00\x{machine}\x00"
    mask = r"\xff" * 7 + r"\x00" + r"\xff" * 8 + r"\xfe" + r"\xff" * 3
    return f"{head}:{mask}"


ARM64 = Architecture(
    "arm64", "qemu-aarch64-static", "cortex-a72", _magic(2, "b7"), "aarch64",
    CPUINFO.format(features="fp asimd evtstrm crc32 cpuid", architecture=8, part="0xd08"),
)  # fmt: skip
ARMHF = Architecture(
    "armhf", "qemu-arm-static", "cortex-a7", _magic(1, "28"), "armv7l",
    CPUINFO.format(
        features="half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae",
        architecture=7, part="0xc07",
    ),
)  # fmt: skip


def run(*words: object, quiet: bool = False, seconds: float = 1200, **options: object) -> str:
    """The output of a program that must succeed, and if `quiet` write nothing to stderr; what it
    said is in the AssertionError where it does not."""
    command = list(map(str, words))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, **options,  # type: ignore[call-overload]
    ) as process:  # fmt: skip
        try:
            said, complained = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # what QEMU runs does not end with the shell
            raise
    assert process.returncode == 0, f"{' '.join(command)}\n{said[-3000:]}{complained[-3000:]}"
    assert not quiet or complained == "", complained
    return str(said)


def missing() -> str | None:
    """Why no root can be set up here, or None."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "roots for ARM are set up on Linux on x86-64"
    absent = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if absent:
        return f"apt-get install {' '.join(absent)}"
    if os.geteuid() != 0:
        return "mmdebstrap sets up a root as root only"
    mount = "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc"
    asked = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", mount]
    done = subprocess.run(asked, capture_output=True, text=True)
    if done.returncode != 0:  # Linux before 6.7 has one table of handlers for all
        return f"no handlers of programs in a namespace: {done.stderr.strip()[-200:]}"
    return None


def build_wheel(folder: Path) -> Path:
    """The wheel of this tree."""
    source = folder / "source"
    source.mkdir()
    for name in SOURCE:
        place = ROOT / name
        (shutil.copytree if place.is_dir() else shutil.copy)(place, source / name)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, source)
    return next(folder.glob("*.whl"))


def fetch(*words: object) -> None:
    """Run a program that needs the network; Unavailable where it fails."""
    try:
        run(*words)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        raise Unavailable(" ".join(str(error).split())[-400:]) from None


class Root:
    """One architecture's root, in which lines of the guide are typed: the first installs packages
    of Debian, the second makes an environment, the third fills it, others follow.

    Attributes:
        folder: where it lies, by a key of all that it is made from.
        said: what the lines after the third wrote.
    """

    def __init__(self, architecture: Architecture, lines: Sequence[str]):
        self.architecture, self.said = architecture, ""
        apt, self.environment, self.install, *self.further = lines
        assert "apt install" in apt
        assert "pip install" in self.install
        self.packages = apt.split("install")[1].split()
        own = [Path(__file__), ROOT / "pyproject.toml"]
        made_from = repr((architecture, lines, [path.read_text("utf-8") for path in own]))
        key = hashlib.sha256(made_from.encode()).hexdigest()[:12]
        self.folder = CACHE / f"{architecture.name}-{key}"
        self.home = self.folder / HOME

    def run(self, *words: object, quiet: bool = False, **variables: str) -> str:
        """What a program inside, found as its PATH says, writes to stdout; it must succeed, and
        if `quiet` write nothing to stderr."""
        outside = shutil.which(self.architecture.emulator)
        handler = f":arm:M::{self.architecture.magic}:{outside}:FP"
        kept = {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8",
            "HOME": f"/{HOME}", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels",
            "PIP_ROOT_USER_ACTION": "ignore", "QEMU_CPU": self.architecture.processor,
        }  # fmt: skip
        return run(
            "unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", ENTER, "enter",
            self.folder, handler, *words, quiet=quiet, env=kept | variables,
        )  # fmt: skip

    def type(self, line: str) -> str:
        """A line typed in the home folder."""
        return self.run("/bin/sh", "-ec", f"cd /{HOME} && {line}")

    def make(self, wheel: Path, picture: bytes) -> None:
        """Set up, unless it is there from a former time, and install this wheel; the further lines
        of the guide find `picture` as slice.jpg.

        Raises:
            Unavailable: packages or wheels cannot be had.
        """
        ready = self.folder / "ready"
        install = self.install
        if ready.exists():  # the same version again: pip would leave the former one
            install = "btc-edge/bin/pip install --no-deps --force-reinstall btc_edge-*.whl"
        else:
            for former in CACHE.glob(f"{self.architecture.name}-*"):
                shutil.rmtree(former)
            self._unpack()
            self._fetch_wheels(wheel)
            self.type(self.environment)
        for former in self.home.glob("*.whl"):
            former.unlink()
        shutil.copy(wheel, self.home)
        (self.home / "slice.jpg").write_bytes(picture)
        self.type(install)
        ready.touch()
        self.said = "".join(map(self.type, self.further))

    def _unpack(self) -> None:
        packages = ",".join([*EVERY_SYSTEM, *self.packages])
        self.folder.parent.mkdir(exist_ok=True)
        fetch("mmdebstrap", "--quiet", "--variant=extract",
              f"--architectures={self.architecture.name}", f"--include={packages}",
              SUITE, self.folder, MIRROR)  # fmt: skip
        for name in ("proc", "dev", "wheels", HOME, TESTS):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        processors = self.folder / "sys" / "devices" / "system" / "cpu"
        processors.mkdir(parents=True)
        for name in ("possible", "present", "online"):
            (processors / name).write_text("0\n")
        (self.folder / "etc" / "cpuinfo").write_text(self.architecture.cpuinfo)
        # The one thing that scripts of packages would have done: the libraries' generic names.
        for library in ("blas", "lapack"):
            for place in self.folder.glob(f"usr/lib/*/{library}/lib{library}.so.3"):
                (place.parents[1] / place.name).symlink_to(f"{library}/{place.name}")

    def _fetch_wheels(self, wheel: Path) -> None:
        """What the guide's line asks pip for; with dependencies, unless it says otherwise."""
        alone = "--no-deps" in self.install
        asked = [word for word in self.install.split() if "==" in word]
        asked += ["--no-deps"] if alone else [str(wheel)]
        machine = self.architecture.wheels
        kinds = [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(36, 16, -1)]
        kinds += [f"--platform=manylinux2014_{machine}", f"--platform=linux_{machine}",
                  f"--python-version={PYTHON}", "--only-binary=:all:"]  # fmt: skip
        fetch(*PIP, "download", "--dest", self.folder / "wheels", *kinds, *asked)
        fetch(*PIP, "install", "--target", self.folder / TESTS, *kinds, "pytest", "hypothesis")
