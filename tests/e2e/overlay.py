# SPDX-License-Identifier: GPL-2.0-or-later
"""Overlays: whatever is done to a mount, the images stay as they are until `volfs overlay commit`."""
import errno
import json
import os
import signal
import subprocess
import time

import lab
from lab import KiB, MiB, equal, holds, run, sha256, stderr_of, volfs, wait_until

DEFINITION = """
volfs: 1
images: {disk0: disk0.img, disk1: disk1.img, low: {path: disk2.img, length: 4MiB}, high: {path: disk2.img, offset: 4MiB}}
maps:
  striped: {table: 0 65536 striped 2 64 disk0 0 disk1 0}
  low: {table: 0 8192 linear low 0}
  high: {table: 0 8192 linear high 0}
"""
SIZE = 32 * MiB
IMAGES = ("disk0.img", "disk1.img", "disk2.img")


def prepare(t):
    for name, size in zip(IMAGES, (16 * MiB, 16 * MiB, 8 * MiB)):
        (t.path / name).write_bytes(t.random.randbytes(size))
    return t.define(DEFINITION.replace("low: {table", "lower: {table").replace("high: {table", "higher: {table"))


def facts(t, names=IMAGES):
    """What tells whether images were touched."""
    return [(sha256(t.path / name), (t.path / name).stat().st_mtime_ns, (t.path / name).stat().st_blocks) for name in names]


def scribble(t, path, content, count=200):
    with open(path, "r+b", buffering=0) as file:
        for _ in range(count):
            data = t.random.randbytes(t.random.choice((512, 4096, 30000)))
            at = t.random.randrange(len(content) - len(data))
            os.pwrite(file.fileno(), data, at)
            content[at:at + len(data)] = data
        os.fsync(file.fileno())


def access_of(pid, path):
    """The access modes with which a process has a file open."""
    modes = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        if os.path.realpath(f"/proc/{pid}/fd/{fd}") == str(path):
            info = open(f"/proc/{pid}/fdinfo/{fd}").read()
            modes.append(int(info.split("flags:")[1].split()[0], 8) & os.O_ACCMODE)
    return modes


def overlay(command, directory, *arguments, **options):
    return volfs("overlay", command, directory, *arguments, **options)


def test_images_stay_as_they_are_and_the_next_mount_goes_on(t):
    definition = prepare(t)
    before = facts(t)
    changes = t.path / "changes"
    options = [f"overlay={changes}"]
    t.mount(definition, options=options)
    equal(t.status()["overlay"], str(changes), "status.json")
    for name in IMAGES:
        modes = access_of(t.pid(), t.path / name)
        holds(modes and set(modes) == {os.O_RDONLY}, f"{name} is open with {modes}")
    contents = {name: bytearray((t.mnt / name).read_bytes()) for name in ("striped", "lower", "higher")}
    for _ in range(3):
        for name, content in contents.items():
            scribble(t, t.mnt / name, content)
            holds((t.mnt / name).read_bytes() == content, f"{name} after writes")
        # While it is mounted it can be looked at, by nobody else be used.
        holds("disk0.img" in overlay("status", changes), "status of a mounted overlay")
        second = t.path / "second"
        second.mkdir(exist_ok=True)
        for command in (("mount", definition, second, "-o", options[0]), ("overlay", "discard", changes, "--yes"),
                        ("overlay", "commit", changes, "--yes")):
            holds("in use by another volfs" in stderr_of(lab.VOLFS, *command), f"{command} of a mounted overlay")
        t.umount()
        equal(facts(t), before, "the images")
        # A mount that only reads shows the same, and without the overlay there is nothing of it.
        t.mount(definition, options=["ro", *options])
        for name, content in contents.items():
            holds((t.mnt / name).read_bytes() == content, f"{name} of a read-only mount")
        t.umount()
        t.mount(definition, options=["ro"])
        holds((t.mnt / "striped").read_bytes() != contents["striped"], "a mount without the overlay")
        t.umount()
        t.mount(definition, options=options)
        for name, content in contents.items():
            holds((t.mnt / name).read_bytes() == content, f"{name} after a new mount")
    t.umount()
    holds("--yes" in stderr_of(lab.VOLFS, "overlay", "discard", changes), "asked in a pipe")
    holds("disk" in overlay("discard", changes, "--dry-run"), "what a discard would forget")
    told = json.loads(overlay("discard", changes, "--dry-run", "--json"))
    holds(not told["done"] and any(image["bytes"] > 0 for image in told["images"]), told)
    told = json.loads(overlay("discard", changes, "--yes", "--json"))
    holds(told["done"], told)
    equal(sorted(each.name for each in changes.iterdir()), ["lock"], "what is left in the directory")
    equal(facts(t), before, "the images after discard")
    holds("holds no overlay" in stderr_of(lab.VOLFS, "overlay", "status", changes), "status of nothing")
    equal(sorted(os.listdir(changes)), ["lock"], "what is left of an overlay")
    # Whoever was interrupted just before the end asks once more.
    for command in ("commit", "discard"):
        overlay(command, changes, "--yes")
        (t.path / "never").mkdir(exist_ok=True)
        holds("holds no overlay" in stderr_of(lab.VOLFS, "overlay", command, t.path / "never", "--yes"), f"{command} of nothing")
        equal(os.listdir(t.path / "never"), [], "what that leaves")
    t.mount(definition, options=options)
    holds((t.mnt / "lower").read_bytes() == (t.path / "disk2.img").read_bytes()[:4 * MiB], "a fresh overlay")


def test_an_overlay_that_the_mount_would_hide_is_refused(t):
    definition = prepare(t)
    for directory in (t.mnt, t.mnt / "below", t.path / "x" / ".." / t.mnt.name):
        said = stderr_of(lab.VOLFS, "mount", definition, t.mnt, "-o", f"overlay={directory}", status=2)
        holds(f"overlay {directory}: expected a directory" in said, said)
    equal(os.listdir(t.mnt), [], "what is left")


def test_a_killed_daemon_loses_nothing_that_was_synced(t):
    definition = prepare(t)
    before = facts(t)
    options = [f"overlay={t.path}/changes"]
    content = None
    for _ in range(4):
        t.mount(definition, options=options)
        content = content or bytearray((t.mnt / "striped").read_bytes())
        holds((t.mnt / "striped").read_bytes() == content, "after a killed daemon")
        scribble(t, t.mnt / "striped", content, 60)
        pid = t.pid()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the end of a killed daemon")
        volfs("umount", t.mnt)
    equal(facts(t), before, "the images")


def test_commit_says_what_it_would_change_and_does_it(t):
    definition = prepare(t)
    before = facts(t)
    changes = t.path / "changes"
    t.mount(definition, options=[f"overlay={changes}"])
    contents = {name: bytearray((t.mnt / name).read_bytes()) for name in ("striped", "lower", "higher")}
    for name in ("striped", "higher"):
        scribble(t, t.mnt / name, contents[name], 50)
    t.umount()
    told = json.loads(overlay("status", changes, "--json"))
    equal([os.path.basename(each["image"]) for each in told["images"]], list(IMAGES), "images")
    # Every byte that differs lies in a range that is told.
    for each, name in zip(told["images"], IMAGES):
        equal(each["bytes"], sum(r["length"] for r in each["ranges"]), "bytes")
        holds(0 < each["bytes"] < SIZE, f"bytes of {name}: {each['bytes']}")
    holds(all(r["offset"] >= 4 * MiB for r in told["images"][2]["ranges"]), "ranges outside what was written to")
    holds("--yes" in stderr_of(lab.VOLFS, "overlay", "commit", changes), "asked in a pipe")
    equal(overlay("commit", changes, "--dry-run"), overlay("status", changes), "dry run")
    equal(facts(t), before, "the images after a dry run")
    overlay("commit", changes, "--yes")
    equal(sorted(each.name for each in changes.iterdir()), ["lock"], "what is left in the directory")
    t.mount(definition, options=["ro"])
    for name, content in contents.items():
        holds((t.mnt / name).read_bytes() == content, f"{name} after the commit")


def test_a_commit_that_is_killed_goes_on(t):
    definition = prepare(t)
    changes = t.path / "changes"
    t.mount(definition, options=[f"overlay={changes}"])
    content = bytearray((t.mnt / "striped").read_bytes())
    scribble(t, t.mnt / "striped", content, 1500)
    t.umount()
    interrupted, delay = 0, 0.02
    while True:
        commit = subprocess.Popen([lab.VOLFS, "overlay", "commit", changes, "--yes"], stdout=subprocess.DEVNULL)
        try:
            equal(commit.wait(delay), 0, "exit status of a commit")
            break
        except subprocess.TimeoutExpired:
            commit.kill()
            commit.wait()
        if not (changes / "overlay.json").exists():  # killed when all was done
            break
        if json.loads((changes / "overlay.json").read_text())["state"] == "committing":
            interrupted += 1
            for command in (("mount", definition, t.mnt, "-o", f"overlay={changes}"), ("overlay", "discard", changes, "--yes")):
                holds("overlay commit" in stderr_of(lab.VOLFS, *command), f"{command} amid a commit")
        delay *= 1.15
    t.mount(definition, options=["ro"])
    holds((t.mnt / "striped").read_bytes() == content, f"after {interrupted} interruptions")
    print(f"  {interrupted} interruptions")


def test_a_commit_that_cannot_write_to_an_image_does_not_begin(t):
    definition = prepare(t)
    changes = t.path / "changes"
    t.mount(definition, options=[f"overlay={changes}"])
    scribble(t, t.mnt / "striped", bytearray(SIZE), 5)
    t.umount()
    before = facts(t)
    t.mount(t.define("volfs: 1\nimages: {d: disk1.img}\nmaps: {m: {table: 0 8 linear d 0}}\n", "reader.yaml"), options=["ro"])
    message = stderr_of(lab.VOLFS, "overlay", "commit", changes, "--yes")
    holds("disk1.img" in message, message)
    equal(json.loads((changes / "overlay.json").read_text())["state"], "open", "state")
    equal(facts(t), before, "the images")
    t.umount()
    overlay("commit", changes, "--yes")


def test_a_file_has_one_overlay_whatever_it_is_called(t):
    lines = "volfs: 1\nimages: {{a: a.img, b: {}}}\nmaps: {{m: {{table: 0 8 linear a 0}}, n: {{table: 0 8 linear b 0}}}}\n"
    t.file("a.img", 8 * MiB)
    os.link(t.path / "a.img", t.path / "b.img")
    options = ["-o", f"overlay={t.path}/changes"]
    for second in ("b.img", "{path: b.img, readonly: true}", "{path: b.img, offset: 4MiB}"):
        message = stderr_of(lab.VOLFS, "mount", t.define(lines.format(second)), t.mnt, *options)
        holds("is, at least in part, what the image 'a'" in message, f"{second}: {message}")
    t.mount(t.define(lines.format("{path: b.img, offset: 4MiB}").replace("a: a.img", "a: {path: a.img, length: 4MiB}")), options=options[1:])
    (t.mnt / "n").write_bytes(b"n" * 4 * KiB)
    t.umount()
    equal(sorted(each.name for each in (t.path / "changes").glob("*.cow")), ["a.img.cow"], "stores")
    overlay("commit", t.path / "changes", "--yes")
    equal((t.path / "a.img").read_bytes()[4 * MiB:4 * MiB + 4 * KiB], b"n" * 4 * KiB, "the image")


def test_a_file_that_is_no_store_of_the_overlay_stays(t):
    definition = prepare(t)
    foreign = t.path / "changes/disk0.img.cow"
    foreign.parent.mkdir()
    foreign.write_bytes(b"mine")
    message = stderr_of(lab.VOLFS, "mount", definition, t.mnt, "-o", f"overlay={foreign.parent}")
    holds("disk0.img.cow" in message and "overlay.json does not know it" in message, message)
    equal(foreign.read_bytes(), b"mine", "the file")
    foreign.unlink()
    t.mount(definition, options=[f"overlay={foreign.parent}"])


def test_an_image_that_was_moved_keeps_its_changes(t):
    content = t.random.randbytes(MiB)
    changes = t.path / "changes"
    (t.path / "x").mkdir()
    (t.path / "x/a.img").write_bytes(content)
    text = "volfs: 1\nimages: {d: %s}\nmaps: {m: {table: 0 2048 linear d 0}}\n"
    t.mount(t.define(text % "x/a.img"), options=[f"overlay={changes}"])
    (t.mnt / "m").open("r+b", buffering=0).write(b"changed")
    t.umount()
    (t.path / "x").rename(t.path / "y")
    for place, options in (("y/a.img", ["ro"]), ("y/a.img", []), ("b.img", [])):
        if place == "b.img":
            (t.path / "y/a.img").rename(t.path / "b.img")
        t.mount(t.define(text % place), options=[f"overlay={changes}", *options])
        equal((t.mnt / "m").read_bytes()[:7], b"changed", f"what was written, from {place}")
        t.umount()
        equal(len(list(changes.glob("*.cow"))), 1, "stores")
    # Of another time it may be another copy.
    (t.path / "b.img").rename(t.path / "c.img")
    os.utime(t.path / "c.img", (1, 1))
    told = stderr_of(lab.VOLFS, "mount", t.define(text % "c.img"), t.mnt, "-o", f"overlay={changes}")
    holds("seems to be" in told and "b.img" in told and "force" in told, told)
    t.mount(t.define(text % "c.img"), options=[f"overlay={changes}", "force"])
    equal((t.mnt / "m").read_bytes()[:7], b"changed", "what was written, by force")
    t.umount()
    overlay("commit", changes, "--yes")
    equal((t.path / "c.img").read_bytes(), b"changed" + content[7:], "the image")


def test_images_that_changed_behind_an_overlay_are_refused(t):
    definition = prepare(t)
    changes = t.path / "changes"
    options = [f"overlay={changes}"]
    t.mount(definition, options=options)
    scribble(t, t.mnt / "striped", bytearray(SIZE), 5)
    t.umount()
    image = t.path / "disk1.img"
    times = (image.stat().st_atime_ns, image.stat().st_mtime_ns)

    def refused(what):
        for command in (("mount", definition, t.mnt, "-o", options[0]), ("overlay", "commit", changes, "--yes"),
                        ("overlay", "commit", changes, "--dry-run")):
            message = stderr_of(lab.VOLFS, *command)
            holds("disk1.img" in message and what in message, f"{command}: {message}")
            if "commit" not in command or "size" not in what:
                for word in ("Put the image back", f"`volfs overlay discard {changes}`", "-o force", "commit --force"):
                    holds(word in message, f"{command}: no word of {word}: {message}")

    with open(image, "r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))
    os.utime(image, ns=times)
    refused("its contents are others")
    with open(image, "r+b") as file:
        file.write(first)
    refused("it was written to")
    os.utime(image, ns=times)
    with open(image, "ab") as file:
        file.write(bytes(4096))
    os.utime(image, ns=times)
    refused("its size was")
    os.truncate(image, 16 * MiB)
    os.utime(image, ns=times)
    os.rename(changes / "disk0.img.cow", t.path / "away")
    holds("disk0.img.cow" in stderr_of(lab.VOLFS, "mount", definition, t.mnt, "-o", options[0]), "a store that is away")
    t.file("changes/disk0.img.cow", 20 * MiB)
    holds("no snapshot store" in stderr_of(lab.VOLFS, "mount", definition, t.mnt, "-o", options[0]), "a store that was emptied")
    os.rename(t.path / "away", changes / "disk0.img.cow")
    t.mount(definition, options=options)


def test_an_image_that_changed_can_be_forced_or_its_overlay_forgotten(t):
    definition = prepare(t)
    changes = t.path / "changes"
    options = [f"overlay={changes}"]
    t.mount(definition, options=options)
    content = bytearray((t.mnt / "striped").read_bytes())
    scribble(t, t.mnt / "striped", content, 5)
    t.umount()
    os.utime(t.path / "disk1.img")
    before = facts(t)
    t.mount(definition, options=[*options, "force"])
    holds((t.mnt / "striped").read_bytes() == content, "a mount with force")
    t.umount()
    equal(facts(t), before, "the images")
    with open(t.path / "disk1.img", "ab") as file:
        file.write(bytes(4096))
    overlay("discard", changes, "--yes")
    t.mount(definition, options=options)
    t.umount()
    overlay("discard", changes, "--yes")


def test_partitions_of_one_image_share_its_store(t):
    lab.need_program("sfdisk")
    content = bytearray(t.random.randbytes(16 * MiB))
    image = t.path / "disk.img"
    image.write_bytes(content)
    run("sfdisk", "-q", image, input="label: gpt\nstart=2048, size=8192\nstart=12288, size=16384\n")
    content = bytearray(image.read_bytes())
    before = facts(t, ["disk.img"])
    changes = t.path / "changes"
    definition = t.define("""
volfs: 1
images: {one: {path: disk.img, partition: 1}, two: {path: disk.img, partition: 2}}
maps: {first: {table: 0 8192 linear one 0}, second: {table: 0 16384 linear two 0}}
""")
    for _ in range(2):
        t.mount(definition, options=[f"overlay={changes}"])
        for name, start, length in (("first", 2048, 8192), ("second", 12288, 16384)):
            part = bytearray(content[start * 512:(start + length) * 512])
            holds((t.mnt / name).read_bytes() == part, f"{name} at first")
            scribble(t, t.mnt / name, part, 30)
            content[start * 512:(start + length) * 512] = part
        t.umount()
        equal(facts(t, ["disk.img"]), before, "the image")
        equal(sorted(each.name for each in changes.glob("*.cow")), ["disk.img.cow"], "stores")
    overlay("commit", changes, "--yes")
    holds(image.read_bytes() == content, "the image after the commit")


def test_an_image_under_other_names_has_the_same_store(t):
    """By a symbolic link, by one to its folder, and in a folder that is mounted elsewhere as well."""
    folder = t.path / "folder"
    folder.mkdir()
    t.file("folder/a.img", 8 * MiB)
    os.symlink(folder / "a.img", t.path / "link.img")
    os.symlink(folder, t.path / "linked")
    names = ["folder/a.img", "link.img", "linked/a.img"]
    if os.geteuid() == 0:
        bound = t.path / "bound"
        bound.mkdir()
        run("mount", "--bind", folder, bound)
        t.cleanup.callback(run, "umount", bound, status=None)
        names.append("bound/a.img")
    content = bytearray(8 * MiB)
    lines = "volfs: 1\nimages: {{a: {}}}\nmaps: {{m: {{table: 0 16384 linear a 0}}}}\n"
    options = [f"overlay={t.path}/changes"]
    for name in [*names, *names]:
        t.mount(t.define(lines.format(name)), options=options)
        holds((t.mnt / "m").read_bytes() == content, f"what {name} shows")
        scribble(t, t.mnt / "m", content, 10)
        t.umount()
        equal(sorted(each.name for each in (t.path / "changes").glob("*.cow")), ["a.img.cow"], f"stores after {name}")
    two = "volfs: 1\nimages: {{a: folder/a.img, b: {}}}\nmaps: {{m: {{table: 0 8 linear a 0}}, n: {{table: 0 8 linear b 0}}}}\n"
    for name in names[1:]:
        message = stderr_of(lab.VOLFS, "mount", t.define(two.format(name)), t.mnt, "-o", options[0])
        holds("is, at least in part, what the image 'a'" in message, f"{name}: {message}")
    equal((folder / "a.img").read_bytes(), bytes(8 * MiB), "the image")
    overlay("commit", t.path / "changes", "--yes")
    holds((folder / "a.img").read_bytes() == content, "the image after the commit")


def test_a_loop_device_and_its_file_get_no_two_stores(t):
    lab.need_loop()
    old = t.random.randbytes(8 * MiB)
    (t.path / "a.img").write_bytes(old)
    loop = t.loop(t.path / "a.img")
    content = bytearray(old)
    lines = "volfs: 1\nimages: {{a: {}}}\nmaps: {{m: {{table: 0 16384 linear a 0}}}}\n"
    both = "volfs: 1\nimages: {{a: a.img, b: {}}}\nmaps: {{m: {{table: 0 8 linear a 0}}, n: {{table: 0 8 linear b 0}}}}\n"
    by_loop, by_file = t.define(lines.format(loop), "loop.yaml"), t.define(lines.format("a.img"), "file.yaml")
    options = [f"overlay={t.path}/changes"]
    for _ in range(2):
        t.mount(by_loop, options=options)
        holds((t.mnt / "m").read_bytes() == content, "what the loop device shows")
        scribble(t, t.mnt / "m", content, 20)
        t.umount()
        holds((t.path / "a.img").read_bytes() == old, "the file")
    message = stderr_of(lab.VOLFS, "mount", by_file, t.mnt, "-o", options[0])
    holds("shows the same file as " + loop in message and "by way of a loop device" in message, message)
    message = stderr_of(lab.VOLFS, "mount", t.define(both.format(loop), "both.yaml"), t.mnt, "-o", f"overlay={t.path}/other")
    holds("by way of a loop device" in message, message)
    equal(len(list((t.path / "changes").glob("*.cow"))), 1, "stores")
    overlay("commit", t.path / "changes", "--yes")
    holds((t.path / "a.img").read_bytes() == content, "the file after the commit")


def test_a_full_file_system_costs_writes_and_not_the_overlay(t):
    lab.need_root()
    definition = prepare(t)
    before = facts(t)
    small = t.path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=6M", "tmpfs", small)
    t.cleanup.callback(run, "umount", small, status=None)
    options = [f"overlay={small}/changes"]
    t.mount(definition, options=options)
    content = bytearray((t.mnt / "striped").read_bytes())
    scribble(t, t.mnt / "striped", content, 20)
    file = os.open(t.mnt / "striped", os.O_RDWR)
    failed = set()
    for at in range(0, SIZE, 256 * KiB):
        block = t.random.randbytes(64 * KiB)
        try:
            os.pwrite(file, block, at)
            os.fsync(file)
        except OSError:
            failed.add(at)
            continue
        content[at:at + len(block)] = block
    os.close(file)
    holds(0 < len(failed) < SIZE // (256 * KiB), "nothing failed for want of room")
    state = next(each for each in t.status()["devices"] if each["name"] == "disk0")["map"]["status"]
    holds("Invalid" not in state, state)
    volfs("umount", t.mnt, status=None)
    run("mount", "-o", "remount,size=64M", small)
    t.mount(definition, options=options)
    shown = (t.mnt / "striped").read_bytes()
    for at in range(0, SIZE, 64 * KiB):  # a write that failed may have left anything of the old and the new
        holds(at in failed or shown[at:at + 64 * KiB] == content[at:at + 64 * KiB], f"contents at {at}")
    scribble(t, t.mnt / "striped", bytearray(shown), 100)
    t.umount()
    equal(facts(t), before, "the images")


RESCUE = """
volfs: 1
images:
  d0: {path: d0.img, size: 40MiB}
  d1: {path: d1.img, size: 40MiB}
  d2: {path: d2.img, size: 40MiB}
  d3: {path: d3.img, size: 40MiB}
arrays:
  md0: {level: raid5, devices: [d0, d1, d2, d3], chunk: 64KiB, metadata: "1.2"}
"""


def make_broken_array(t):
    """Three of four images of a RAID5 with ext4 on it, whose machine lost its power amid writes."""
    definition = t.define(RESCUE)
    volfs("create", definition)
    t.mount(definition)
    (t.path / "tree").mkdir()
    for i in range(20):
        (t.path / "tree" / f"file{i}").write_bytes(t.random.randbytes(100000))
    volume = t.mnt / "md0"
    run("mke2fs", "-q", "-t", "ext4", "-F", "-d", t.path / "tree", volume)
    fd = os.open(volume, os.O_RDWR)
    os.fsync(fd)
    size = os.fstat(fd).st_size
    stop = time.monotonic() + 1
    while time.monotonic() < stop:  # what is there already, so that no file is harmed by what tears
        at = t.random.randrange(size // 4096) * 4096
        os.pwrite(fd, os.pread(fd, 4096, at), at)
        os.fdatasync(fd)
    pid = t.pid()
    os.kill(pid, signal.SIGKILL)
    os.close(fd)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the end of a killed daemon")
    volfs("umount", t.mnt)
    return [t.path / f"d{i}.img" for i in range(3)]


def rescue(t, images, options):
    """Makes it writable, checks and changes it; what a test needs to know it by later."""
    t.mount(*images, options=options)
    array = next(each for each in t.status()["devices"] if each["kind"] == "array")
    volume = t.mnt / array["name"]
    holds(array["state"] == "degraded", f"state {array['state']}")
    status = subprocess.run(["e2fsck", "-fy", str(volume)], stdout=subprocess.PIPE, text=True)
    holds(status.returncode in (0, 1), f"e2fsck: {status.returncode} {status.stdout}")
    run("debugfs", "-w", "-R", f"write {t.path}/tree/file3 rescued", volume)
    run("e2fsck", "-fn", volume)
    return volume


def check_rescued(t, volume, names):
    for name in names:
        run("debugfs", "-R", f"dump {name} {t.path}/dumped", volume)
        original = t.path / "tree" / ("file3" if name == "rescued" else name)
        holds((t.path / "dumped").read_bytes() == original.read_bytes(), f"{name} on the array")


def test_rescue_of_a_dirty_degraded_raid5(t):
    lab.need_program("mke2fs", "debugfs", "e2fsck")
    images = make_broken_array(t)
    names = [each.name for each in images]
    before = facts(t, names)
    changes = t.path / "changes"
    options = [f"overlay={changes}", "force"]
    holds("force" in stderr_of(lab.VOLFS, "mount", *images, t.mnt, "-o", f"overlay={changes}"), "no word of force")
    volume = rescue(t, images, options)
    check_rescued(t, volume, ["rescued", *(f"file{i}" for i in range(20))])
    t.umount()
    # A later mount goes on with it.
    t.mount(*images, options=options)
    check_rescued(t, volume, ["rescued", "file7"])
    t.umount()
    equal(facts(t, names), before, "the images")
    overlay("discard", changes, "--yes")
    equal(facts(t, names), before, "the images after discard")
    # The same, and kept.
    volume = rescue(t, images, options)
    t.umount()
    equal(facts(t, names), before, "the images before the commit")
    overlay("commit", changes, "--yes")
    t.mount(*images, options=["ro"])
    check_rescued(t, volume, ["rescued", *(f"file{i}" for i in range(20))])
    run("e2fsck", "-fn", volume)


def test_an_array_lives_through_an_overlay_without_room(t):
    """That there is no room is no error of the members."""
    lab.need_root()
    small = t.path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", small)
    t.cleanup.callback(run, "umount", small, status=None)
    for level in ("raid1", "raid5, chunk: 16KiB"):
        run("mount", "-o", "remount,size=400k", small)
        images = [f"{level[:5]}-{i}" for i in range(3)]
        listed = "".join(f"  {name}: {{path: {name}.img, size: 24MiB}}\n" for name in images)
        definition = t.define(f"volfs: 1\nimages:\n{listed}arrays:\n"
                              f"  a: {{level: {level}, assume_clean: true, devices: [{', '.join(images)}]}}\n")
        volfs("create", definition)
        t.mount(definition)
        content = t.random.randbytes(8 * MiB)
        with open(t.mnt / "a", "r+b", buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())
        t.umount()
        changes = small / level[:5]
        t.mount(definition, options=[f"overlay={changes}"])
        with open(t.mnt / "a", "r+b", buffering=0) as file:
            try:
                for i in range(32):
                    os.pwrite(file.fileno(), bytes(64 * KiB), i * 64 * KiB)
                os.fsync(file.fileno())
                holds(False, "2 MiB were written to 400 KiB")
            except OSError as error:
                equal(error.errno, errno.ENOSPC, "errno")
        equal(len((t.mnt / "a").read_bytes()[2 * MiB:8 * MiB]), 6 * MiB, "bytes read")
        t.umount()
        run("mount", "-o", "remount,size=64M", small)
        t.mount(definition, options=[f"overlay={changes}"])
        volfs("array", "wait", t.mnt / "a", "--timeout", "300")
        holds((t.mnt / "a").read_bytes()[2 * MiB:8 * MiB] == content[2 * MiB:], "what was not written")
        state = next(device for device in t.status()["devices"] if device["name"] == "a")
        equal(state["state"], "active", "state")
        volfs("array", "check", t.mnt / "a")
        equal(volfs("array", "wait", t.mnt / "a", "--timeout", "300"), "mismatch_cnt 0\n", "after a check")
        t.umount()
        overlay("discard", changes, "--yes")


def test_an_array_whose_superblocks_find_no_room_goes_on_when_there_is_some(t):
    lab.need_root()
    small = t.path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", small)
    t.cleanup.callback(run, "umount", small, status=None)
    images = "".join(f"  d{i}: {{path: d{i}.img, size: 24MiB}}\n" for i in range(3))
    definition = t.define(f"volfs: 1\nimages:\n{images}arrays:\n  a: {{level: raid5, chunk: 16KiB, "
                          "assume_clean: true, bitmap: internal, devices: [d0, d1, d2]}\n")
    volfs("create", definition)
    t.mount(definition, options=[f"overlay={small / 'changes'}"])
    with open(small / "filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4 * KiB))
        except OSError as error:
            equal(error.errno, errno.ENOSPC, "errno of the filler")
    content = t.random.randbytes(256 * KiB)
    with open(t.mnt / "a", "r+b", buffering=0) as file:
        for _ in range(3):
            try:
                os.pwrite(file.fileno(), content, 0)
                os.fsync(file.fileno())
                holds(False, "256 KiB were written to a full overlay")
            except OSError as error:
                equal(error.errno, errno.ENOSPC, "errno")
        state = next(device for device in t.status()["devices"] if device["name"] == "a")
        equal(state["state"], "active", "state without room")
        (small / "filler").unlink()
        os.pwrite(file.fileno(), content, 0)
        os.fsync(file.fileno())
    t.umount()
    t.mount(definition, options=[f"overlay={small / 'changes'}"])
    volfs("array", "wait", t.mnt / "a", "--timeout", "300")
    equal((t.mnt / "a").read_bytes()[:256 * KiB], content, "content")
    state = next(device for device in t.status()["devices"] if device["name"] == "a")
    equal(state["state"], "active", "state")
    volfs("array", "check", t.mnt / "a")
    equal(volfs("array", "wait", t.mnt / "a", "--timeout", "300"), "mismatch_cnt 0\n", "after a check")
    t.umount()


lab.main(globals())
