# SPDX-License-Identifier: GPL-2.0-or-later
"""What the end-to-end tests share: a private folder, the volfs under test, and mounts, loop
devices and processes that are gone when a test ends, however it ends.

A test file defines functions named test_* that take a Lab, and ends with lab.main(globals()).
Exit status: 0 passed, 77 nothing could run here (the reason is printed), 1 failed.
"""
import atexit
import contextlib
import ctypes
import hashlib
import json
import mmap
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

VOLFS = os.environ.get("VOLFS", "volfs")
TRANSPORT = os.environ.get("VOLFS_TRANSPORT", "threads")  # as -o transport= takes it, for every mount
SEED = int(os.environ.get("VOLFS_SEED", str(random.SystemRandom().randrange(1 << 31))))
KiB, MiB = 1 << 10, 1 << 20
libc = ctypes.CDLL(None, use_errno=True)


class Skip(Exception):
    """The test cannot run here; the text says why."""


class Failed(Exception):
    """A command did not do what the test expected."""


def need_root():
    if os.geteuid() != 0:
        raise Skip("needs root")


def need_fuse():
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        raise Skip(f"/dev/fuse: {error.strerror}") from None


def need_loop():
    need_root()
    if not os.path.exists("/dev/loop-control"):
        raise Skip("no loop devices here")


def need_program(*names):
    for name in names:
        if not shutil.which(name):
            raise Skip(f"{name} is not installed")


RING_SWITCH = pathlib.Path("/sys/module/fuse/parameters/enable_uring")


def offer_ring():
    """Sees to it that the kernel offers io_uring to new mounts, until this process ends."""
    if not RING_SWITCH.exists():
        raise Skip("this kernel has no FUSE over io_uring (from 6.14 on), or the module fuse is not loaded")
    if RING_SWITCH.read_text().strip() == "Y":
        return
    if os.geteuid() != 0:
        raise Skip(f"FUSE over io_uring is off, and only root can say: echo Y > {RING_SWITCH}")
    try:
        RING_SWITCH.write_text("Y")
    except OSError as error:
        raise Skip(f"{RING_SWITCH}: {error.strerror}") from None
    atexit.register(RING_SWITCH.write_text, "N")


def run(*command, status=0, input=None, timeout=300, **options):
    """Runs a command and returns its standard output. STATUS None allows every exit status."""
    command = [str(word) for word in command]
    done = subprocess.run(command, input=input, stdin=None if input is not None else subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=timeout, **options)
    if status is not None and done.returncode != status:
        raise Failed(f"{' '.join(command)}: exit status {done.returncode}, expected {status}\n"
                     f"{done.stdout}{done.stderr}")
    return done.stdout


def stderr_of(*command, status=1, timeout=300, **options):
    """The same for standard error, of a command that is to fail."""
    command = [str(word) for word in command]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=timeout, **options)
    if done.returncode != status:
        raise Failed(f"{' '.join(command)}: exit status {done.returncode}, expected {status}\n"
                     f"{done.stdout}{done.stderr}")
    return done.stderr


def volfs(*arguments, **options):
    return run(VOLFS, *arguments, **options)


def shown(value):
    """A value for a message: of long bytes the beginning."""
    if isinstance(value, (bytes, bytearray)) and len(value) > 64:
        return f"{bytes(value[:64])!r}... ({len(value)} bytes)"
    return repr(value)


def equal(found, expected, what=""):
    if found == expected:
        return
    at = ""
    if isinstance(found, (bytes, bytearray)) and isinstance(expected, (bytes, bytearray)):
        index = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b),
                     min(len(found), len(expected)))
        at = f" from byte {index} on"
        found, expected = found[index:], expected[index:]
    raise Failed(f"{what}{at}: found {shown(found)}, expected {shown(expected)}")


def holds(condition, what):
    if not condition:
        raise Failed(what)


def raises(number, function, *arguments):
    """Checks that a call fails with an errno."""
    try:
        function(*arguments)
    except OSError as error:
        equal(error.errno, number, f"errno of {getattr(function, '__name__', function)}")
        return
    raise Failed(f"{getattr(function, '__name__', function)}{arguments}: no error, "
                 f"expected {os.strerror(number)}")


def wait_until(condition, what, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"waited in vain for {what}")
        time.sleep(0.02)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(MiB):
            digest.update(piece)
    return digest.hexdigest()


def mmap_of(size):
    """Memory that O_DIRECT takes."""
    return mmap.mmap(-1, size)


def is_mounted(path):
    with open("/proc/self/mountinfo") as mounts:
        return any(line.split()[4] == str(path) for line in mounts)


class Lab:
    """A private folder (`lab.path`) and what was set up in it."""

    def __init__(self):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="volfs-test-"))
        self.path.chmod(0o755)
        self.mnt = self.path / "mnt"
        self.mnt.mkdir()
        self.random = random.Random(SEED)
        self.cleanup = contextlib.ExitStack()

    def close(self):
        try:
            self.cleanup.close()
        finally:
            for line in reversed(open("/proc/self/mountinfo").readlines()):
                where = line.split()[4]
                if where.startswith(str(self.path)):
                    libc.umount2(where.encode(), 2)
            shutil.rmtree(self.path, ignore_errors=True)

    def file(self, name, size):
        path = self.path / name
        with open(path, "wb") as file:
            file.truncate(size)
        return path

    def define(self, text, name="lab.yaml"):
        path = self.path / name
        path.write_text(text)
        return path

    def mount(self, *sources, mnt=None, options=(), **user):
        """`volfs mount`; unmounted at the end of the test if it still is mounted."""
        mnt = mnt or self.mnt
        if TRANSPORT == "ring":
            offer_ring()
        command = [VOLFS, "mount", *sources, mnt]
        for option in (f"transport={TRANSPORT}", *options):
            command += ["-o", option]
        run(*command, **user)
        self.cleanup.callback(self.take_off, mnt, **user)
        return mnt

    def take_off(self, mnt, **user):
        if is_mounted(mnt):
            run(VOLFS, "umount", mnt, status=None, **user)

    def umount(self, mnt=None):
        volfs("umount", mnt or self.mnt)
        holds(not is_mounted(mnt or self.mnt), "still mounted after volfs umount")

    def status(self, mnt=None):
        return json.loads(((mnt or self.mnt) / ".volfs/status.json").read_text())

    def pid(self, mnt=None):
        return self.status(mnt)["pid"]

    def ordinary_user(self):
        """Options for run() and mount() that make the command an ordinary user's, who owns the
        lab's folder and may mount, as on every desktop."""
        if os.geteuid() != 0:
            return {}
        mode = os.stat("/dev/fuse").st_mode & 0o777
        if mode & 0o006 != 0o006:
            os.chmod("/dev/fuse", mode | 0o666)
            self.cleanup.callback(os.chmod, "/dev/fuse", mode)
        for path in (self.path, self.mnt):
            os.chown(path, 65534, 65534)
        return {"user": 65534, "group": 65534, "extra_groups": []}

    def loop(self, path, *arguments):
        device = run("losetup", "-f", "--show", *arguments, path).strip()
        self.cleanup.callback(run, "losetup", "-d", device, status=None)
        return device

    def mount_fs(self, device, directory, *arguments):
        directory = self.path / directory
        directory.mkdir(exist_ok=True)
        run("mount", *arguments, device, directory)
        self.cleanup.callback(run, "umount", directory, status=None)
        return directory


def main(names):
    """Runs the test_* functions of a file, those named on the command line if there are any."""
    signal.alarm(int(os.environ.get("VOLFS_TEST_LIMIT", "900")))
    tests = [(name, test) for name, test in names.items() if name.startswith("test_")]
    if len(sys.argv) > 1:
        tests = [(name, test) for name, test in tests if name in sys.argv[1:]]
    passed, skipped, failed = 0, [], []
    print(f"VOLFS_SEED={SEED}", flush=True)
    for name, test in tests:
        print(f"{name} ...", flush=True)
        lab = None
        try:
            need_fuse()
            if TRANSPORT == "ring":
                offer_ring()
            lab = Lab()
            test(lab)
            passed += 1
        except Skip as reason:
            skipped.append(f"{name}: {reason}")
        except Exception:
            traceback.print_exc(file=sys.stdout)
            failed.append(name)
        finally:
            if lab:
                lab.close()
    for reason in skipped:
        print(f"skipped: {reason}")
    for name in failed:
        print(f"FAILED: {name} (VOLFS_SEED={SEED})")
    print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped", flush=True)
    sys.exit(1 if failed else 77 if skipped and (not passed or os.environ.get("CI") == "true") else 0)
