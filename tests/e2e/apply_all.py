# SPDX-License-Identifier: GPL-2.0-or-later
"""`volfs apply` says of everything that a definition says otherwise what becomes of it."""
import os

import lab
from lab import MiB, equal, holds, stderr_of, volfs

DEFINITION = """
volfs: 1
readonly: false
images:
  d0: {path: d0.img, size: 16MiB}
  d1: {path: d1.img, size: 16MiB}
  d2: {path: d2.img, size: 16MiB}
  p: {path: p.img, size: 32MiB}
  s: {path: s.img, size: 8MiB}
arrays:
  md0: {level: raid1, devices: [d0, d1], bitmap: internal, sync_speed_min: 100MiB}
volume_groups:
  vg:
    extent_size: 1MiB
    physical_volumes: [p]
    logical_volumes:
      root: {size: 8MiB, tags: [old], permission: rw}
      more: {extents: 2}
maps:
  m: {table: 0 8 linear s 0, uuid: first}
expose: {mode: 0640}
"""


def fresh(t):
    definition = t.define(DEFINITION)
    volfs("create", definition)
    t.mount(definition)
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "an unchanged definition")
    return definition


def test_what_takes_a_new_mount_is_said(t):
    definition = fresh(t)
    for old, new, words in (
            ("readonly: false", "readonly: true", "the mount: readonly is false on the mount and true"),
            ("mode: 0640", "mode: 0600", "expose: mode is 0640 on the mount and 0600"),
            ("mode: 0640", "mode: 0640, owner: 12", "expose: owner is not given on the mount and 12"),
            ("mode: 0640", "mode: 0640, hidden: true", "expose: hidden is false on the mount and true"),
            ("uuid: first", "uuid: other", "map m: uuid is first on the mount and other"),
            ("uuid: first", "uuid: first, hidden: true", "map m: hidden is false on the mount and true"),
            ("bitmap: internal", "bitmap: internal, hidden: true", "array md0: hidden is false"),
            ("bitmap: internal", "bitmap: none", "array md0: bitmap is internal on the mount and none"),
            ("bitmap: internal", "metadata: '1.0'", "array md0: metadata is 1.2 on the mount and 1.0"),
            ("tags: [old]", "tags: [new]", 'lv vg/root: tags is ["old"] on the mount and ["new"]'),
            ("permission: rw", "permission: r", "lv vg/root: permission is rw on the mount and r"),
            ("extent_size: 1MiB", "extent_size: 2MiB", "volume group vg: extent_size is 1048576")):
        holds(old in DEFINITION, old)
        definition.write_text(DEFINITION.replace(old, new))
        told = stderr_of(lab.VOLFS, "apply", definition, t.mnt, "--yes")
        holds(words in told and "takes a new mount" in told, f"{new}: {told}")
    definition.write_text(DEFINITION)
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "the old one again")


def test_logical_volumes_go_out_of_sight_and_come_back_and_count_in_extents(t):
    definition = fresh(t)
    definition.write_text(DEFINITION.replace("{size: 8MiB, ", "{size: 8MiB, active: false, ").replace("extents: 2", "extents: 3"))
    equal(volfs("apply", definition, t.mnt, "-n").splitlines(),
          ["- lv vg/root: its file (the volume stays)", "~ lv vg/more: 3.00M instead of 2.00M"], "the plan")
    volfs("apply", definition, t.mnt, "--yes")
    equal((os.listdir(t.mnt / "vg"), (t.mnt / "vg/more").stat().st_size), (["more"], 3 * MiB), "volumes")
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")
    definition.write_text(DEFINITION.replace("extents: 2", "extents: 3"))
    equal(volfs("apply", definition, t.mnt, "-n"), "+ lv vg/root: its file\n", "the plan back")
    volfs("apply", definition, t.mnt, "--yes")
    equal(sorted(os.listdir(t.mnt / "vg")), ["more", "root"], "volumes")


def test_speeds_of_sync_follow_at_once(t):
    definition = fresh(t)
    definition.write_text(DEFINITION.replace("sync_speed_min: 100MiB", "sync_speed_min: 2MiB, sync_speed_max: 300MiB"))
    equal(volfs("apply", definition, t.mnt, "-n"), "~ array md0: synced by 2.00M to 300M a second\n", "the plan")
    volfs("apply", definition, t.mnt, "--yes")
    now = [d["array"] for d in t.status()["devices"] if d["name"] == "md0"][0]
    equal((now["sync_speed_min"], now["sync_speed_max"]), (2 * MiB, 300 * MiB), "speeds")
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")


def test_a_member_is_replaced_by_the_one_in_its_place(t):
    definition = fresh(t)
    volfs("array", "wait", t.mnt / "md0", "--timeout", "60")
    content = t.random.randbytes(MiB)
    (t.mnt / "md0").open("r+b", buffering=0).write(content)
    definition.write_text(DEFINITION.replace("devices: [d0, d1]", "devices: [d0, d2]"))
    plan = volfs("apply", definition, t.mnt, "-n")
    equal(plan, "~ array md0: member d2 instead of d1 (what is on d2 is overwritten)\n", "the plan")
    volfs("apply", definition, t.mnt, "--yes")
    members = {m["device"]: m["state"] for d in t.status()["devices"] if d["name"] == "md0" for m in d["array"]["members"]}
    equal(members, {"d0": "in_sync", "d2": "in_sync"}, "members")
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")
    t.umount()
    t.mount(definition)
    equal((t.mnt / "md0").open("rb").read(MiB), content, "the array after a new mount")


if __name__ == "__main__":
    lab.main(globals())
