# SPDX-License-Identifier: GPL-2.0-or-later
"""`volfs apply` goes on where another one, or a hand, has left off, and loses nothing meanwhile."""
import pathlib
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients/python"))

import lab
import volfs as client
from lab import equal, holds, stderr_of, volfs

RAID5 = """
volfs: 1
images: {d0: {path: d0.img, size: 16MiB}, d1: {path: d1.img, size: 16MiB}, d2: {path: d2.img, size: 16MiB},
  d3: {path: d3.img, size: 16MiB}, d4: {path: d4.img, size: 16MiB}}
arrays:
  md0: {level: raid5, devices: [d0, d1, d2], assume_clean: true, sync_speed_min: 100MiB}
"""
NEW = RAID5.replace("[d0, d1, d2]", "[d0, d3, d2]")
OVERWRITTEN = "(what is on {} is overwritten)"


def raid5(t):
    definition = t.define(RAID5)
    volfs("create", definition)
    t.mount(definition)
    (t.mnt / "md0").open("r+b", buffering=0).write(t.random.randbytes(1 << 20))
    return definition, client.Mount(t.mnt)


def array(t):
    return next(device["array"] for device in t.status()["devices"] if device["name"] == "md0")


def members(t):
    return {each["device"]: each["state"] for each in array(t)["members"]}


def plan(t, definition):
    return volfs("apply", definition, t.mnt, "-n")


def slow(mount):
    mount.request("array.speed", array="md0", min=1, max=1 << 10)


def fast(mount):
    mount.request("array.speed", array="md0", min=100 << 20, max=200 << 20)


def follows(t, definition, content, expected):
    """Carries the plan out, with the array whole at each look that is taken meanwhile."""
    volfs("apply", definition, t.mnt, "--yes")
    equal(members(t), expected, "members")
    equal(lab.sha256(t.mnt / "md0"), content, "what the array holds")
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")


def test_a_replacement_that_runs_is_waited_for(t):
    definition, mount = raid5(t)
    content = lab.sha256(t.mnt / "md0")
    slow(mount)
    definition.write_text(NEW.replace(", sync_speed_min: 100MiB", ""))
    first = subprocess.Popen([lab.VOLFS, "apply", definition, t.mnt, "--yes"], stdout=subprocess.DEVNULL)
    lab.wait_until(lambda: members(t).get("d3") == "recovering", "the replacement")
    first.send_signal(signal.SIGKILL)
    first.wait()
    equal(plan(t, definition), "~ array md0: member d3 instead of d1, which it is replacing already\n", "the plan")
    # Who replaces by hand and edits the definition first gets the same; another one stops it.
    definition.write_text(NEW.replace("d3, d2]", "d4, d2]").replace(", sync_speed_min: 100MiB", ""))
    equal(plan(t, definition), f"~ array md0: member d4 instead of d1 {OVERWRITTEN.format('d4')}\n", "another plan")
    definition.write_text(RAID5.replace("[d0, d1, d2]", "[d0, d1, d3]"))
    holds("d3 is just replacing d1, and the definition has both" in
          stderr_of(lab.VOLFS, "apply", definition, t.mnt, "-n"), "two places for one")
    definition.write_text(NEW)
    fast(mount)
    equal(array(t)["sync_speed_min"], 100 << 20, "speed")
    follows(t, definition, content, {"d0": "in_sync", "d2": "in_sync", "d3": "in_sync"})


def test_another_takes_the_place_of_who_is_replacing(t):
    definition, mount = raid5(t)
    content = lab.sha256(t.mnt / "md0")
    slow(mount)
    mount.request("array.add", array="md0", device="d3")
    mount.request("array.replace", array="md0", device="d1")
    lab.wait_until(lambda: members(t).get("d3") == "recovering", "the replacement")
    mount.request("array.replace", array="md0", device="d1", **{"with": "d3"})
    definition.write_text(NEW.replace("d3, d2]", "d4, d2]"))
    holds("cannot be synced by 100MiB to 1KiB a second" in
          stderr_of(lab.VOLFS, "apply", definition, t.mnt, "-n"), "speeds that do not go together")
    fast(mount)
    follows(t, definition, content, {"d0": "in_sync", "d2": "in_sync", "d4": "in_sync"})


def test_a_spare_that_was_to_replace_does(t):
    definition, mount = raid5(t)
    content = lab.sha256(t.mnt / "md0")
    mount.request("array.add", array="md0", device="d3")
    definition.write_text(NEW)
    equal(plan(t, definition), "~ array md0: member d3 instead of d1, a spare\n", "the plan")
    follows(t, definition, content, {"d0": "in_sync", "d2": "in_sync", "d3": "in_sync"})


def test_a_member_that_failed_and_is_listed_comes_anew(t):
    definition, mount = raid5(t)
    content = lab.sha256(t.mnt / "md0")
    mount.request("array.fail", array="md0", device="d1")
    equal(plan(t, definition), f"~ array md0: member d1 anew, which has failed {OVERWRITTEN.format('it')}\n", "the plan")
    volfs("apply", definition, t.mnt, "--yes")
    volfs("array", "wait", t.mnt / "md0")
    follows(t, definition, content, {"d0": "in_sync", "d1": "in_sync", "d2": "in_sync"})


def test_a_spare_in_a_members_place_becomes_the_spare_again(t):
    definition, mount = raid5(t)
    content = lab.sha256(t.mnt / "md0")
    definition.write_text(RAID5.replace("[d0, d1, d2]", "[d0, d3, d2], spares: [d1]"))
    equal(plan(t, definition),
          f"~ array md0: member d3 instead of d1 {OVERWRITTEN.format('d3')}; d1 becomes a spare\n", "the plan")
    follows(t, definition, content, {"d0": "in_sync", "d1": "spare", "d2": "in_sync", "d3": "in_sync"})
    # After a failure that the spare made good.
    mount.request("array.fail", array="md0", device="d2")
    volfs("array", "wait", t.mnt / "md0")
    equal(members(t), {"d0": "in_sync", "d1": "in_sync", "d2": "faulty", "d3": "in_sync"}, "members")
    follows(t, definition, content, {"d0": "in_sync", "d1": "spare", "d2": "in_sync", "d3": "in_sync"})
    # The order alone is of no account.
    definition.write_text(RAID5.replace("[d0, d1, d2]", "[d3, d2, d0], spares: [d1]"))
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "another order")


if __name__ == "__main__":
    lab.main(globals())
