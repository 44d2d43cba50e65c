# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands that show a mount and that bring it to a changed definition."""
import fcntl
import json
import os
import pathlib
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients/python"))

import lab
import volfs as client
from lab import KiB, MiB, equal, holds, run, stderr_of, volfs

DEFINITION = """
volfs: 1
images:
  disk0: {path: disk0.img, size: 8MiB}
  disk1: {path: disk1.img, size: 8MiB}
maps:
  data: {table: "0 8192 linear disk0 0"}
  wide: {table: "0 8192 striped 2 8 disk0 8192 disk1 0"}
  top: {table: "0 64 linear data 128"}
"""


def fresh(t, text=DEFINITION):
    for name in ("disk0.img", "disk1.img"):
        if not (t.path / name).exists():
            t.file(name, 8 * MiB)
    definition = t.define(text)
    t.mount(definition)
    return client.Mount(t.mnt), definition


def test_tree_is_plain_in_a_pipe(t):
    fresh(t)
    text = volfs("tree", t.mnt)
    holds("\033" not in text, "colours in a pipe")
    equal([re.split(r"  +", line.strip()) for line in text.splitlines()],
          [["NAME", "TYPE", "SIZE", "OPEN", "STATE"],
           ["disk0", "image", "8.00M", "active"],
           ["├─data", "map linear", "4.00M", "0", "active"],
           ["│ └─top", "map linear", "32.0K", "0", "active"],
           ["└─wide", "map striped", "4.00M", "0", "active"],
           ["disk1", "image", "8.00M", "active"],
           ["└─wide", "map striped", "4.00M", "0", "active"]], "the tree")
    holds(all(len(line) <= 80 for line in text.splitlines()), "a line longer than 80 columns")


LONG = """
volfs: 1
images:
  a-disk-with-quite-a-long-name-indeed-0: {path: 0.img, size: 24MiB}
  a-disk-with-quite-a-long-name-indeed-1: {path: 1.img, size: 24MiB}
  a-disk-with-quite-a-long-name-indeed-2: {path: 2.img, size: 24MiB}
arrays:
  an-array-that-has-a-long-name-too-0: {level: raid5, devices: [a-disk-with-quite-a-long-name-indeed-0,
    a-disk-with-quite-a-long-name-indeed-1, a-disk-with-quite-a-long-name-indeed-2], sync_speed_max: 2MiB, sync_speed_min: 2MiB}
volume_groups:
  a-volume-group-with-a-long-name:
    physical_volumes: [an-array-that-has-a-long-name-too-0]
    logical_volumes: {a-logical-volume-with-a-long-name: {size: 16MiB}, snap: {type: snapshot, size: 8MiB,
      origin: a-logical-volume-with-a-long-name}}
"""


def on_a_terminal(columns, *command, seconds=60, **environment):
    """The lines that a command draws on a terminal of so many columns, with colours and without."""
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen([lab.VOLFS, *map(str, command)], stdin=terminal, stdout=terminal, stderr=terminal,
                               env={**os.environ, "TERM": "xterm", **environment})
    os.close(terminal)
    screen = b""
    while select.select([master], [], [], seconds)[0]:
        try:
            screen += os.read(master, 65536)
        except OSError:  # nobody has the terminal any more
            break
    os.close(master)
    process.wait(60)
    lines = re.split("\r?\n|\r", screen.decode())
    return lines, [re.sub("\033\\[[0-9;]*[A-Za-z]", "", line) for line in lines]


def test_long_names_fit_a_terminal_of_80_columns(t):
    definition = t.define(LONG)
    volfs("create", definition)
    t.mount(definition)
    names = [f"a-disk-with-quite-a-long-name-indeed-{i}" for i in range(3)]
    array = t.mnt / "an-array-that-has-a-long-name-too-0"
    for command in (("tree",), ("status",), ("top", "-n", "1", "-d", "0.1")):
        coloured, plain = on_a_terminal(80, command[0], t.mnt, *command[1:])
        text = "\n".join(plain)
        equal([line for line in plain if len(line) > 80], [], f"{command}: lines that are too long")
        holds("\033[" in "".join(coloured), f"{command}: no colours on a terminal")
        for end in ("indeed-0", "indeed-1", "indeed-2", "too-0"):
            holds("~" in text and any(line.split("  ")[0].rstrip().endswith(end) or f"{end} " in line for line in plain),
                  f"{command}: which one ends in {end} is not to be seen:\n{text}")
        equal("\033[" in "".join(on_a_terminal(80, command[0], t.mnt, *command[1:], NO_COLOR="1")[0]), False, "NO_COLOR")
        piped = volfs(command[0], t.mnt, *command[1:])
        holds("\033" not in piped, f"{command}: an escape in a pipe")
        if command[0] != "top":
            holds(all(name in piped for name in names), f"{command}: a pipe has no columns:\n{piped}")
    _, drawn = on_a_terminal(80, "array", "wait", array)
    holds(any("%" in line and "left" in line for line in drawn), f"no progress: {drawn[-5:]}")
    equal([line for line in drawn if len(line) > 80], [], "progress that wraps")
    holds("%" not in run(lab.VOLFS, "array", "wait", array), "progress in a pipe")


def test_where_goes_both_ways(t):
    mount, _ = fresh(t)
    for volume, offset in (("data", 5 * KiB), ("top", 1024), ("wide", 4 * KiB), ("wide", 8 * KiB + 100)):
        words = volfs("where", t.mnt / volume, offset).split()
        equal(words[:3], [str(offset), "1", "image"], "where")
        back = volfs("where", t.mnt, words[4], "--image", words[3]).splitlines()
        holds(f"{words[4]} 1 {volume} {offset}" in back, f"{volume} {offset} is not found back: {back}")
    # A range, neighbours joined; what two volumes share is told for both.
    back = json.loads(volfs("where", t.mnt, 0, 4 * MiB, "--image", "disk0", "--json"))
    equal(sorted((e["volume"], e["offset"], e["length"], e["volume_offset"]) for e in back["extents"]),
          [("data", 0, 4 * MiB, 0), ("top", 64 * KiB, 32 * KiB, 0)], "the first half of disk0")
    back = json.loads(volfs("where", t.mnt, 0, 8 * MiB, "--image", "disk1", "--json"))
    equal(len(back["extents"]), 512, "extents of a striped volume on one disk")
    equal(sum(e["length"] for e in back["extents"]), 2 * MiB, "bytes of it")
    equal(volfs("where", t.mnt, 7 * MiB, "--image", "disk1"), "", "bytes that nobody uses")
    mount.request("map.suspend", map="data")
    back = json.loads(volfs("where", t.mnt, 0, "--image", "disk0", "--json"))
    equal(sorted(back["unknown"]), ["data", "top"], "suspended volumes")
    mount.request("map.resume", map="data")


def test_what_is_not_there_is_not_shown_as_the_mount(t):
    fresh(t)
    for command in ("status", "tree", "where", "graph", "top"):
        told = stderr_of(lab.VOLFS, command, t.mnt / "nope", *(["0"] if command == "where" else []))
        holds("nope: No such file" in told, f"{command}: {told}")
    holds("a number of seconds" in stderr_of(lab.VOLFS, "top", t.mnt, "-n", "1", "-d", "nan"), "a delay that is no number")


def test_graph(t):
    fresh(t)
    dot = volfs("graph", t.mnt)
    holds(dot.startswith("digraph volfs {") and dot.rstrip().endswith("}"), "no DOT")
    for edge in ('"disk0" -> "data"', '"data" -> "top"', '"disk0" -> "wide"', '"disk1" -> "wide"'):
        equal(dot.count(edge + ";"), 1, edge)
    graph = json.loads(volfs("graph", t.mnt, "--json"))
    equal((len(graph["nodes"]), len(graph["edges"])), (5, 4), "nodes and edges")
    if lab.shutil.which("dot"):
        holds("<svg" in volfs("graph", t.mnt, "--svg"), "no SVG")
    else:
        holds("graphviz" in stderr_of(lab.VOLFS, "graph", t.mnt, "--svg"), "nothing is said of graphviz")


def test_top_measures_what_goes_on(t):
    fresh(t)
    stop = threading.Event()

    def work():
        fd = os.open(t.mnt / "data", os.O_RDWR | os.O_DIRECT)
        memory = lab.mmap_of(64 * KiB)
        while not stop.is_set():
            os.pwritev(fd, [memory], 0)
            os.preadv(fd, [memory], 64 * KiB)
        os.close(fd)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        lines = volfs("top", t.mnt, "--json", "-d", "0.5", "-n", "3").splitlines()
        text = volfs("top", t.mnt, "-d", "0.5", "-n", "2")
    finally:
        stop.set()
        worker.join()
    equal(len(lines), 3, "objects")
    for line in lines:
        devices = {device["name"]: device for device in json.loads(line)["devices"]}
        data, disk = devices["data"], devices["disk0"]
        holds(data["reads_per_second"] > 0 and data["writes_per_second"] > 0, "no rates")
        equal(round(data["write_bytes_per_second"] / data["writes_per_second"]), 64 * KiB, "bytes a write")
        holds(0 < data["write_latency_us"] < 1e6 and data["write_p99_us"] > 0, "no latencies")
        holds(disk["write_bytes_per_second"] > 0, "the image does nothing")
        equal(devices["wide"]["reads_per_second"], 0, "reads of an idle volume")
    holds("\033" not in text and all(len(line) <= 80 for line in text.splitlines()), "not plain")
    equal(text.count("VOLUME"), 2, "tables")


def test_apply_plans_asks_and_does(t):
    mount, definition = fresh(t)
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "an unchanged definition")
    t.file("disk2.img", 4 * MiB)
    # Written another way, with the same meaning.
    definition.write_text(DEFINITION.replace('"0 8192 linear disk0 0"', '"# the same\\n 0   8192 linear disk0   0"'))
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "another spelling of a table")
    definition.write_text(DEFINITION.replace("disk1.img, size: 8MiB}", "disk1.img, size: 8MiB}\n"
                                             "  disk2: {path: disk2.img}")
                          .replace("striped 2 8 disk0 8192 disk1 0", "linear disk1 0\\n8192 8192 linear disk2 0")
                          .replace('  top: {table: "0 64 linear data 128"}', '  new: {table: "0 16 zero"}'))
    expected = ["- map top", f"+ image disk2: {t.path}/disk2.img", "~ map wide: another table, 8MiB instead of 4MiB",
                "+ map new: 8KiB"]
    equal(volfs("apply", definition, t.mnt, "--dry-run").splitlines(), expected, "the plan")
    plan = json.loads(volfs("apply", definition, t.mnt, "--dry-run", "--json"))
    equal([step["mark"] for step in plan["steps"]], ["-", "+", "~", "+"], "marks")
    equal(plan["done"], False, "done")
    message = stderr_of(lab.VOLFS, "apply", definition, t.mnt)
    holds("--yes" in message, f"a pipe was not refused: {message}")
    equal(sorted(os.listdir(t.mnt)), [".volfs", "data", "top", "wide"], "volumes after nothing was done")
    with open(t.mnt / "top", "rb"):
        message = stderr_of(lab.VOLFS, "apply", definition, t.mnt, "--yes")
        holds(f"top: in use: " in message and f"(pid {os.getpid()})" in message, f"who uses it: {message}")
        equal((t.mnt / "wide").stat().st_size, 4 * MiB, "a step was done although another is refused")
    data = os.open(t.mnt / "data", os.O_RDONLY)  # what stays may be in use
    volfs("apply", definition, t.mnt, "--yes")
    os.close(data)
    equal(sorted(os.listdir(t.mnt)), [".volfs", "data", "new", "wide"], "volumes")
    equal((t.mnt / "wide").stat().st_size, 8 * MiB, "size")
    equal(mount.device("disk2")["users"], ["wide"], "users of the new image")
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")
    # Back again; a map that shrinks is a loss that --yes must cover, and the image leaves.
    definition.write_text(DEFINITION)
    equal(volfs("apply", definition, t.mnt, "-n").splitlines(),
          ["- map new", "~ map wide: another table, 4MiB instead of 8MiB (what is behind the new end is out of reach)",
           "+ map top: 32KiB", "- image disk2"], "the plan back")
    volfs("apply", definition, t.mnt, "--yes")
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied back")
    holds("disk2" not in [device["name"] for device in t.status()["devices"]], "the image is still there")


def test_apply_tells_what_cannot_be_done_and_undoes_a_failed_step(t):
    mount, definition = fresh(t)
    definition.write_text(DEFINITION.replace("disk1.img", "other.img"))
    t.file("other.img", 8 * MiB)
    message = stderr_of(lab.VOLFS, "apply", definition, t.mnt, "--yes")
    holds("image disk1: is " in message and "other.img" in message, f"message: {message}")
    definition.write_text("volfs: 1\nimages: {disk0: disk0.img}\nmaps: {data: {table: nonsense}}\n")
    equal(run(lab.VOLFS, "apply", definition, t.mnt, "--yes", status=2), "", "a wrong definition")
    definition.write_text(DEFINITION + "snapshots:\n  s: {origin: data, cow: {path: s.cow, size: 8MiB}, "
                          "discard_zeroes_cow: true}\n")
    message = stderr_of(lab.VOLFS, "apply", definition, t.mnt, "--yes")
    holds("snapshot s: is not on the mount" in message and "no features for discards" in message, message)
    # A table that goes beyond the end of its disk is found before anything is done.
    definition.write_text(DEFINITION + '  early: {table: "0 8 zero"}\n  late: {table: "0 17000 linear disk0 0"}\n')
    message = stderr_of(lab.VOLFS, "apply", definition, t.mnt, "--yes")
    holds("map late: " in message and "steps are done" not in message, message)
    equal(sorted(os.listdir(t.mnt)), [".volfs", "data", "top", "wide"], "volumes after nothing was done")
    # The second step fails: what it stands on only comes with the first; that stays done.
    definition.write_text(DEFINITION + '  early: {table: "0 8 zero"}\n  late: {table: "0 9 linear early 0"}\n')
    message = stderr_of(lab.VOLFS, "apply", definition, t.mnt, "--yes")
    holds("1 of 2 steps are done" in message, f"message: {message}")
    equal(sorted(os.listdir(t.mnt)), [".volfs", "data", "early", "top", "wide"], "volumes")


def test_apply_grows_a_map_under_its_snapshots(t):
    text = ("volfs: 1\nimages:\n  d: {path: d.img, size: 4MiB}\n  c: {path: c.img, size: 2MiB}\nmaps:\n"
            '  m: {table: "0 1024 linear d 0"}\nsnapshots:\n  s: {origin: m, cow: c, chunk_size: 4KiB}\n')
    definition = t.define(text)
    volfs("create", definition)
    old = t.random.randbytes(8192)
    (t.path / "d.img").open("r+b", buffering=0).write(old)
    t.mount(definition)
    definition.write_text(text.replace("0 1024 linear d 0", "0 2048 linear d 0"))
    equal(volfs("apply", definition, t.mnt, "-n"), "~ map m: another table, 1MiB instead of 512KiB\n", "the plan")
    volfs("apply", definition, t.mnt, "--yes")
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")
    equal([(t.mnt / name).stat().st_size for name in ("m", "s")], [MiB, MiB // 2], "sizes")
    with (t.mnt / "m").open("r+b", buffering=0) as file:
        file.write(bytes(4096))
        file.seek(MiB - 4096)
        file.write(old[:4096])
    equal((t.mnt / "s").read_bytes()[:8192], old, "the snapshot")
    equal((t.path / "d.img").read_bytes()[MiB - 4096:MiB], old[:4096], "what is new")
    definition.write_text(text)
    message = stderr_of(lab.VOLFS, "apply", definition, t.mnt, "--yes")
    holds("map m: cannot become smaller while there are snapshots of it" in message, message)


def test_apply_keeps_snapshots_whole(t):
    low = ("volfs: 1\nimages:\n  d: {path: d.img, size: 8MiB}\nmaps:\n"
           '  m: {table: "0 1024 linear d 0"}\n  n: {table: "0 1024 linear d 4096"}\n')
    text = low + "snapshots:\n  s: {origin: m, cow: {path: s.cow, size: 2MiB}, chunk_size: 4KiB}\n"
    definition = t.define(text)
    volfs("create", definition)
    t.mount(definition)
    table = (t.mnt / ".volfs/table").read_text()
    for wrong, words in (("origin: n", "its origin is m on the mount and n in the definition"),
                         ("chunk_size: 8KiB", "chunk size in sectors is 8 on the mount and 16 in the definition")):
        definition.write_text(text.replace("origin: m" if "origin" in wrong else "chunk_size: 4KiB", wrong))
        message = stderr_of(lab.VOLFS, "apply", definition, t.mnt, "--yes")
        holds("snapshot s: " in message and words in message, message)
    # Nor does a table of the map itself go round what the snapshot stands on.
    message = stderr_of(lab.VOLFS, "map", "load", t.mnt / "m", "--table", "0 1024 linear d 0")
    holds("'s' is a snapshot of it" in message and "m-real" in message, message)
    equal((t.mnt / ".volfs/table").read_text(), table, "tables")
    # Without the snapshot all is as it was before there was one, also for the next.
    definition.write_text(low)
    equal(volfs("apply", definition, t.mnt, "-n"), "- snapshot s (what it keeps is lost)\n", "the plan")
    volfs("apply", definition, t.mnt, "--yes")
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")
    volfs("snapshot", "create", t.mnt / "again", "--origin", "m", "--cow", t.path / "again.cow", "--size", "2MiB")
    (t.mnt / "m").open("r+b", buffering=0).write(b"new")
    equal((t.mnt / "again").read_bytes()[:3], bytes(3), "the snapshot")
    volfs("map", "load", t.mnt / "n", "--table", "0 2048 linear d 4096")
    volfs("map", "clear", t.mnt / "n")


GROUP = """
volfs: 1
images:
  pv0: {path: pv0.img, size: 64MiB}
volume_groups:
  vg0:
    physical_volumes: [pv0]
    logical_volumes:
      root: {size: 16MiB}
      home: {size: 8MiB}
"""


def test_apply_makes_resizes_and_removes_logical_volumes(t):
    definition = t.define(GROUP)
    volfs("create", definition)
    t.mount(definition)
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "an unchanged group")
    (t.mnt / "vg0/root").open("r+b", buffering=0).write(b"data of root")
    definition.write_text(GROUP.replace("home: {size: 8MiB}", "home: {size: 800MiB}"))
    told = stderr_of(lab.VOLFS, "apply", definition, t.mnt, "--yes")
    holds("vg0/home: not enough free extents" in told and "steps are done" not in told, told)
    definition.write_text(GROUP.replace("root: {size: 16MiB}", "root: {size: 24MiB}")
                          .replace("home: {size: 8MiB}", "var: {size: 4MiB}"))
    equal(volfs("apply", definition, t.mnt, "-n").splitlines(),
          ["- lv vg0/home (its data is lost)", "~ lv vg0/root: 24MiB instead of 16MiB", "+ lv vg0/var: linear"],
          "the plan")
    holds("--yes" in stderr_of(lab.VOLFS, "apply", definition, t.mnt), "not refused in a pipe")
    with open(t.mnt / "vg0/home", "rb"):
        holds("vg0/home: in use" in stderr_of(lab.VOLFS, "apply", definition, t.mnt, "-y"), "a used volume goes")
    volfs("apply", definition, t.mnt, "--yes")
    equal(sorted(os.listdir(t.mnt / "vg0")), ["root", "var"], "volumes")
    without = t.define(GROUP[:GROUP.index("volume_groups:")], "without.yaml")
    plan = volfs("apply", without, t.mnt, "-n").splitlines()
    equal(plan, ["- volume group vg0: its files (the volumes stay)"], "the plan without the group")
    equal((t.mnt / "vg0/root").stat().st_size, 24 * MiB, "size of root")
    equal((t.mnt / "vg0/root").read_bytes()[:12], b"data of root", "data of root")
    equal(volfs("apply", definition, t.mnt), "nothing to do\n", "applied once more")
    t.umount()
    t.mount(definition)
    equal((t.mnt / "vg0/root").stat().st_size, 24 * MiB, "size of root after a new mount")


def test_images_join_and_leave(t):
    mount, _ = fresh(t)
    t.file("disk9.img", MiB)
    with mount.events() as events:
        volfs("image", "add", t.mnt, "disk9", t.path / "disk9.img")
        equal(events.next_within(20)["event"], "image.added", "event")
    equal(mount.device("disk9")["path"], str(t.path / "disk9.img"), "path")
    for words, expected in [
            (("add", t.mnt, "disk9", t.path / "other"), "No such file"),
            (("add", t.mnt, "again", t.path / "disk9.img"), "is image disk9 already"),
            (("add", t.mnt, "data", t.path / "disk1.img"), "disk1"),
            (("add", t.mnt, "a/b", t.path / "disk9.img"), "not a name"),
            (("add", t.mnt, "own", t.mnt / "data"), f"{t.mnt}/data: a file of this mount itself"),
            (("add", t.mnt, "own", t.mnt / ".volfs/table"), "a file of this mount itself"),
            (("add", t.mnt, "memory", "/proc/self/mem"), "a file of the kernel's"),
            (("remove", t.mnt, "disk0"), "disk0: in use by data"),
            (("remove", t.mnt, "data"), "data: not an image but a map"),
            (("remove", t.mnt, "nothing"), "nothing: no such device")]:
        message = stderr_of(lab.VOLFS, "image", *words)
        holds(expected in message, f"{words}: {message!r} says nothing of {expected!r}")
    mount.request("map.create", map="nine", table="0 8 linear disk9 0")
    holds("in use by nine" in stderr_of(lab.VOLFS, "image", "remove", t.mnt, "disk9"), "a used image leaves")
    (t.mnt / "nine").open("r+b", buffering=0).write(b"nine")
    mount.request("map.remove", map="nine")
    volfs("image", "remove", t.mnt, "disk9")
    equal((t.path / "disk9.img").read_bytes()[:4], b"nine", "what was written")


def test_events_command_follows_until_the_end(t):
    mount, _ = fresh(t)
    follower = subprocess.Popen([lab.VOLFS, "events", t.mnt], stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    mount.request("map.suspend", map="data")
    equal(json.loads(follower.stdout.readline())["event"], "map.suspended", "event")
    mount.request("map.resume", map="data")
    t.umount()
    rest = [json.loads(line)["event"] for line in follower.communicate(timeout=20)[0].splitlines()]
    equal((rest, follower.returncode), (["map.resumed", "mount.ending"], 0), "the rest")


def test_an_ordinary_user_needs_only_dev_fuse(t):
    """As the container example: a namespace of the user's own, no root, no fusermount3."""
    lab.need_program("unshare")
    user = t.ordinary_user()
    if subprocess.run(["unshare", "-Urm", "true"], **user).returncode != 0:
        raise lab.Skip("no user namespaces here")
    definition = t.define('volfs: 1\nimages: {disk0: disk0.img}\nmaps: {data: {table: "0 64 linear disk0 0"}}\n')
    image = t.file("disk0.img", MiB)
    if user:
        for path in (definition, image):
            os.chown(path, user["user"], user["group"])
    script = ('"$1" mount "$2" "$3" && printf data | dd of="$3/data" conv=notrunc 2>/dev/null && '
              '"$1" umount "$3"')
    run("unshare", "-Urm", "sh", "-c", script, "sh", lab.VOLFS, definition, t.mnt, **user)
    equal(image.read_bytes()[:4], b"data", "what was written")


def complete(t, *words, line=""):
    """What bash offers for the last of the words, which it has of LINE; of mounts only this test's."""
    completions = pathlib.Path(__file__).resolve().parents[2] / "conf/completions/volfs.bash"
    script = ('source "$1"; shift; compopt() { :; }; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _volfs; '
              'printf "%s\\n" "${COMPREPLY[@]}"')
    path = f"{os.path.dirname(os.path.abspath(lab.VOLFS))}:{os.environ['PATH']}"
    empty = t.path / "empty"  # no files to be offered, too
    empty.mkdir(exist_ok=True)
    lines = run("bash", "-c", script, "bash", completions, *words, cwd=empty,
                env={**os.environ, "PATH": path, "COMP_LINE": line}).splitlines()
    return sorted(line for line in lines if line and (line[0] != "/" or line.startswith(str(t.path))))


def test_completion_knows_volumes_members_and_images(t):
    lab.need_program("findmnt", "bash")
    mount, _ = fresh(t)
    mnt = str(t.mnt)
    equal(complete(t, "volfs", "app"), ["apply"], "a command")
    equal(complete(t, "volfs", "map", "res"), ["resume"], "a command of map")
    equal(complete(t, "volfs", "top", mnt[:-1]), [mnt], "a mount")
    equal(complete(t, "volfs", "map", "table", ""), [f"{mnt}/"], "the mounts, that may have maps")
    equal(complete(t, "volfs", "map", "table", f"{mnt}/"),
          [f"{mnt}/{name}" for name in ("data", "top", "wide")], "maps, each once")
    equal(complete(t, "volfs", "map", "table", f"{mnt}/w"), [f"{mnt}/wide"], "one map")
    equal(complete(t, "volfs", "where", mnt, "--image", "disk"), ["disk0", "disk1"], "images")
    equal(complete(t, "volfs", "image", "remove", mnt, ""), ["disk0", "disk1"], "images to remove")
    equal(complete(t, "volfs", "apply", "--dr"), ["--dry-run"], "an option")
    equal(complete(t, "volfs", "array", "add", f"{mnt}/md0", "--y"), ["--yes"], "an option of array")
    equal(complete(t, "volfs", "create", "--y"), ["--yes"], "an option of create")
    for words, expected in (
            (("array", "create", f"{mnt}/md0", "--level", "raid1"), ["raid1", "raid10"]),
            (("array", "create", f"{mnt}/md0", "--level", "=", "raid5"), ["raid5"]),
            (("array", "create", f"{mnt}/md0", "--consistency-policy", ""), ["bitmap", "ppl", "resync"]),
            (("array", "create", f"{mnt}/md0", "-e", "1."), ["1.0", "1.1", "1.2"]),
            (("lv", "change", f"{mnt}/vg/a", "-p", ""), ["r", "rw"]),
            (("lv", "create", f"{mnt}/vg/a", "--type", "raid1"), ["raid1", "raid10"]),
            (("lv", "create", f"{mnt}/vg/a", "--alloc", "c"), ["cling", "contiguous"]),
            (("lv", "extend", f"{mnt}/vg/a", "-l", "+"), ["+100%FREE"]),
            (("lv", "extend", f"{mnt}/vg/a", "-l", "9", "disk"), ["disk0", "disk1"]),
            (("lv", "extend", f"{mnt}/w"), [f"{mnt}/wide"]),
            (("lv", "change", f"{mnt}/vg/a", "--syncaction", "c"), ["check"]),
            (("lv", "activate", f"{mnt}/vg", "--activationmode", "p"), ["partial"])):
        equal(complete(t, "volfs", *words), expected, f"{words}")
    t.umount()
    group = t.define(GROUP.replace("home: {size: 8MiB}", "home: {size: 8MiB, tags: [new, old-one]}\n      "
                                   "be-fore: {type: snapshot, origin: home, size: 4MiB}"), "group.yaml")
    volfs("create", group)
    t.mount(group)
    equal(complete(t, "volfs", "lv", "merge", f"{mnt}/"), [f"{mnt}/vg0/be-fore"], "what can be merged")
    equal(complete(t, "volfs", "lv", "change", f"{mnt}/vg0/home", "--deltag", ""), ["new", "old-one"], "tags")
    # To bash NAME@UUID is three words.
    full = f"vg0@{t.status()['volume_groups'][0]['uuid']}"
    t.umount()
    t.mount(t.define(group.read_text().replace("  vg0:", f"  {full}:"), "full.yaml"))
    words = [f"{mnt}/vg0", "@", full.removeprefix("vg0@") + "/h"]
    equal(complete(t, "volfs", "lv", "extend", *words, line=f"volfs lv extend {''.join(words)}"), [words[2] + "ome"],
          "a volume of a group by its full name")
    equal(complete(t, "volfs", "lv", "merge", *words[:2], words[2][:-1], line=f"volfs lv merge {''.join(words)[:-1]}"),
          [words[2][:-1] + "be-fore"], "a snapshot of it")
    t.umount()
    array = t.define("volfs: 1\nimages:\n" + "".join(f"  a{i}: {{path: a{i}.img, size: 4MiB}}\n" for i in range(3)) +
                     "arrays:\n  nas: {level: raid1, devices: [a0, a1]}\n", "array.yaml")
    volfs("create", array)
    t.mount(array)
    equal(complete(t, "volfs", "array", "add", f"{mnt}/nas", ""), ["a2"], "what can be added to an array")
    if shutil.which("zsh"):
        run("zsh", "-n", pathlib.Path(__file__).resolve().parents[2] / "conf/completions/_volfs")


def test_every_command_has_a_page(t):
    pages = pathlib.Path(__file__).resolve().parents[2] / "man"
    commands = re.findall(r"(?m)^  ([a-z]+)  +", volfs("--help").split("Subcommands:")[1])
    holds(len(commands) > 12, f"commands: {commands}")
    listed = run(sys.executable, pages / "pages.py", pages / "volfs.1.scd", "--list").split()
    equal(sorted(commands), sorted(listed), "commands and pages")
    for command in commands:
        text = run(sys.executable, pages / "pages.py", pages / "volfs.1.scd", command)
        options = set(re.findall(r"--[a-z][a-z-]+", volfs(command, "--help"))) - {"--help", "--verbose", "--version"}
        for option in options - {"--json"}:
            holds(option in text, f"volfs-{command}(1) says nothing of {option}")


if __name__ == "__main__":
    lab.main(globals())
