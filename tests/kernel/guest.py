# SPDX-License-Identifier: GPL-2.0-or-later
"""A reference kernel for tests: Linux itself, with device-mapper, md, mdadm and lvm2, over images.

    with Guest(folder) as guest:
        status, output = guest.run("losetup /dev/loop0 disk0.img; dmsetup create ...")
        output = guest.check("...")          # the same, but a non-zero status is an error

The kernel boots once, in seconds, without root, and runs any number of bash scripts as its root.
Each starts in the folder, which has the same path as on the host; images are attached there as
loop devices. What a script leaves (mounts, maps, arrays, loop devices) is taken down after it,
and all is written to the images before run() returns. While no script runs the host may change
the images as it likes: nothing of them is cached in the guest.

The kernel is user-mode Linux where there is one (I/O and parity at native speed), else a Debian
kernel emulated by qemu; VOLFS_KERNEL=uml|qemu chooses. Both boot in a few seconds on an idle
machine, and both start programs slowly (30 ms): a script of few commands is a fast one.
Not thread-safe; one Guest is one kernel.
"""

import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import backends

SKIP = 77
BOOT_SECONDS = 300  # a limit for hung kernels, far above what a loaded machine needs
GRACE_SECONDS = 120  # how much later than its script's own limit a guest counts as hung

# Every script starts with these.
PRELUDE = r"""
# Attaches each image and prints its loop device.
attach() { local image; for image in "$@"; do losetup --find --show "$image" || return; done; }
"""


class GuestError(Exception):
    """The kernel did not boot, hung or died; the text ends with the end of its console."""


class Guest:
    def __init__(self, share, backend=None):
        self.share = pathlib.Path(share).resolve()
        self.backend = backend or backends.choose()
        self.process = None
        self.scripts = 0

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="volfs-guest-"))
        self.control = self.work / "control"
        self.control.mkdir()
        from_guest, guest_out = os.pipe()
        guest_in, self.to_guest = os.pipe()
        self.from_guest = from_guest
        self.pending = b""
        command = self.backend.prepare(self.work, self.share, self.control, guest_in, guest_out)
        with open(self.work / "console", "wb") as console:
            # The kernel must not outlive a test that is killed.
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command], stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT,
                pass_fds=(guest_in, guest_out), start_new_session=True)
        os.close(guest_in)
        os.close(guest_out)
        if self.read_line(BOOT_SECONDS) != "ready":
            raise self.give_up("did not boot")

    def stop(self):
        """Ends the kernel. Safe to call twice."""
        if self.process is None:
            return
        os.close(self.to_guest)  # the agent takes this as the order to power off
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            pass
        self.kill()
        os.close(self.from_guest)
        shutil.rmtree(self.work, ignore_errors=True)

    def run(self, script, timeout=300):
        """Runs a bash script as root; returns its exit status (124: out of time) and output.
        The limit is for what hangs, not a measure: a loaded machine may need a hundred times longer."""
        self.scripts += 1
        name = f"script{self.scripts}"
        (self.control / f"{name}.sh").write_text(PRELUDE + script)
        try:
            os.write(self.to_guest, f"{name} {timeout}\n".encode())
        except BrokenPipeError:
            raise self.give_up("died") from None
        reply = self.read_line(timeout + GRACE_SECONDS).split()
        if reply[:2] != ["done", name]:
            raise self.give_up("hung or died in a script:\n" + script)
        output = (self.control / f"{name}.out").read_text(errors="replace")
        return int(reply[2]), output

    def check(self, script, timeout=300):
        """Runs a bash script that stops at the first failing command; returns its output."""
        status, output = self.run("set -euo pipefail\n" + script, timeout)
        if status != 0:
            raise AssertionError(f"exit status {status} from\n{script}\n--- output\n{output}")
        return output

    def release(self):
        return (self.control / "release").read_text().strip()

    def read_line(self, seconds):
        """The next line from the guest, or "" after so many seconds or when it ended."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self.pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.from_guest], [], [], left)[0]:
                return ""
            data = os.read(self.from_guest, 4096)
            if not data:
                return ""
            self.pending += data
        line, self.pending = self.pending.split(b"\n", 1)
        return line.decode(errors="replace").strip()

    def give_up(self, what):
        console = "".join(path.read_text(errors="replace") for path in sorted(self.work.glob("console*")))
        self.kill()
        return GuestError(f"the {self.backend.name} kernel {what}\n--- end of its console\n{console[-6000:]}")

    def kill(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.process = None


def skip_unless_possible():
    """Ends the test program as skipped, saying why, where no reference kernel can run."""
    reason = backends.why_impossible()
    if reason:
        print(f"skipped: {reason}")
        sys.exit(SKIP)
