# SPDX-License-Identifier: GPL-2.0-or-later
"""`volfs apply` says of everything that a definition says otherwise what becomes of it."""
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients/python"))

import lab
import volfs as client
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
  s2: {path: s2.img, size: 8MiB}
  q: {path: q.img, size: 16MiB}
  p2: {path: p2.img, size: 16MiB}
  p3: {path: p3.img, size: 16MiB}
arrays:
  md0: {level: raid1, devices: [d0, d1], bitmap: internal, sync_speed_min: 100MiB}
volume_groups:
  vg:
    extent_size: 1MiB
    physical_volumes: [p]
    logical_volumes:
      root: {size: 8MiB, tags: [old], permission: rw}
      more: {extents: 2}
      snap: {type: snapshot, origin: root, size: 2MiB}
  wide: {physical_volumes: [q, p2, p3], extent_size: 1MiB, logical_volumes: {two: {size: 4MiB, stripes: 2},
    pair: {size: 1MiB, type: raid1, mirrors: 1}}}
snapshots:
  before: {origin: m, cow: {path: before.cow, size: 1MiB}}
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


NEW_MOUNT, DISKS = "which takes a new mount", "which is so on the disks"


def test_what_cannot_follow_is_said(t):
    definition = fresh(t)
    for old, new, words, takes in (
            ("readonly: false", "readonly: true", "the mount: readonly is false on the mount and true", NEW_MOUNT),
            ("mode: 0640", "mode: 0600", "expose: mode is 0640 on the mount and 0600", NEW_MOUNT),
            ("mode: 0640", "mode: 0640, owner: 12", "expose: owner is not given on the mount and 12", NEW_MOUNT),
            ("mode: 0640", "mode: 0640, hidden: true", "expose: hidden is false on the mount and true", NEW_MOUNT),
            ("uuid: first", "uuid: other", "map m: uuid is first on the mount and other", NEW_MOUNT),
            ("uuid: first", "uuid: first, hidden: true", "map m: hidden is false on the mount and true", NEW_MOUNT),
            ("s.img, size: 8MiB", "s.img, offset: 4KiB", "image s: offset is 0 on the mount and 4KiB", NEW_MOUNT),
            ("s.img, size: 8MiB", "s.img, length: 4MiB", "image s: length is 0 on the mount and 4MiB", NEW_MOUNT),
            ("s.img, size: 8MiB", "s.img, direct: true", "image s: direct is false on the mount and true", NEW_MOUNT),
            ("s.img, size: 8MiB", "s.img, pad: 9MiB", "image s: pad is 0 on the mount and 9MiB", NEW_MOUNT),
            ("s.img, size: 8MiB", "s.img, readonly: true", "image s: readonly is false on the mount", NEW_MOUNT),
            ("s.img, size: 8MiB", "s.img, size: 16MiB", "image s: size is 8MiB on the mount and 16MiB", "new files only"),
            ("s.img, size: 8MiB", "s.img, partition: 2", "image s: partition is 0 on the mount and 2", NEW_MOUNT),
            ("bitmap: internal", "bitmap: internal, hidden: true", "array md0: hidden is false", NEW_MOUNT),
            ("bitmap: internal", "bitmap: internal, readonly: true", "array md0: readonly is false", NEW_MOUNT),
            ("bitmap: internal", "bitmap: none", "array md0: bitmap is internal on the mount and none", DISKS),
            ("bitmap: internal", "metadata: '1.0'", "array md0: metadata is 1.2 on the mount and 1.0", DISKS),
            ("bitmap: internal", "bitmap_chunk: 128MiB", "array md0: bitmap_chunk is", DISKS),
            ("bitmap: internal", "write_behind: 9", "array md0: write_behind is 0 on the mount and 9", DISKS),
            ("bitmap: internal", "consistency: resync", "array md0: consistency is bitmap on the mount and resync", DISKS),
            ("bitmap: internal", "size: 8MiB", "array md0: size is", DISKS),
            ("bitmap: internal", "data_offset: 4MiB", "array md0: member d0: data_offset is", DISKS),
            ("bitmap: internal", "name: other", "array md0: name is md0 on the mount and other", DISKS),
            ("[d0, d1]", "[d0, {device: d1, write_mostly: true}]", "member d1: write_mostly is false", DISKS),
            ("[d0, d1]", "[d0, {device: d1, failfast: true}]", "member d1: failfast is false", DISKS),
            ("extent_size: 1MiB", "extent_size: 2MiB", "volume group vg: extent_size is 1MiB", DISKS),
            ("extent_size: 1MiB", "tags: [fast]", 'volume group vg: tags is [] on the mount and ["fast"]', DISKS),
            ("extent_size: 1MiB", "alloc: anywhere", "volume group vg: alloc is normal on the mount and any", DISKS),
            ("extent_size: 1MiB", "readonly: true", "volume group vg: readonly is false on the mount", NEW_MOUNT),
            ("extent_size: 1MiB", "activation: partial", "volume group vg: activation is degraded", NEW_MOUNT),
            ("[p]", "[{device: p, tags: [slow]}]", 'vg: p: tags is [] on the mount and ["slow"]', DISKS),
            ("[p]", "[{device: p, allocatable: false}]", "vg: p: allocatable is true on the mount", DISKS),
            ("[p]", "[p, s2]", "volume group vg: s2 of the definition is no physical volume of it", "vgextend"),
            ("{extents: 2}", "{extents: 2, type: error}", "lv vg/more: type is linear on the mount and error", DISKS),
            ("{extents: 2}", "{extents: 2, hidden: true}", "lv vg/more: hidden is false on the mount", NEW_MOUNT),
            ("{extents: 2}", "{extents: 2, activation: partial}", "lv vg/more: activation is degraded", NEW_MOUNT),
            ("{extents: 2}", "{extents: 2, alloc: cling}", "lv vg/more: alloc is inherit on the mount and cling", DISKS),
            ("[q, p2, p3]", "[q, p2]", "volume group wide: p3 is a physical volume of it and not in the definition", "vgreduce"),
            ("stripes: 2", "stripes: 2, stripe_size: 8KiB", "lv wide/two: stripe_size is 64KiB on the mount", DISKS),
            ("stripes: 2}", "stripes: 2, physical_volumes: [q, p3]}",
             'lv wide/two: physical_volumes is ["q","p2"] on the mount and ["p3","q"] in the definition', "pvmove"),
            ("type: raid1, mirrors: 1", "type: raid1, mirrors: 1, nosync: true", "lv wide/pair: nosync is false on the mount", DISKS),
            ("  wide: {", "  narrow: {", "volume group narrow: q is a physical volume of wide; only lvm2 renames a group", "vgrename"),
            ("{extents: 2}", "{extents: 2}\n      huge: {size: 20MiB}", "vg/huge: not enough free extents", ""),
            ("{extents: 2}", "{size: 30MiB}", "vg/more: not enough free extents", ""),
            ("{extents: 2}", "{extents: 2}\n      a: {size: 10MiB}\n      b: {size: 10MiB}", "vg/b: not enough free extents", ""),
            ("stripes: 2", "type: linear", "lv wide/two: type is striped on the mount and linear", DISKS),
            ("origin: root, size: 2MiB", "origin: root, size: 1MiB", "the store of a snapshot does not become smaller", ""),
            ("origin: root, size: 2MiB", "origin: root, size: 2MiB, chunk_size: 8KiB", "lv vg/snap: chunk_size is 4KiB", DISKS),
            ("origin: m, cow", "origin: m, overflow: true, cow", "snapshot before: its persistence is P on the mount", "another"),
            ("origin: m, cow", "origin: m, readonly: true, cow", "snapshot before: its readonly is false on", "another")):
        holds(old in DEFINITION, old)
        definition.write_text(DEFINITION.replace(old, new, 1))
        told = stderr_of(lab.VOLFS, "apply", definition, t.mnt, "--yes")
        holds(any(words in line and takes in line for line in told.splitlines()), f"{new}: {told}")
        holds("steps are done" not in told, f"{new}: {told}")
    definition.write_text(DEFINITION)
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "the old one again")


def attributes(t, name):
    return next((lv["tags"], lv["writable"]) for group in t.status()["volume_groups"]
                for lv in group["logical_volumes"] if lv["name"] == name)


def test_tags_permission_and_stores_follow_at_once(t):
    definition = fresh(t)
    for text, plan, now in (("tags: [new, two], permission: r", "~ lv vg/root: tags new, two instead of old, read-only\n",
                             (["new", "two"], False)),
                            ("tags: []", "~ lv vg/root: tags none instead of new, two\n", ([], False)),
                            ("permission: rw", "~ lv vg/root: writable\n", ([], True))):
        definition.write_text(DEFINITION.replace("tags: [old], permission: rw", text))
        equal(volfs("apply", definition, t.mnt, "-n"), plan, "the plan")
        volfs("apply", definition, t.mnt, "--yes")
        equal(attributes(t, "root"), now, text)
        equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")
    definition.write_text(DEFINITION.replace("tags: [old], permission: rw", "active: true")
                          .replace("origin: root, size: 2MiB", "origin: root, size: 3MiB"))
    equal(volfs("apply", definition, t.mnt, "-n"), "~ lv vg/snap: 3MiB instead of 2MiB\n", "the plan")
    volfs("apply", definition, t.mnt, "--yes")
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")


GROUP = """
  x0: {path: x0.img, size: 16MiB}
  x1: {path: x1.img, size: 16MiB}
"""
GROUPS = """
  xvg:
    physical_volumes: [x0, x1]
    extent_size: 1MiB
    logical_volumes: {a: {size: 4MiB, physical_volumes: [x0]}, b: {size: 4MiB, physical_volumes: [x1]}}
"""


def test_volume_groups_come_become_whole_and_leave(t):
    definition = fresh(t)
    other = t.define(f"volfs: 1\nimages:{GROUP}volume_groups:{GROUPS}", "other.yaml")
    volfs("create", other)
    with_group = DEFINITION.replace("images:", f"images:{GROUP.rstrip()}").replace("volume_groups:", f"volume_groups:{GROUPS.rstrip()}")
    half = with_group.replace("  x1: {path: x1.img, size: 16MiB}\n", "").replace("[x0, x1]", "[x0]").replace(
        ", b: {size: 4MiB, physical_volumes: [x1]}", ", b: {size: 4MiB}")
    definition.write_text(half)
    plan = volfs("apply", definition, t.mnt, "-n")
    holds("+ volume group xvg: on x0 (with the volumes that its devices tell of)\n" in plan, plan)
    volfs("apply", definition, t.mnt, "--yes")
    equal(os.listdir(t.mnt / "xvg"), ["a"], "what half a group shows")
    (t.mnt / "xvg/a").open("r+b", buffering=0).write(b"a" * MiB)
    definition.write_text(with_group)
    plan = volfs("apply", definition, t.mnt, "-n")
    holds("~ volume group xvg: with x1, which it misses\n" in plan, plan)
    volfs("apply", definition, t.mnt, "--yes")
    equal(sorted(os.listdir(t.mnt / "xvg")), ["a", "b"], "what the whole group shows")
    (t.mnt / "xvg/b").open("r+b", buffering=0).write(b"b" * MiB)
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")
    volfs("map", "create", t.mnt / "on", "--table", "0 8 linear xvg/a 0")
    definition.write_text(DEFINITION)
    equal(volfs("apply", definition, t.mnt, "-n").splitlines(),
          ["- map on", "- volume group xvg: its files (the volumes stay)", "- image x1", "- image x0"], "the plan back")
    with open(t.mnt / "xvg/b", "rb"):
        holds("xvg/b: in use" in stderr_of(lab.VOLFS, "apply", definition, t.mnt, "--yes"), "an open volume")
    volfs("apply", definition, t.mnt, "--yes")
    holds(not (t.mnt / "xvg").exists(), "the group is still there")
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied back")
    t.umount()
    t.mount(other)
    equal(((t.mnt / "xvg/a").open("rb").read(MiB), (t.mnt / "xvg/b").open("rb").read(MiB)), (b"a" * MiB, b"b" * MiB),
          "what was written")


def test_logical_volumes_go_out_of_sight_and_come_back_and_count_in_extents(t):
    definition = fresh(t)
    definition.write_text(DEFINITION.replace("{size: 8MiB, ", "{size: 8MiB, active: false, ").replace("extents: 2", "extents: 3"))
    equal(volfs("apply", definition, t.mnt, "-n").splitlines(),
          ["- lv vg/root: its file (the volume stays)", "~ lv vg/more: 3MiB instead of 2MiB"], "the plan")
    volfs("apply", definition, t.mnt, "--yes")
    equal((sorted(os.listdir(t.mnt / "vg")), (t.mnt / "vg/more").stat().st_size), (["more"], 3 * MiB), "volumes")
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")
    definition.write_text(DEFINITION.replace("extents: 2", "extents: 3"))
    equal(volfs("apply", definition, t.mnt, "-n"), "+ lv vg/root: its file\n", "the plan back")
    volfs("apply", definition, t.mnt, "--yes")
    equal(sorted(os.listdir(t.mnt / "vg")), ["more", "root", "snap"], "volumes")


def test_speeds_of_sync_follow_at_once(t):
    definition = fresh(t)
    definition.write_text(DEFINITION.replace("sync_speed_min: 100MiB", "sync_speed_min: 2MiB, sync_speed_max: 300MiB"))
    equal(volfs("apply", definition, t.mnt, "-n"), "~ array md0: synced by 2MiB to 300MiB a second\n", "the plan")
    volfs("apply", definition, t.mnt, "--yes")
    now = [d["array"] for d in t.status()["devices"] if d["name"] == "md0"][0]
    equal((now["sync_speed_min"], now["sync_speed_max"]), (2 * MiB, 300 * MiB), "speeds")
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")
    # What was set by hand stays where the definition says nothing of it.
    definition.write_text(DEFINITION.replace(", sync_speed_min: 100MiB", ""))
    client.Mount(t.mnt).request("array.speed", array="md0", min=3 * MiB)
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "a definition without speeds")


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


def test_what_grows_keeps_to_its_devices(t):
    definition = fresh(t)
    held = DEFINITION.replace("stripes: 2}", "stripes: 2}, one: {size: 2MiB, physical_volumes: [p3]}")
    definition.write_text(held)
    volfs("apply", definition, t.mnt, "--yes")
    definition.write_text(held.replace("one: {size: 2MiB", "one: {size: 4MiB"))
    volfs("apply", definition, t.mnt, "--yes")
    of = {lv["name"]: lv["physical_volumes"] for group in t.status()["volume_groups"] for lv in group["logical_volumes"]}
    equal((of["one"], of["two"], of["root"]), (["p3"], ["q", "p2"], ["p"]), "where volumes are")
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")


def test_what_goes_makes_room_for_what_comes(t):
    definition = fresh(t)
    # All but two of the 31 extents are taken, and an origin goes with its snapshot.
    taken = DEFINITION.replace("more: {extents: 2}", "more: {extents: 19}")
    definition.write_text(taken)
    volfs("apply", definition, t.mnt, "--yes")
    swapped = taken.replace("root: {size: 8MiB, tags: [old], permission: rw}", "new: {size: 10MiB}") \
        .replace("      snap: {type: snapshot, origin: root, size: 2MiB}\n", "")
    definition.write_text(swapped)
    plan = volfs("apply", definition, t.mnt, "--dry-run")
    places = [plan.index(word) for word in ("- lv vg/snap", "- lv vg/root", "+ lv vg/new")]
    equal(places, sorted(places), f"the order of\n{plan}")
    volfs("apply", definition, t.mnt, "--yes")
    equal(sorted(path.name for path in (t.mnt / "vg").iterdir()), ["more", "new"], "volumes")
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")
    definition.write_text(swapped.replace("new: {size: 10MiB}", "newer: {size: 14MiB}"))
    holds("vg/newer: not enough free extents" in stderr_of(lab.VOLFS, "apply", definition, t.mnt, "--yes"), "too much")
    # Reduced before another grows; what a map stands on goes after the map.
    definition.write_text(swapped.replace("extents: 19", "extents: 25").replace("new: {size: 10MiB}", "new: {size: 4MiB}")
                          .replace("maps:\n", "maps:\n  on: {table: 0 8 linear vg/more 0}\n"))
    volfs("apply", definition, t.mnt, "--yes")
    definition.write_text(swapped.replace("      more: {extents: 19}\n", "").replace("new: {size: 10MiB}", "new: {size: 4MiB}"))
    volfs("apply", definition, t.mnt, "--yes")
    equal(sorted(path.name for path in (t.mnt / "vg").iterdir()), ["new"], "volumes")


RENAMED = """
volfs: 1
images: {a: {path: a.img, size: 16MiB}, b: {path: b.img, size: 16MiB}, p: {path: p.img, size: 16MiB},
  q: {path: q.img, size: 16MiB}}
arrays: {md0: {level: raid1, devices: [a, b], assume_clean: true}}
volume_groups: {vg: {physical_volumes: [p], extent_size: 1MiB, logical_volumes: {lv: {size: 8MiB}}}}
maps:
  on: {table: 0 64 linear md0 0}
  stays: {table: 0 64 linear vg/lv 0}
"""


def test_what_goes_frees_its_images_for_what_comes(t):
    """Names change: the same members are another array, and the map on it another map."""
    definition = t.define(RENAMED)
    volfs("create", definition, "--yes")
    t.mount(definition)
    (t.mnt / "md0").write_bytes(b"kept" * 16)
    renamed = RENAMED.replace("md0", "data").replace("  on:", "  over:")
    definition.write_text(renamed)
    plan = volfs("apply", definition, t.mnt, "--dry-run")
    places = [plan.index(word) for word in ("- map on", "- array md0", "+ array data", "+ map over")]
    equal(places, sorted(places), f"the order of\n{plan}")
    volfs("apply", definition, t.mnt, "--yes")
    equal((t.mnt / "over").read_bytes()[:64], b"kept" * 16, "bytes")
    # What stays on something that goes has another table first.
    definition.write_text(renamed.replace("arrays: {data: {level: raid1, devices: [a, b], assume_clean: true}}\n", "")
                          .replace("volume_groups: {vg: {physical_volumes: [p], extent_size: 1MiB, "
                                   "logical_volumes: {lv: {size: 8MiB}}}}\n", "")
                          .replace("linear data 0", "linear q 2048").replace("linear vg/lv 0", "linear q 4096"))
    volfs("apply", definition, t.mnt, "--yes")
    equal(sorted(path.name for path in t.mnt.iterdir() if path.name != ".volfs"), ["over", "stays"], "what is left")
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")


STACK = """
volfs: 1
images: {a: {path: a.img, size: 16MiB}, b: {path: b.img, size: 16MiB}, c: {path: c.img, size: 16MiB},
  e: {path: e.img, size: 16MiB}, p: {path: p.img, size: 32MiB}, z: {path: z.img, size: 8MiB}}
arrays:
  md0: {level: raid5, devices: [a, b, c], spares: [e], assume_clean: true, sync_speed_min: 100MiB}
volume_groups:
  vg: {physical_volumes: [p], extent_size: 1MiB, logical_volumes: {new: {size: 16MiB}}}
maps:
  o: {table: 0 8192 linear z 0, uuid: own}
  two: {table: 0 2048 linear vg/new 0}
snapshots:
  s: {origin: o, cow: {path: s.cow, size: 2MiB}}
"""


def test_what_stands_on_each_other_follows_or_is_refused_first(t):
    definition = t.define(STACK)
    volfs("create", definition)
    t.mount(definition)
    volfs("array", "wait", t.mnt / "md0")
    whole = lab.sha256(t.mnt / "md0")
    # A spare takes the place that the list gives it, and nothing is degraded meanwhile.
    definition.write_text(STACK.replace("[a, b, c], spares: [e]", "[a, b, e]"))
    plan = volfs("apply", definition, t.mnt, "--dry-run")
    holds("~ array md0: member e instead of c, a spare" in plan and "- array" not in plan, plan)
    volfs("apply", definition, t.mnt, "--yes")
    equal(sorted(member["device"] for member in lab_array(t)["members"]), ["a", "b", "e"], "members")
    equal(lab.sha256(t.mnt / "md0"), whole, "what the array holds")
    now = definition.read_text()
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")
    # What cannot be is told before anything is done.
    for old, new, words in (("new: {size: 16MiB}", "new: {size: 8MiB}", "two stands on it"),
                            ("z: {path: z.img, size: 8MiB}}", "zz: {path: z.img, size: 8MiB}}", "is image z on the mount")):
        definition.write_text(now.replace(old, new).replace("linear z 0", "linear zz 0" if "zz" in new else "linear z 0"))
        told = stderr_of(lab.VOLFS, "apply", definition, t.mnt, "--dry-run")
        holds(words in told, told)
    # An origin has its own table again when its last snapshot has gone.
    definition.write_text(now.replace("snapshots:\n  s: {origin: o, cow: {path: s.cow, size: 2MiB}}\n", ""))
    volfs("apply", definition, t.mnt, "--yes")
    names = [device["name"] for device in t.status()["devices"]]
    holds("o" in names and "o-real" not in names, f"{names}")
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "without the snapshot")
    lines = definition.read_text().replace("  o: {table: 0 8192 linear z 0, uuid: own}\n", "").replace(", z: {path: z.img, size: 8MiB}", "")
    definition.write_text(lines)
    volfs("apply", definition, t.mnt, "--yes")
    holds(not {"o", "o-real", "z"} & {device["name"] for device in t.status()["devices"]}, "all of it has gone")


def lab_array(t):
    return next(device["array"] for device in t.status()["devices"] if device["name"] == "md0")


if __name__ == "__main__":
    lab.main(globals())
