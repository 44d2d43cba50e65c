# SPDX-License-Identifier: GPL-2.0-or-later
"""valgrind finds neither a leak nor a bad access in mounting, using and unmounting."""
import os
import signal
import subprocess

import lab
from lab import MiB, equal, holds, run

DEFINITION = """
volfs: 1
images:
  disk0: {path: disk0.img, size: 16MiB}
  disk1: {path: disk1.img, size: 16MiB}
  store: {path: store.img, size: 4MiB}
maps:
  data:
    table: |
      0 16384 striped 2 128 disk0 0 disk1 0
      16384 64 zero
snapshots:
  before: {origin: data, cow: store, chunk_size: 4KiB}
"""


def test_no_leak_from_mount_to_umount(t):
    lab.need_program("valgrind")
    definition = t.define(DEFINITION)
    run(lab.VOLFS, "create", definition)
    log = t.path / "valgrind.log"
    daemon = subprocess.Popen(
        ["valgrind", "--leak-check=full", "--errors-for-leak-kinds=definite,indirect",
         "--error-exitcode=9", "--num-callers=20", f"--log-file={log}", lab.VOLFS, "mount", "-f",
         "-o", "transport=threads",  # valgrind holds all threads up while one waits for io_uring
         str(definition), str(t.mnt)], stdin=subprocess.DEVNULL)
    t.cleanup.callback(t.take_off, t.mnt)
    t.cleanup.callback(daemon.kill)
    lab.wait_until(lambda: lab.is_mounted(t.mnt) and (t.mnt / "data").exists(), "the mount", 120)
    volume = t.mnt / "data"
    content = os.urandom(MiB + 12345)
    with open(volume, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), content, 777)
        os.fsync(file.fileno())
        equal(os.pread(file.fileno(), len(content), 777), content, "what was written")
        lab.raises(28, os.pwrite, file.fileno(), b"x", os.fstat(file.fileno()).st_size)
    equal((t.mnt / "before").read_bytes()[777:777 + len(content)], bytes(len(content)), "before")
    run(lab.VOLFS, "map", "create", t.mnt / "more", "--table", "0 8 linear disk0 16384")
    run(lab.VOLFS, "map", "suspend", t.mnt / "more")
    run(lab.VOLFS, "map", "resume", t.mnt / "more")
    run(lab.VOLFS, "map", "remove", t.mnt / "more")
    run(lab.VOLFS, "status", t.mnt)
    daemon.send_signal(signal.SIGTERM)
    status = daemon.wait(120)
    holds(status == 0, f"exit status {status}\n{log.read_text()}")


lab.main(globals())
