# SPDX-License-Identifier: GPL-2.0-or-later
"""Labs (tests/e2e/lab.py) beside one reference kernel that sees their folders.

A test file defines functions named test_* that take a Lab, and ends with kernel_lab.main(globals()).
`lab.linux` is the Guest; `lab.perform(plan)` is device_io.perform there.
"""

import json
import pathlib
import shutil
import tempfile

import device_io
import guest
import lab


class KernelLab(lab.Lab):
    linux = None

    def program(self, *words):
        """The guest's command line of a device_io command."""
        return " ".join(["python3", str(self.path.parent / "device_io.py"), *map(str, words)])

    def perform(self, plan):
        path = self.path / "plan.json"
        path.write_text(json.dumps(plan))
        return json.loads(self.linux.check(self.program("perform", path)))

    def text(self, what):
        return (self.mnt / ".volfs" / what).read_text()


def main(names):
    guest.skip_unless_possible()
    try:
        lab.need_fuse()
    except lab.Skip as reason:
        print(f"skipped: {reason}")
        raise SystemExit(guest.SKIP) from None
    with tempfile.TemporaryDirectory(prefix="volfs-kernel-") as folder, guest.Guest(folder) as linux:
        pathlib.Path(folder).chmod(0o755)
        shutil.copy(device_io.__file__, folder)
        tempfile.tempdir = folder  # labs are made here
        KernelLab.linux = linux
        lab.Lab = KernelLab
        lab.main(names)
