# SPDX-License-Identifier: GPL-2.0-or-later
"""Arrays that are made, set up and taken down on a running mount."""
import json
import threading

import lab
from lab import MiB, VOLFS, equal, holds, run, stderr_of, volfs

DEFINITION = """
volfs: 1
images:
%s
volume_groups:
  vg0: {physical_volumes: [d6], logical_volumes: {a: {size: 12MiB}, b: {size: 12MiB}}}
"""


def fresh(t):
    images = "\n".join(f"  d{i}: {{path: d{i}.img, size: {40 if i == 6 else 16}MiB}}" for i in range(7))
    definition = t.define(DEFINITION % images)
    volfs("create", definition)
    t.mount(definition)
    return definition


def array(t, command, name, *words, **options):
    return volfs("array", command, t.mnt / name, *words, **options)


def refused(t, command, name, *words, status=1):
    return stderr_of(VOLFS, "array", command, t.mnt / name, *words, status=status)


def device(t, name):
    return next((d for d in t.status()["devices"] if d["name"] == name), None)


def test_created_stopped_and_assembled_again(t):
    fresh(t)
    array(t, "create", "md1", "--level=5", "--chunk=64", "-x", "1", "-n", "3", "d0", "d1", "d2", "d3")
    equal(device(t, "md1")["array"]["level"], "raid5", "the level")
    equal(device(t, "md1")["array"]["chunk"], 64 * 1024, "the chunk")
    array(t, "wait", "md1", "--timeout", "60")
    content = t.random.randbytes(8 * MiB)
    with open(t.mnt / "md1", "r+b") as file:
        file.write(content)
    array(t, "stop", "md1")
    holds(not (t.mnt / "md1").exists(), "md1 is still there")
    array(t, "assemble", "md9", "d3", "d1", "d0", "d2")
    with open(t.mnt / "md9", "rb") as file:
        equal(file.read(len(content)), content, "the data")
    array(t, "fail", "md9", "d1")
    array(t, "wait", "md9", "--timeout", "60")  # the spare
    equal(device(t, "md9")["state"], "active", "the state")
    # What stands on it keeps it, and a snapshot can be taken of it.
    volfs("snapshot", "create", t.mnt / "before", "--origin", "md9")
    holds("in use" in refused(t, "stop", "md9"), "stopped under a snapshot")
    volfs("snapshot", "remove", t.mnt / "before", "--yes")
    array(t, "stop", "md9")


def test_degraded_and_on_logical_volumes(t):
    fresh(t)
    array(t, "create", "half", "-l", "mirror", "d4", "missing", "-e", "1.0", "-N", "a-name", "--assume-clean")
    half = device(t, "half")
    equal((half["state"], half["array"]["metadata"], half["array"]["name"]), ("degraded", "1.0", "a-name"), "half")
    array(t, "create", "top", "-l", "raid1", "vg0/a", "vg0/b", "--bitmap=none")
    array(t, "wait", "top", "--timeout", "60")
    equal(sorted(device(t, "top")["devices"]), ["vg0-a", "vg0-b"], "what it stands on")
    holds("in use" in stderr_of(VOLFS, "lv", "remove", t.mnt / "vg0/a", "--yes"), "removed below an array")
    array(t, "stop", "top")
    array(t, "stop", "half")
    array(t, "assemble", "half", "d4", "--readonly")
    holds("raid1 d4" in (t.mnt / ".volfs/mdstat").read_text(), "not in mdstat")


def test_refusals(t):
    fresh(t)
    for words, text in (
            (("d0", "d1"), "--level is required"),
            (("-l", "5", "d0", "nothing"), "nothing: no such device"),
            (("-l", "5", "d0", "d1", "d0"), "d0: is given twice"),
            (("-l", "5", "d0", "d6", "d1"), "d6: in use by"),
            (("-l", "6", "d0", "d1"), "expected at least"),
            (("-l", "7", "d0", "d1", "d2"), "'raid7'"),
            (("-l", "1", "-c", "64", "d0", "d1"), "'chunk'"),
            (("-l", "5", "-p", "sideways", "d0", "d1", "d2"), "sideways"),
            (("-l", "1", "-N", "a: {b", "d0", "d1"), "expected a plain word"),
            (("-l", "1", "-n", "3", "d0", "d1"), "2 devices are given"),
            (("-l", "1", "-x", "2", "d0", "d1"), "2 devices are given")):
        status = 1 if "given" not in text or "twice" in text else 2
        status = 2 if "required" in text else status
        told = refused(t, "create", "md1", *words, status=status)
        holds(text in told, f"{words}: {told}")
        holds(device(t, "md1") is None, f"{words}: there is an md1")
    holds("name" in refused(t, "create", "d0", "-l", "1", "d1", "d2"), "a name that is taken")
    array(t, "create", "md1", "-l", "1", "d0", "d1", "--assume-clean")
    holds("in use by md1" in refused(t, "create", "md2", "-l", "1", "d1", "d2"), "a member of another")
    holds("in use by md1" in refused(t, "assemble", "md2", "d0", "d1"), "assembled twice")
    array(t, "stop", "md1")
    told = refused(t, "create", "md2", "-l", "1", "d1", "d2")
    holds("d1 holds a member of array" in told and "force" in told, told)
    told = refused(t, "create", "md2", "-l", "1", "d1", "d2", "--force", "--assume-clean")
    holds("d1: a member of array" in told and "--yes" in told, told)
    array(t, "create", "md2", "-l", "1", "d1", "d2", "--force", "--yes", "--assume-clean")
    array(t, "stop", "md2")
    holds("no members" in refused(t, "assemble", "md3", "d3") or "superblock" in refused(t, "assemble", "md3", "d3"),
          refused(t, "assemble", "md3", "d3"))
    t.umount()


def test_a_read_only_mount_makes_none(t):
    definition = fresh(t)
    t.umount()
    t.mount(definition, options=["ro"])
    holds("read-only" in refused(t, "create", "md1", "-l", "1", "d0", "d1"), "created on a read-only mount")


APPLIED = """
volfs: 1
images: {d0: {path: d0.img, size: 16MiB}, d1: {path: d1.img, size: 16MiB}, d2: {path: d2.img, size: 16MiB}}
arrays: {md1: {level: raid1, devices: [d0, d1], sync_speed_min: 100MiB}}
"""


def test_apply_brings_arrays_and_snapshots(t):
    definition = t.define(APPLIED)
    volfs("create", definition)
    definition.write_text(APPLIED[:APPLIED.index("arrays:")])
    t.mount(definition)
    definition.write_text(APPLIED)
    equal(volfs("apply", definition, t.mnt, "-n").splitlines(), ["+ array md1: of 2 devices"], "the plan")
    volfs("apply", definition, t.mnt, "--yes")
    array(t, "wait", "md1", "--timeout", "60")
    content = t.random.randbytes(MiB)
    with open(t.mnt / "md1", "r+b") as file:
        file.write(content)
    definition.write_text(APPLIED.replace("[d0, d1]", "[d0, d2]") +
                          "snapshots: {before: {origin: md1, cow: {path: before.cow, size: 8MiB}}}\n")
    plan = volfs("apply", definition, t.mnt, "-n").splitlines()
    equal(sorted(line.split(" (")[0] for line in plan),
          ["+ snapshot before: of md1", "~ array md1: member d2 instead of d1"], "the plan")
    volfs("apply", definition, t.mnt, "--yes")
    array(t, "wait", "md1", "--timeout", "60")
    equal(device(t, "md1")["state"], "active", "the state")
    equal({m["device"] for m in device(t, "md1")["array"]["members"]}, {"d0", "d2"}, "members")
    equal((t.mnt / "before").read_bytes()[:MiB], content, "the snapshot")
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")
    # What cannot be is said, and nothing is done.
    definition.write_text(APPLIED.replace("[d0, d1]", "[d0, d2, d1]"))
    told = stderr_of(VOLFS, "apply", definition, t.mnt, "--yes")
    holds("md1: has 2 slots on the mount and 3 in the definition" in told, told)
    definition.write_text(APPLIED.replace("[d0, d1]", "[d0, d2]").replace("raid1", "raid10"))
    told = stderr_of(VOLFS, "apply", definition, t.mnt, "--yes")
    holds("array md1: is a raid1 on the mount and a raid10 in the definition" in told, told)
    # All of it goes, from the top.
    definition.write_text(APPLIED[:APPLIED.index("arrays:")])
    equal([line.split(" (")[0] for line in volfs("apply", definition, t.mnt, "-n").splitlines()],
          ["- snapshot before", "- array md1"], "the plan back")
    volfs("apply", definition, t.mnt, "--yes")
    equal([d["name"] for d in t.status()["devices"]], ["d0", "d1", "d2"], "devices")


def test_many_at_once(t):
    """Of those that want the same members one wins, and every name is taken once."""
    fresh(t)
    results = []

    def create(name):
        results.append(run(VOLFS, "array", "create", t.mnt / name, "-l", "1", "d0", "d1", "--assume-clean", status=None))

    threads = [threading.Thread(target=create, args=(f"md{i % 3}",)) for i in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    arrays = [d for d in t.status()["devices"] if d["kind"] == "array"]
    equal(len(arrays), 1, "arrays")
    equal({m["device"] for m in arrays[0]["array"]["members"]}, {"d0", "d1"}, "its members")


if __name__ == "__main__":
    lab.main(globals())
