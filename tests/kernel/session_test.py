#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""One long session on one mount: every operation of every kind, while fio writes to a volume and verifies
what it wrote. The status is right after each, and in the end Linux finds the array whole and its two halves
equal, lvm2 the group in order, and every volume as it was left."""

import contextlib
import json
import os
import subprocess
import threading

import device_io
import kernel_lab
import lab as lab_module
import lvm_lab
from lab import MiB, equal, holds, volfs, wait_until

IMAGES = "".join(f"  d{i}: {{path: d{i}.img, size: 40MiB}}\n" for i in range(3))
DEFINITION = f"""
volfs: 1
images:
{IMAGES}  s0: {{path: s0.img, size: 8MiB}}
arrays:
  md0: {{level: raid5, devices: [d0, d1, d2], chunk: 64KiB, bitmap: internal, sync_speed_min: 100MiB}}
volume_groups:
  vg0:
    physical_volumes: [md0]
    extent_size: 1MiB
    logical_volumes:
      busy: {{size: 12MiB}}
      root: {{size: 8MiB}}
maps:
  scratch: {{table: 0 8192 linear s0 0}}
"""
FIO = ["fio", "--name=busy", "--size=12M", "--bsrange=4k-64k", "--rw=randwrite", "--verify=crc32c", "--do_verify=1",
       "--verify_fatal=1", "--ioengine=io_uring", "--iodepth=8", "--direct=1", "--output-format=terse", "--end_fsync=1"]


@contextlib.contextmanager
def busy(path):
    """fio verifies what it writes to PATH, again and again."""
    lab_module.need_program("fio")
    stop, rounds, trouble = threading.Event(), [0], []

    def work():
        while not stop.is_set():
            done = subprocess.run([*FIO, f"--filename={path}"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, timeout=300, cwd=path.parents[2])
            if done.returncode != 0:
                trouble.append(done.stdout)
                return
            rounds[0] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
        wait_until(lambda: rounds[0] >= 3 or trouble, "three rounds of fio", 300)
    finally:
        stop.set()
        thread.join()
    holds(not trouble, f"fio: {trouble}")


class Session:
    def __init__(self, t):
        self.t = t

    def __call__(self, command, path, *words, **options):
        return volfs(*command.split(), self.t.mnt / path if path else self.t.mnt, *words, **options)

    def device(self, name):
        found = [d for d in self.t.status()["devices"] if d["name"] == name]
        return found[0] if found else None

    def state(self, name):
        return self.device(name)["state"]

    def volumes(self):
        return sorted(d["volume"] for d in self.t.status()["devices"] if "volume" in d)

    def put(self, volume, seed):
        device_io.scribble(self.t.mnt / volume, seed, 20)
        return device_io.sha256(self.t.mnt / volume)


def work_with_maps(do):
    do("map create", "extra", input="0 2048 linear s0 8192\n")
    do("map load", "extra", "--table", "0 1024 linear s0 8192\n1024 1024 zero")
    equal(do.device("extra")["map"]["inactive_table"], True, "a loaded table")
    do("map clear", "extra")
    do("map load", "extra", "--table", "0 1024 linear s0 8192\n1024 1024 zero")
    do("map suspend", "extra")
    holds(do.device("extra")["map"]["suspended"], "not suspended")
    do("map resume", "extra")
    equal(do("map table", "extra"), "0 1024 linear s0 8192\n1024 1024 zero \n", "the new table")
    do("map rename", "extra", "other")
    holds("other" in do.volumes() and "extra" not in do.volumes(), do.volumes())
    do("map load", "other", "--table", "0 2048 dust s0 8192 512")
    do("map resume", "other")
    do("map message", "other", "0", "addbadblock", "3")
    holds("other: 0 2048 dust" in do.t.text("status"), do.t.text("status"))
    do("map remove", "other")
    holds("other" not in do.volumes(), do.volumes())


def work_with_the_array(do):
    t = do.t
    do("array wait", "md0", "--timeout", "120")
    equal(do.state("md0"), "active", "md0 after its first sync")
    do("array fail", "md0", "d1")
    equal(do.state("md0"), "degraded", "md0 without d1")
    do("array remove", "md0", "d1")
    do("array add", "md0", "d1", "--re-add")  # by the bitmap
    do("array wait", "md0", "--timeout", "120")
    equal(do.state("md0"), "active", "md0 with d1 again")
    t.file("d3.img", 40 * MiB)
    volfs("image", "add", t.mnt, "d3", t.path / "d3.img")
    do("array add", "md0", "d3")
    do("array fail", "md0", "d0")  # the spare takes over
    do("array wait", "md0", "--timeout", "120")
    equal(do.state("md0"), "active", "md0 on its spare")
    do("array remove", "md0", "d0")
    volfs("image", "remove", t.mnt, "d0")
    volfs("image", "add", t.mnt, "d0", t.path / "d0.img")
    do("array add", "md0", "d0")
    do("array replace", "md0", "d3")  # while it still works
    do("array wait", "md0", "--timeout", "120")
    equal({m["device"] for m in do.device("md0")["array"]["members"] if m["state"] == "in_sync"}, {"d0", "d1", "d2"}, "members")
    do("array remove", "md0", "d3")
    do("array check", "md0")
    holds("mismatch_cnt 0" in do("array wait", "md0", "--timeout", "120"), "a mismatch")
    do("array repair", "md0")
    do("array idle", "md0")
    do("array frozen", "md0")
    do("array idle", "md0")
    holds("active raid5" in do("array mdstat", "md0"), do("array mdstat", "md0"))


def work_with_a_new_array(do):
    t = do.t
    for name in ("e0", "e1", "e2"):
        t.file(f"{name}.img", 8 * MiB)
        volfs("image", "add", t.mnt, name, t.path / f"{name}.img")
    do("array create", "md7", "--level=10", "--layout=f2", "--chunk=16", "e0", "e1", "e2")
    do("array wait", "md7", "--timeout", "60")
    digest = do.put("md7", 7)
    do("array stop", "md7")
    do("array assemble", "md7", "e2", "e0", "e1")
    equal(device_io.sha256(t.mnt / "md7"), digest, "the array that was set up again")
    do("array stop", "md7")
    return digest


def work_with_logical_volumes(do):
    do("lv create", "vg0/one", "-L", "4")
    sums = {"vg0/one": do.put("vg0/one", 1)}
    do("lv extend", "vg0/one", "-L", "+2M")
    do("lv create", "vg0/gone", "-l", "3")
    do("lv reduce", "vg0/gone", "-l", "2", "--yes")
    do("lv rename", "vg0/gone", "soon")
    do("lv deactivate", "vg0/soon")
    holds("vg0/soon" not in do.volumes(), do.volumes())
    do("lv activate", "vg0/soon")
    do("lv remove", "vg0/soon", "--yes")
    do("lv create", "vg0/early", "-s", "root", "-l", "5", "-c", "8")
    sums["vg0/early"] = device_io.sha256(do.t.mnt / "vg0/root")
    sums["vg0/root"] = do.put("vg0/root", 2)
    equal(device_io.sha256(do.t.mnt / "vg0/early"), sums["vg0/early"], "the snapshot")
    sums["vg0/one"] = device_io.sha256(do.t.mnt / "vg0/one")
    do("lv create", "vg0/back", "-L", "4")
    sums["vg0/back"] = do.put("vg0/back", 8)
    do("lv create", "vg0/then", "-s", "back", "-L", "5")
    holds(do.put("vg0/back", 9) != sums["vg0/back"], "nothing was written")
    do("lv merge", "vg0/then", "--yes")
    equal(device_io.sha256(do.t.mnt / "vg0/back"), sums["vg0/back"], "an origin after the merge")
    holds("vg0/then" not in do.volumes(), do.volumes())
    do("lv change", "vg0/back", "--addtag", "merged", "--permission", "r")
    return sums


def work_with_snapshots(do):
    before = do.put("scratch", 3)
    do("snapshot create", "before", "--origin", "scratch")
    do.put("scratch", 4)
    equal(device_io.sha256(do.t.mnt / "before"), before, "the snapshot")
    status = json.loads(do("snapshot status", "before", "--json"))
    equal(status["snapshot"], "before", "its status")
    do("snapshot merge", "before", "--yes")
    do("snapshot wait", "before", "--timeout", "60")
    equal(device_io.sha256(do.t.mnt / "scratch"), before, "scratch after the merge")
    do("snapshot create", "again", "--origin", "scratch")
    do("snapshot remove", "again", "--yes")
    holds(not {"before", "again"}.intersection(do.volumes()), do.volumes())
    return before


def look(do):
    for words in ("tree", "status", "graph", "top -n 1 -d 0.1"):
        command, *options = words.split()
        holds(volfs(command, do.t.mnt, *options), f"{words} says nothing")
        json.loads(volfs(command, do.t.mnt, *options, "--json"))
    holds(volfs("where", do.t.mnt / "scratch", 4096).startswith("4096 1 image s0 4096"), "where")
    holds("volfs_" in do.t.text("metrics"), "no metrics")
    holds("vg0-root" in do.t.text("table"), do.t.text("table"))


def apply_a_change(do, path):
    path.write_text(path.read_text().replace("0 8192 linear s0 0", "0 4096 linear s0 0") +
                    "  applied: {table: 0 1024 linear s0 12288}\n")
    plan = volfs("apply", path, do.t.mnt, "--dry-run")
    holds("applied" in plan and "scratch" in plan and "- lv vg0/one" in plan, plan)
    # A group whose volumes are not listed keeps them all.
    text = path.read_text()
    text = text[:text.index("    logical_volumes:")] + text[text.index("maps:"):]
    path.write_text(text.replace("[d0, d1, d2]", "[d0, d1, d2, missing]"))
    told = lab_module.stderr_of(lab_module.VOLFS, "apply", path, do.t.mnt, "--yes")
    holds("has 3 slots on the mount and 4 in the definition; arrays are not grown" in told, told)
    path.write_text(text)
    volumes = [each for each in do.volumes() if each.startswith("vg0/")]
    told = lab_module.stderr_of(lab_module.VOLFS, "apply", path, do.t.mnt)
    holds("--yes" in told, told)
    volfs("apply", path, do.t.mnt, "--yes")
    equal(do.device("scratch")["size"], 4096 * 512, "scratch")
    equal([each for each in do.volumes() if each.startswith("vg0/")], volumes, "logical volumes")
    holds("applied" in do.volumes() and not do.device("d3") and not do.device("e0"), do.volumes())
    equal(volfs("apply", path, do.t.mnt), "nothing to do\n", "applied once more")


def overlay_of(t, images):
    """The array once more, with an overlay that is committed in part of what it does."""
    directory = t.path / "changes"
    t.mount(*images, options=[f"overlay={directory}"])
    sums = {"vg0/root": device_io.sha256(t.mnt / "vg0/root")}
    device_io.scribble(t.mnt / "vg0/root", 5, 10)
    holds(device_io.sha256(t.mnt / "vg0/root") != sums["vg0/root"], "nothing was written")
    t.umount()
    volfs("overlay", "status", directory)
    volfs("overlay", "discard", directory, "--yes")
    t.mount(*images, options=[f"overlay={directory}"])
    equal(device_io.sha256(t.mnt / "vg0/root"), sums["vg0/root"], "root after discard")
    device_io.scribble(t.mnt / "vg0/root", 6, 10)
    sums["vg0/root"] = device_io.sha256(t.mnt / "vg0/root")
    t.umount()
    volfs("overlay", "commit", directory, "--yes")
    return sums


def test_a_session(t):
    path = t.define(DEFINITION)
    volfs("create", path)
    t.mount(path)
    do = Session(t)
    events = subprocess.Popen([lab_module.VOLFS, "events", str(t.mnt)], stdout=subprocess.PIPE, text=True)
    t.cleanup.callback(events.wait)
    t.cleanup.callback(events.kill)
    with busy(t.mnt / "vg0/busy"):
        work_with_maps(do)
        work_with_the_array(do)
        made = work_with_a_new_array(do)
        sums = work_with_logical_volumes(do)
        work_with_snapshots(do)
        look(do)
        apply_a_change(do, path)
    sums["vg0/busy"] = device_io.sha256(t.mnt / "vg0/busy")
    t.umount()
    told, _ = events.communicate(timeout=30)
    kinds = {json.loads(line)["event"] for line in told.splitlines()}
    expected = {"member.failed", "sync.started", "sync.done", "volume.added", "volume.removed", "image.added"}
    equal(expected - kinds, set(), f"events that did not come, of {kinds}")
    images = [t.path / f"d{i}.img" for i in (0, 1, 2)]
    sums |= overlay_of(t, images)
    found = lvm_lab.in_guest(t, "mdadm --assemble --quiet /dev/md0 $d0 $d1 $d2; vgck vg0; vgchange -q -q -ay vg0", sorted(sums),
                             "".join(f"d{i}=$(attach d{i}.img)\n" for i in (0, 1, 2)))
    equal(found["sums"], sums, "volumes as volfs left them")
    checked = t.linux.check(f"""
        cd {t.path}
        mdadm --assemble --quiet /dev/md0 $(attach d0.img d1.img d2.img)
        echo check > /sys/block/md0/md/sync_action; mdadm --wait /dev/md0 || true
        echo mismatches $(cat /sys/block/md0/md/mismatch_cnt) state $(cat /sys/block/md0/md/degraded)
        mdadm --stop --quiet /dev/md0""")
    holds("mismatches 0 state 0" in checked, checked)
    found = lvm_lab.in_guest(t, "mdadm --assemble --quiet /dev/md7 $(attach e0.img e1.img e2.img)", ["md7"])
    equal(found["sums"], {"md7": made}, "an array that was made on a mount")


if __name__ == "__main__":
    kernel_lab.main(globals())
