# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon is killed under writers that flush, and disks fail under it: what was promised is
there, and a failure is that of its own operation only."""
import errno
import os
import signal
import threading

import lab
from lab import KiB, MiB, equal, holds, run, volfs

DEFINITION = """
volfs: 1
images:
  disk0: {path: disk0.img, size: 8MiB}
  disk1: {path: disk1.img, size: 8MiB}
maps:
  data:
    table: 0 32768 striped 2 64 disk0 0 disk1 0
"""
BLOCK = 4 * KiB


class Writer(threading.Thread):
    """Writes blocks, flushes, and remembers what was promised and what was only tried."""

    def __init__(self, path, random, promised):
        super().__init__()
        self.fd = os.open(path, os.O_RDWR | (os.O_DSYNC if random.random() < 0.5 else 0))
        self.random, self.promised, self.tried = random, promised, {}

    def run(self):
        try:
            while True:
                at = self.random.randrange(16 * MiB // BLOCK) * BLOCK
                data = self.random.randbytes(BLOCK)
                self.tried[at] = data
                os.pwrite(self.fd, data, at)
                os.fsync(self.fd)
                self.promised[at] = data
                del self.tried[at]
        except OSError:
            pass
        finally:
            try:
                os.close(self.fd)
            except OSError:
                pass


def test_nothing_promised_is_lost_by_kill_9(t):
    definition = t.define(DEFINITION)
    volfs("create", definition)
    promised = {}
    for _ in range(10):
        t.mount(definition)
        writer = Writer(t.mnt / "data", t.random, promised)
        pid = t.pid()
        writer.start()
        threading.Event().wait(0.05 + t.random.random() * 0.3)
        os.kill(pid, signal.SIGKILL)
        writer.join(60)
        holds(not writer.is_alive(), "the writer hangs after the daemon was killed")
        volfs("umount", t.mnt)
        t.mount(definition)
        with open(t.mnt / "data", "rb", buffering=0) as volume:
            for at, data in promised.items():
                found = os.pread(volume.fileno(), BLOCK, at)
                holds(found in (data, writer.tried.get(at)), f"the block at {at} is not what was promised")
            for at in writer.tried:
                promised[at] = os.pread(volume.fileno(), BLOCK, at)
        t.umount()
    holds(len(promised) > 10, "the writer wrote next to nothing")


def test_a_full_disk_fails_the_write_that_needs_it_and_no_other(t):
    lab.need_root()
    small = t.path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1M", "none", small)
    t.cleanup.callback(run, "umount", small, status=None)
    with open(small / "thin.img", "wb") as file:
        file.truncate(8 * MiB)
    definition = t.define("volfs: 1\nimages:\n  thin: small/thin.img\n"
                          "  fat: {path: fat.img, size: 8MiB}\nmaps:\n"
                          "  full: {table: 0 16384 linear thin 0}\n"
                          "  other: {table: 0 16384 linear fat 0}\n")
    volfs("create", definition)
    t.mount(definition)
    full = os.open(t.mnt / "full", os.O_RDWR | os.O_SYNC)
    seen = None
    for at in range(0, 4 * MiB, 64 * KiB):
        try:
            os.pwrite(full, b"x" * 64 * KiB, at)
        except OSError as error:
            seen = error.errno
            break
    equal(seen, errno.ENOSPC, "errno on a full disk")
    equal(os.pread(full, 64 * KiB, 0), b"x" * 64 * KiB, "what was written before")
    with open(t.mnt / "other", "r+b", buffering=0) as other:
        os.pwrite(other.fileno(), b"y" * MiB, MiB)
        os.fsync(other.fileno())
        equal(os.pread(other.fileno(), MiB, MiB), b"y" * MiB, "the other volume")
    os.close(full)
    t.umount()


def test_an_image_that_is_cut_off_fails_beyond_its_end_only(t):
    definition = t.define("volfs: 1\nimages:\n  disk: {path: disk.img, size: 8MiB}\n"
                          "maps:\n  data: {table: 0 16384 linear disk 0}\n")
    volfs("create", definition)
    t.mount(definition)
    with open(t.mnt / "data", "r+b", buffering=0) as volume:
        fd = volume.fileno()
        os.pwrite(fd, b"a" * MiB, 0)
        os.fsync(fd)
        os.truncate(t.path / "disk.img", 4 * MiB)
        direct = os.open(t.mnt / "data", os.O_RDWR | os.O_DIRECT)
        try:
            lab.raises(errno.EIO, os.pread, direct, 64 * KiB, 6 * MiB)
            equal(os.pread(fd, MiB, 0), b"a" * MiB, "what is left")
        finally:
            os.close(direct)
    equal((t.path / "disk.img").stat().st_size, 4 * MiB, "size of the image")
    t.umount()


lab.main(globals())
