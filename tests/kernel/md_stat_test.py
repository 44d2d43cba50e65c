#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
""".volfs/mdstat is what /proc/mdstat says of the same images, line for line, while the same is done to
both: members fail, are removed and added, spares take over, resyncs and checks run."""

import re
import shutil
import time

import kernel_lab
from lab import Failed, holds, volfs

PROGRESS = re.compile(
    r"\[(=*>\.*)\]  (\w+) =( {1,2}\d+\.\d)% \((\d+)/(\d+)\) finish=\d+\.\dmin speed=\d+K/sec")

# Words of the definition, how many of the six disks stand in slots, and how many are spares; whether
# sync is slow; what is done, then looked at. "ro" is a read-only assembly.
SETUPS = {
    "raid5": ("level: raid5, chunk: 64KiB, assume_clean: true, bitmap: internal, bitmap_chunk: 64KiB", 3, 0, False,
              ["", "fail d1", "remove d1", "write", "add d4; wait", "add d5"]),
    "raid5 recovers": ("level: raid5", 3, 0, True, [""]),
    "raid5 is checked": ("level: raid5, assume_clean: true", 4, 0, True, ["check"]),
    "raid1": ("level: raid1, metadata: '0.90', assume_clean: true", 3, 0, False,
              ["", "fail d0", "remove d0", "add d5; wait"]),
    "raid1 resyncs": ("level: raid1, metadata: '1.0'", 2, 1, True, [""]),
    "raid1 with bitmap resyncs": ("level: raid1, bitmap: internal, bitmap_chunk: 64KiB", 2, 0, True, [""]),
    "raid4": ("level: raid4, metadata: '1.1', assume_clean: true", 3, 1, False, ["", "fail d2; wait"]),
    "raid6": ("level: raid6, layout: ddf-zero-restart, assume_clean: true", 4, 1, False,
              ["", "fail d2; wait", "fail d0", "remove d2"]),
    "raid6 recovers": ("level: raid6, assume_clean: true", 4, 1, True, ["fail d3"]),
    "raid10 near": ("level: raid10, chunk: 4KiB, assume_clean: true", 4, 0, False, ["", "fail d3", "remove d3"]),
    "raid10 far": ("level: raid10, layout: f2, metadata: '1.0', assume_clean: true", 3, 1, False,
                   ["", "fail d0; wait"]),
    "raid10 offset": ("level: raid10, layout: o3, assume_clean: true", 5, 0, False, ["", "fail d1"]),
    "raid10 all near": ("level: raid10, layout: n3, assume_clean: true", 3, 0, False, [""]),
    "raid1 is replaced": ("level: raid1, assume_clean: true", 2, 1, True, ["replace d0"]),
    "raid1 was replaced": ("level: raid1, assume_clean: true", 2, 1, False, ["replace d0; wait", "remove d0"]),
    "raid5 is replaced": ("level: raid5, assume_clean: true", 3, 1, True, ["replace d1"]),
    "raid5 was replaced": ("level: raid5, assume_clean: true", 3, 2, False, ["", "replace d1; wait", "remove d1"]),
    "raid10 is replaced": ("level: raid10, assume_clean: true", 4, 1, True, ["replace d3", "fail d3"]),
    "raid0": ("level: raid0, chunk: 32KiB", 3, 0, False, [""]),
    "raid0 is read": ("level: raid0", 2, 0, False, ["ro"]),
    "dirty raid1 is read": ("level: raid1", 2, 0, False, ["ro"]),
    "dirty raid10 is read": ("level: raid10, layout: f2", 4, 0, False, ["ro"]),
    "raid5 to be recovered is read": ("level: raid5", 3, 0, False, ["ro"]),
    "raid6 with spare and bitmap is read": (
        "level: raid6, assume_clean: true, bitmap: internal", 4, 2, False, ["ro"]),
}


def definition(t, words, slots, spares, slow):
    names = [f"d{i}" for i in range(6)]
    limits = ", sync_speed_min: 100KiB, sync_speed_max: 100KiB" if slow and "raid0" not in words else ""
    spare = f", spares: [{', '.join(names[slots:slots + spares])}]" if spares else ""
    images = "".join(f"  {name}: {{path: {name}.img, size: 20MiB}}\n" for name in names)
    return t.define(f"volfs: 1\nimages:\n{images}arrays:\n"
                    f"  md0: {{{words}, devices: [{', '.join(names[:slots])}]{spare}{limits}}}\n")


def settle(slow):
    """Seconds, in which a sync that was begun shows itself."""
    return 1.2 if slow else 0.2


def by_volfs(t, lab_file, slow, steps):
    """What mdstat says after each step."""
    t.mount(lab_file, options=["ro"] if steps == ["ro"] else ["rw"])
    said = []
    for step in steps:
        for command in step.split("; "):
            verb, *device = command.split() or [""]
            if verb == "write":
                with open(t.mnt / "md0", "r+b", buffering=0) as file:
                    file.write(bytes(4096))
            elif verb not in ("", "ro"):
                volfs("array", verb, t.mnt / "md0", *device)
        time.sleep(settle(slow))
        said.append(t.text("mdstat"))
    t.umount()
    return said


def by_linux(t, folder, slots, spares, slow, steps):
    limit = 100 if slow else 200000
    script = f"""
        cd {folder}
        echo {limit} > /proc/sys/dev/raid/speed_limit_min; echo {limit} > /proc/sys/dev/raid/speed_limit_max
        for i in 0 1 2 3 4 5; do d=$(attach d$i.img); eval d$i=$d; echo "name ${{d#/dev/}} d$i"; done
        mdadm --assemble --quiet {'--readonly' if steps == ['ro'] else ''} /dev/md0 """
    script += " ".join(f"$d{i}" for i in range(slots + spares)) + "\n"
    if steps != ["ro"]:
        script += "mdadm --readwrite --quiet /dev/md0 || true\n"
    for step in steps:
        for command in step.split("; "):
            verb, *device = command.split() or [""]
            name = f"${device[0]}" if device else ""
            script += {
                "": "", "ro": "", "fail": f"mdadm --quiet /dev/md0 --fail {name}\n",
                "remove": f"mdadm --quiet /dev/md0 --remove {name}\n",
                "add": f"mdadm --quiet /dev/md0 --add-spare {name}\n",
                "replace": f"mdadm --quiet /dev/md0 --replace {name}\n",
                "wait": "mdadm --wait /dev/md0 || true\n",
                "check": "echo check > /sys/block/md0/md/sync_action\n",
                "write": "dd if=/dev/zero of=/dev/md0 bs=4k count=1 conv=fsync 2>/dev/null\n",
            }[verb]
        script += f"sleep {settle(slow)}\ncat /proc/mdstat; echo ===\n"
    output = t.linux.check(script + "mdadm --stop --quiet /dev/md0\n")
    names = dict(line.split()[1:] for line in output.splitlines() if line.startswith("name "))
    output = "\n".join(line for line in output.split("\n") if not line.startswith("name "))
    output = re.sub(r"\bloop\d+", lambda found: names[found.group()], output)
    return output.split("===\n")[:-1]


def lines(text):
    """Without what depends on when it was asked: how far a sync is, and how fast."""
    found = []
    text = text[text.index("Personalities :"):]  # mdadm may have said something before
    for line in text.splitlines()[1:]:  # the first lists those that the kernel has loaded
        progress = PROGRESS.fullmatch(line.strip())
        if progress:
            bar, what, percent, done, size = progress.groups()
            holds(len(bar) == 21, f"{line}: the bar")
            mille = (int(done) >> 9) * 1000 // ((int(size) >> 9) + 1)
            holds(percent == f"{mille // 10:3}.{mille % 10}", f"{line}: the percentage")
            line = f"{line[:6]}[bar] {what} of {size}"
        found.append(line)
    return found


def test_mdstat_is_that_of_linux(t):
    wrong = []
    for name, (words, slots, spares, slow, steps) in SETUPS.items():
        lab_file = definition(t, words, slots, spares, slow)
        for i in range(6):
            (t.path / f"d{i}.img").unlink(missing_ok=True)
        volfs("create", lab_file)
        folder = t.path / "linux"
        folder.mkdir(exist_ok=True)
        for i in range(6):
            shutil.copy(t.path / f"d{i}.img", folder)
        theirs = by_linux(t, folder, slots, spares, slow, steps)
        for step, ours, their in zip(steps, by_volfs(t, lab_file, slow, steps), theirs, strict=True):
            if lines(ours) != lines(their):
                wrong.append(f"{name}, after {step!r}: volfs\n{ours}Linux\n{their}")
    if wrong:
        raise Failed("\n".join(wrong))


if __name__ == "__main__":
    kernel_lab.main(globals())
