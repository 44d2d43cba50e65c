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


STRIPES = """
volfs: 1
images: {a: {path: a.img, size: 16MiB}, b: {path: b.img, size: 16MiB}, c: {path: c.img, size: 16MiB}}
volume_groups:
  vg: {physical_volumes: [a, b, c], extent_size: 1MiB,
    logical_volumes: {r: {type: raid5, stripes: 2, size: 5MiB}, s: {stripes: 3, size: 4MiB}}}
"""


def sizes(t):
    return {path.name: path.stat().st_size >> 20 for path in (t.mnt / "vg").iterdir()}


def test_sizes_are_rounded_as_where_a_volume_is_made(t):
    definition = t.define(STRIPES)
    volfs("create", definition)
    t.mount(definition)
    equal((sizes(t), volfs("apply", definition, t.mnt)), ({"r": 6, "s": 6}, "nothing to do\n"), "made")
    definition.write_text(STRIPES.replace("size: 5MiB", "size: 9MiB").replace("size: 4MiB", "size: 8MiB"))
    equal(plan(t, definition).splitlines(), ["~ lv vg/r: 10MiB instead of 6MiB", "~ lv vg/s: 9MiB instead of 6MiB"], "the plan")
    volfs("apply", definition, t.mnt, "--yes")
    equal((sizes(t), volfs("apply", definition, t.mnt)), ({"r": 10, "s": 9}, "nothing to do\n"), "grown")
    definition.write_text(STRIPES)
    volfs("apply", definition, t.mnt, "--yes")
    equal((sizes(t), volfs("apply", definition, t.mnt)), ({"r": 6, "s": 6}, "nothing to do\n"), "made smaller")


MAPS = """
volfs: 1
images: {z: {path: z.img, size: 8MiB}}
maps:
  below: {table: 0 8192 linear z 0}
  one: {table: 0 2048 linear below 0}
  of: {table: 0 2048 linear below 4096}
snapshots:
  s: {origin: of, cow: {path: s.cow, size: 2MiB}}
"""


def test_maps_that_are_suspended_or_have_a_table_loaded_go_on(t):
    definition = t.define(MAPS)
    volfs("create", definition)
    t.mount(definition)
    mount = client.Mount(t.mnt)
    for name, real in (("one", "one"), ("of", "of-real"), ("of", "of")):
        mount.request("map.suspend", map=real)
        equal(plan(t, definition), f"~ map {name}: resume\n", "the plan")
        if real != "of":
            mount.request("map.load", map=real, table="0 8 zero")
            equal(plan(t, definition), f"~ map {name}: resume, without the table that is loaded beside\n", "the plan")
        volfs("apply", definition, t.mnt, "--yes")
        equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")
        equal((t.mnt / name).stat().st_size, 1 << 20, "size")
    mount.request("map.load", map="one", table="0 8 zero")
    equal(plan(t, definition), "~ map one: without the table that is loaded beside\n", "the plan")
    mount.request("map.suspend", map="one")
    definition.write_text(MAPS.replace("0 2048 linear below 0", "0 4096 linear below 0"))
    equal(plan(t, definition), "~ map one: another table, 2MiB instead of 1MiB\n", "the plan")
    volfs("apply", definition, t.mnt, "--yes")
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")


def test_another_table_comes_as_a_whole_though_apply_is_killed(t):
    definition = t.define(MAPS)
    volfs("create", definition)
    slow_below = MAPS.replace("0 8192 linear z 0", "0 8192 delay z 0 1000")
    definition.write_text(slow_below)
    t.mount(definition)
    reader = subprocess.Popen(["dd", f"if={t.mnt / 'one'}", "of=/dev/null", "bs=4k", "count=1", "iflag=direct"],
                              stderr=subprocess.DEVNULL)
    other = slow_below.replace("0 2048 linear below 0", "0 2048 linear below 6144")
    definition.write_text(other)
    first = subprocess.Popen([lab.VOLFS, "apply", definition, t.mnt, "--yes"], stdout=subprocess.PIPE)
    first.stdout.readline()  # what it will do
    first.kill()
    first.wait()
    reader.wait()

    def one():
        return next(device["map"] for device in t.status()["devices"] if device["name"] == "one")

    # What was asked for goes on without who asked, and ends.
    lab.wait_until(lambda: not one()["suspended"], "a map that goes on")
    equal(one()["inactive_table"], False, "what the killed one left")
    volfs("apply", definition, t.mnt, "--yes")
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")


def test_a_swap_that_fails_leaves_all_as_it_was(t):
    definition = t.define(MAPS)
    volfs("create", definition)
    t.mount(definition)
    mount = client.Mount(t.mnt)
    mount.request("map.create", map="big", table="0 8192 linear z 0")
    for suspended in (False, True):
        if suspended:
            mount.request("map.suspend", map="big")
        mount.request("map.load", map="big", table="0 16 zero")
        for table in ("0 8 linear nothing 0", "0 8 linear z 99999999", "0 8 linear one 0\n8 8 linear big 0", "0 8"):
            try:
                mount.request("map.swap", map="big", table=table)
            except client.Error:
                pass
            else:
                raise lab.Failed(f"{table}: was swapped in")
            now = next(device for device in t.status()["devices"] if device["name"] == "big")
            equal((now["map"]["suspended"], now["map"]["inactive_table"], now["size"], now["map"]["table"]),
                  (suspended, True, 4 << 20, "0 8192 linear z 0\n"), f"after {table}")
    mount.request("map.swap", map="big", table="0 16 linear z 8")
    now = next(device for device in t.status()["devices"] if device["name"] == "big")
    equal((now["map"]["suspended"], now["map"]["inactive_table"], (t.mnt / "big").stat().st_size),
          (False, False, 16 * 512), "afterwards")


def test_an_image_that_is_not_there_is_told_first(t):
    definition = t.define(MAPS)
    volfs("create", definition)
    t.mount(definition)
    definition.write_text(MAPS.replace("z.img, size: 8MiB}", "z.img, size: 8MiB}, y: y.img")
                          .replace("maps:\n", "maps:\n  early: {table: 0 8 zero}\n"))
    for options in (["--dry-run"], ["--yes"]):
        told = lab.stderr_of(lab.VOLFS, "apply", definition, t.mnt, *options)
        holds("image y: " in told and "y.img: No such file" in told, told)
    equal((t.mnt / "early").exists(), False, "what a refused apply did")


if __name__ == "__main__":
    lab.main(globals())
