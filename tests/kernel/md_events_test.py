#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Event counts decide the same for Linux and for volfs, and halves of an array that Linux wrote apart stay
apart."""
import json
import os
import re
import shutil

import kernel_lab
from lab import VOLFS, MiB, equal, holds, sha256, stderr_of, volfs
from md_superblock import Superblock

DISK = 4 * MiB


def make(t, name, level, disks, version):
    """An array of Linux, in sync; its images."""
    images = [t.file(f"{name}-{i}.img", DISK) for i in range(disks)]
    layout = "-p n2" if level == "raid10" else ""
    chunk = "" if level == "raid1" else "-c64"
    named = "" if version == "0.90" else "--name=a --homehost=any"
    t.linux.check(f"""
        mdadm --create /dev/md0 --run --quiet -l {level} -n {disks} -e {version} {layout} {chunk} {named} \
          --assume-clean -b none $(attach {' '.join(map(str, images))})
        mdadm --stop --quiet /dev/md0""")
    return images


def fill(t, name, images, byte):
    """Linux starts what is there, and writes it full."""
    t.linux.check(f"""
        mdadm --assemble --run --quiet /dev/md0 $(attach {' '.join(map(str, images))})
        head -c $(blockdev --getsize64 /dev/md0) /dev/zero | tr '\\0' {byte} > {t.path}/{name}
        dd if={t.path}/{name} of=/dev/md0 bs=1M conv=fsync status=none
        mdadm --stop --quiet /dev/md0""")


def array_file(t):
    return next(entry for entry in t.mnt.iterdir() if entry.name != ".volfs")


def test_of_halves_that_linux_wrote_apart_one_is_taken_whatever_the_order(t):
    for level, version, halves in (("raid1", "0.90", ((0,), (1,))), ("raid6", "1.2", ((0, 1), (2, 3)))):
        images = make(t, f"{level}-{version}", level, sum(map(len, halves)), version)
        for half, byte in zip(halves, "AB"):
            fill(t, byte, [images[i] for i in half], byte)
        for ahead in (0, 1, 20):  # the second half
            check_halves(t, f"{level} {version}, {ahead} events ahead", version, images, halves, ahead)


def check_halves(t, what, version, images, halves, ahead):
    other, taken = ([images[i] for i in half] for half in halves)
    for path in other + taken:
        block = Superblock(path, version)
        block.set_events(100 + (ahead if path in taken else 0))
        block.set_utime(1700000000 + (10 if path in taken else 0))
        block.write()
    before = {path: sha256(path) for path in images}
    if ahead:  # of equal ones mdadm takes the first, but never both halves
        for given in (other + taken, taken + other):
            said = t.linux.check(f"""
                for image in {' '.join(map(str, given))}; do cp $image /run/; done; cd /run
                mdadm --assemble --run /dev/md0 $(attach {' '.join(path.name for path in given)}) 2>&1
                head -c 1 /dev/md0; echo
                mdadm --stop --quiet /dev/md0; rm -f *.img""")
            holds("\nB" in said, f"{what}: what Linux does: {said}")
    for given in (other + taken, taken + other):
        found = json.loads(volfs("scan", "--json", *given))["arrays"][0]
        states = {member["device"]: member["state"] for member in found["members"]}
        equal(states, {path.name: "in sync" if path in taken else "written apart" for path in images}, what)
        holds(any("written apart" in note for note in found["notes"]), found["notes"])
        for options in ([], ["rw", "force"]):
            t.mount(*given, options=options)
            equal(set(array_file(t).read_bytes()), {ord("B")}, f"{what}: what is shown")
            if options:
                with open(array_file(t), "r+b", buffering=0) as file:
                    file.write(b"B" * 4096)
                    os.fsync(file.fileno())
            t.umount()
            equal([sha256(path) for path in other], [before[path] for path in other], f"{what}: the other half")
        report = json.loads(volfs("mount", *given, t.mnt, "--rescue", "--json"))
        equal(set(array_file(t).read_bytes()), {ord("B")}, f"{what}: what rescue shows")
        holds(any("written apart" in step for step in report["next_steps"]), report["next_steps"])
        t.umount()
        volfs("overlay", "discard", report["overlay"], "--yes")
    t.mount(*other)
    equal(set(array_file(t).read_bytes()), {ord("A")}, f"{what}: the other half alone")
    t.umount()
    equal([sha256(path) for path in other], [before[path] for path in other], f"{what}: the other half")


def test_a_half_that_linux_gave_a_new_device_to_is_not_mixed_with_the_other(t):
    """Metadata 0.90 gives the slot and number of who is away to the new device."""
    for version in ("0.90", "1.2"):
        first, second = make(t, f"raid1-{version}", "raid1", 2, version)
        new = t.file(f"new-{version}.img", DISK)
        t.linux.check(f"""
            mdadm --assemble --run --quiet /dev/md0 $(attach {first})
            mdadm --quiet /dev/md0 --add $(attach {new}); mdadm --wait --quiet /dev/md0 || true
            mdadm --stop --quiet /dev/md0""")
        fill(t, "A", [first, new], "A")
        fill(t, "B", [second], "B")
        for ahead in (-1, 0, 1):
            for path in (first, second, new):
                block = Superblock(path, version)
                block.set_events(100 + (0 if path == second else ahead))
                block.write()
            for given in ((first, second), (second, first)):
                what = f"{version}, ahead {ahead}, {[path.name for path in given]}"
                said = t.linux.check(f"""
                    for image in {' '.join(map(str, given))}; do cp $image /run/; done; cd /run
                    mdadm --assemble --run --readonly /dev/md0 $(attach {' '.join(path.name for path in given)}) 2>&1
                    tr -d '\\n' < /dev/md0 | tr -s AB; echo
                    mdadm --stop --quiet /dev/md0; losetup -D; rm -f *.img""")
                holds(re.search("^[AB]$", said, re.M), f"{what}: what Linux does: {said}")
                t.mount(*given)
                holds(len(set(array_file(t).read_bytes())) == 1, f"{what}: mixed")
                t.umount()


def test_forced_who_failed_last_is_taken_as_by_mdadm_and_that_lasts(t):
    """Of the failure that an array does not survive Linux tells the others with one event."""
    for level, version, bitmap, fail in (("raid5", "1.2", "none", "bc"), ("raid5", "0.90", "none", "ba"),
                                         ("raid5", "1.2", "internal", "cd"), ("raid6", "1.0", "none", "bcd")):
        what = f"{level} {version}, bitmap {bitmap}, {fail} failed"
        folder = t.path / f"{level}-{version}-{bitmap}"
        folder.mkdir()
        disks = "abcd" if level == "raid5" else "abcde"
        images = {disk: t.file(f"{folder.name}/{disk}.img", 2 * DISK) for disk in disks}
        last = len(fail) - 1
        script = f"""
            set -- $(attach {' '.join(map(str, images.values()))})
            mdadm --create /dev/md0 --run --quiet -l {level} -n {len(disks)} -e {version} -c64 --assume-clean \
              -b {bitmap} $*
            dd if=/dev/urandom of=/dev/md0 bs=64k count=100 oflag=direct status=none\n"""
        for number, disk in enumerate(fail):
            position = disks.index(disk) + 1
            if number == last:
                script += "sleep 1\n"
            script += f"""
                dd if=/dev/urandom of=/dev/md0 bs=64k count=10 seek={5 * number} oflag=direct status=none
                echo 3 > /proc/sys/vm/drop_caches; head -c 6553600 /dev/md0 > {folder}/content
                mdadm --quiet /dev/md0 --fail ${position} {'|| true  # it says that the array does not survive' if number == last else ''}
                {'' if number == last else f'mdadm --quiet /dev/md0 --remove ${position}'}\n"""
        t.linux.check(script + "mdadm --stop --quiet /dev/md0; losetup -D")
        freed = images[fail[last]].name
        refused = stderr_of(VOLFS, "mount", *images.values(), t.mnt, status=2)
        holds(f"force would use {freed}, which failed" in refused, f"{what}: {refused}")
        wanted = (folder / "content").read_bytes()

        def shows(how, where=None):
            with open(where or array_file(t), "rb") as shown:
                holds(shown.read(len(wanted)) == wanted, f"{what}, {how}: other content")

        t.mount(*images.values(), "-o", "ro,force")
        shows("forced")
        t.umount()
        needed = [path for disk, path in images.items() if disk not in fail[:last]]
        t.mount(*needed, "-o", "ro,force")
        shows("forced, without the others")
        t.umount()
        report = json.loads(volfs("mount", *images.values(), t.mnt, "--rescue", "--json"))
        shows("rescue")
        steps = "\n".join(report["next_steps"])
        holds(f"{freed}: was taken although it is faulty" in steps, f"{what}: {steps}")
        holds(f"{images[fail[0]].name}: is left out" in steps, f"{what}: {steps}")
        t.umount()
        volfs("overlay", "discard", report["overlay"], "--yes")
        said = t.linux.check(f"""
            cp {folder}/?.img /run/; cd /run
            mdadm --assemble --force --run --readonly /dev/md0 $(attach {' '.join(path.name for path in needed)}) 2>&1
            head -c 6553600 /dev/md0 | cmp - {folder}/content && echo same
            mdadm --stop --quiet /dev/md0; losetup -D; rm -f *.img""")
        holds("same" in said.split(), f"{what}: what mdadm does: {said}")
        # Nothing is written but who is there.
        t.mount(*images.values(), "-o", "rw,force")
        t.umount()
        t.mount(*images.values())
        shows("after it was forced")
        t.umount()
        said = t.linux.check(f"""
            cp {folder}/?.img /run/; cd /run
            mdadm --assemble --run --readonly /dev/md0 $(attach {' '.join(path.name for path in needed)}) 2>&1
            head -c 6553600 /dev/md0 | cmp - {folder}/content && echo same
            mdadm --stop --quiet /dev/md0; losetup -D; rm -f *.img""")
        holds("same" in said.split(), f"{what}: mdadm after volfs: {said}")


def test_one_event_less_is_none_for_both(t):
    cases = []
    for version in ("0.90", "1.2"):
        for level, disks in (("raid1", 2), ("raid5", 3)):
            base = make(t, f"{level}-{version}", level, disks, version)
            for dirty in (False, True):
                for behind in (0, disks - 1):
                    for events in (1, 2):
                        if dirty and events == 2 and level == "raid5":
                            continue  # it is not started
                        case = t.path / f"case{len(cases)}"
                        case.mkdir()
                        images = [shutil.copy(path, case / f"d{i}.img") for i, path in enumerate(base)]
                        for i, path in enumerate(images):
                            block = Superblock(path, version)
                            block.set_events(50 - (events if i == behind else 0))
                            if dirty:
                                block.set_dirty()
                            block.write()
                        cases.append((f"{level} {version}, dirty {dirty}, member {behind} is {events} behind", images))
    script = "cd /run\n"
    for number, (_, images) in enumerate(cases):
        script += f"""
            cp {t.path}/case{number}/*.img .
            mdadm --assemble --run --readonly --quiet /dev/md0 $(attach d?.img)
            echo {number}: $(cat /sys/block/md0/md/degraded)
            mdadm --stop --quiet /dev/md0; losetup -D; rm d?.img
            """
    said = dict(re.findall(r"^(\d+): (\d+)$", t.linux.check(script), re.M))
    for number, (what, images) in enumerate(cases):
        t.mount(*images)
        device = next(each for each in t.status()["devices"] if "array" in each)
        missing = device["array"]["raid_disks"] - len(device["array"]["members"])
        t.umount()
        equal(str(missing), said[str(number)], what)
    equal(len(said), len(cases), "arrays that Linux started")


if __name__ == "__main__":
    kernel_lab.main(globals())
