# SPDX-License-Identifier: GPL-2.0-or-later
"""How to boot a reference kernel: user-mode Linux, or a Debian kernel under qemu.

Both get a small root folder made here (the host's /usr is mounted into it, so the host's mdadm,
lvm2 and dmsetup run in the guest) and speak with guest.py over a serial line.
"""

import os
import pathlib
import shutil
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
# Another user-mode Linux than the distribution's.
UML_PROGRAM = pathlib.Path(os.environ.get("VOLFS_UML", "/usr/bin/linux.uml"))
# Lets old ones run on new processors: xstate.c.
XSTATE = os.environ.get("VOLFS_XSTATE")
UML_MODULES = pathlib.Path(os.environ.get("VOLFS_UML_MODULES", "/usr/lib/uml/modules"))
QEMU = "qemu-system-x86_64"
MEMORY_MIB = 1024

LVM_CONFIG = """
devices { use_devicesfile=0 scan=["/dev"] }
activation { udev_sync=0 udev_rules=0 monitoring=0 }
global { use_lvmpolld=0 event_activation=0 }
backup { backup=0 archive=0 }
"""
FROM_ETC = ["passwd", "group", "ld.so.cache", "ld.so.conf", "mke2fs.conf", "alternatives"]


def busybox():
    """Path of a busybox that is linked statically, or None."""
    for place in ("/bin/busybox", "/usr/bin/busybox"):
        path = pathlib.Path(place)
        if path.exists() and b"/lib64/ld-linux" not in path.read_bytes()[:8192]:
            return path
    return None


def make_etc(etc):
    etc.mkdir()
    for name in FROM_ETC:
        source = pathlib.Path("/etc", name)
        if source.is_dir():
            shutil.copytree(source, etc / name, symlinks=True)
        elif source.exists():
            shutil.copy(source, etc / name)
    (etc / "mtab").symlink_to("/proc/self/mounts")
    (etc / "lvm").mkdir()
    (etc / "lvm/lvm.conf").write_text(LVM_CONFIG)


def make_root(root, share, release, modules, settings):
    """Fills the guest's root folder; release and modules name the kernel's module folder."""
    for folder in ("boot", "usr", "proc", "sys", "dev", "run", "tmp", "var", "control", "lib/modules"):
        (root / folder).mkdir(parents=True)
    for folder in (share, modules):
        if folder.parts[1] not in ("usr", "run", "tmp", "var"):  # these are mounted over
            (root / folder.relative_to("/")).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for entry in os.listdir("/usr/lib"):
        if entry != "modules":
            (root / "lib" / entry).symlink_to(f"/usr/lib/{entry}")
    (root / "lib/modules" / release).symlink_to(modules)
    shutil.copy(busybox(), root / "boot/busybox")
    for name in ("sh", "mount", "insmod"):
        (root / "boot" / name).symlink_to("busybox")
    make_etc(root / "etc")
    shutil.copy(HERE / "agent.sh", root / "init")
    (root / "init").chmod(0o755)
    (root / "settings").write_text("".join(f"{key}='{value}'\n" for key, value in settings.items()))


class UserModeLinux:
    name = "user-mode Linux"

    @staticmethod
    def why_impossible():
        if not UML_PROGRAM.exists() or not UML_MODULES.is_dir():
            return "the package user-mode-linux is not installed"
        if not busybox():
            return "the package busybox-static is not installed"
        return None

    def prepare(self, work, share, control, line_in, line_out):
        modules = sorted(UML_MODULES.iterdir())[-1]
        root = work / "root"
        make_root(root, share, modules.name, modules, {
            "fs": "hostfs", "line": "/dev/ttyS0", "share": share, "control": control,
            "modules": modules, "boot_modules": ""})
        preload = ["env", f"LD_PRELOAD={XSTATE}"] if XSTATE and os.path.exists(XSTATE) else []
        return [*preload, UML_PROGRAM, f"mem={MEMORY_MIB}M", "root=/dev/root", "rootfstype=hostfs",
                f"rootflags={root}", "ro", "init=/init", f"uml_dir={work}", "umid=guest",
                "seccomp=auto", "con=null", "con0=null,fd:1", f"ssl0=fd:{line_in},fd:{line_out}",
                "pty.legacy_count=0"]


class Qemu:
    name = "emulated Debian"
    # What it takes to mount the host's folders, in the order of loading.
    BOOT_MODULES = ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci",
                    "netfs", "fscache", "9pnet", "9pnet_virtio", "9p"]

    @staticmethod
    def why_impossible():
        if not shutil.which(QEMU) or not shutil.which("cpio"):
            return f"{QEMU} or cpio is not installed (./dev deps emulation)"
        if not busybox():
            return "the package busybox-static is not installed"
        if not kernel_cache().is_dir() and not shutil.which("apt-get"):
            return "no Debian kernel can be fetched: there is no apt-get"
        return None

    def prepare(self, work, share, control, line_in, line_out):
        kernel = fetch_kernel()
        modules = next((kernel / "lib/modules").iterdir())
        root = work / "root"
        boot_modules = [next(modules.rglob(name + ".ko")) for name in self.BOOT_MODULES]
        make_root(root, share, modules.name, modules, {
            "fs": "9p", "line": "/dev/ttyS1", "share": share, "control": control,
            "modules": modules, "boot_modules": " ".join(path.name for path in boot_modules)})
        for path in boot_modules:
            shutil.copy(path, root / "boot")
        with open(work / "initrd", "wb") as initrd:
            subprocess.run("find . | cpio -o -H newc --quiet", shell=True, cwd=root, stdout=initrd, check=True)
        return self.command(work, next((kernel / "boot").glob("vmlinuz-*")), {
            "usr": "/usr", "modules": modules, "share": share, "control": control}, line_in, line_out)

    def command(self, work, vmlinuz, folders, line_in, line_out):
        shares = []
        for tag, folder in folders.items():
            shares += ["-virtfs", f"local,path={folder},mount_tag={tag},security_model=none,multidevs=remap"
                       + (",readonly=on" if tag in ("usr", "modules") else "")]
        # qemu speaks through its standard streams; a shell joins them to the pipes.
        script = f'exec "$@" <&{line_in} >&{line_out}'
        return ["/bin/sh", "-c", script, "qemu", QEMU, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2",
                "-m", str(MEMORY_MIB), "-display", "none", "-vga", "none", "-monitor", "none", "-no-reboot",
                "-nodefaults", "-serial", f"file:{work}/console.kernel", "-serial", "stdio",
                "-kernel", vmlinuz, "-initrd", work / "initrd",
                "-append", "console=ttyS0 quiet panic=-1 rdinit=/init", *shares]


def kernel_cache():
    return pathlib.Path(os.environ.get("VOLFS_KERNEL_CACHE", "/var/tmp/volfs-kernel"))


def fetch_kernel():
    """Folder of an unpacked Debian kernel package; fetched once, and not installed."""
    cache = kernel_cache()
    if cache.is_dir():
        return cache
    unpacking = cache.with_name(f"{cache.name}.{os.getpid()}")
    unpacking.mkdir(parents=True)
    text = subprocess.run(["apt-cache", "depends", "linux-image-amd64"], check=True, text=True,
                          stdout=subprocess.PIPE).stdout
    package = next(line.split()[-1] for line in text.splitlines() if "Depends:" in line)
    subprocess.run(["apt-get", "-q", "download", package], cwd=unpacking, check=True)
    archive = next(unpacking.glob("*.deb"))
    subprocess.run(["dpkg", "-x", archive, unpacking], check=True)
    archive.unlink()
    release = next((unpacking / "lib/modules").iterdir()).name
    subprocess.run(["depmod", "-b", unpacking, release], check=True)
    try:
        unpacking.rename(cache)
    except OSError:  # another test was first
        shutil.rmtree(unpacking)
    return cache


BACKENDS = {"uml": UserModeLinux, "qemu": Qemu}


def wanted():
    """The backends that may be used, the better first."""
    name = os.environ.get("VOLFS_KERNEL")
    return [BACKENDS[name]] if name else [UserModeLinux, Qemu]


def why_impossible():
    reasons = [backend.why_impossible() for backend in wanted()]
    return "; ".join(reasons) if all(reasons) else None


def choose():
    for backend in wanted():
        if not backend.why_impossible():
            return backend()
    raise RuntimeError(why_impossible())
