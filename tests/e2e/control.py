# SPDX-License-Identifier: GPL-2.0-or-later
"""The control file and the stream of events, by the Python client and by a shell."""
import json
import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients/python"))

import lab
import volfs as client
from lab import MiB, equal, holds, run, stderr_of, volfs, wait_until

DEFINITION = """
volfs: 1
images:
  disk0: {path: disk0.img, size: 8MiB}
  disk1: {path: disk1.img, size: 8MiB}
maps:
  data: {table: "0 8192 linear disk0 0"}
  other: {table: "0 8192 linear disk1 8192"}
"""


def fresh(t):
    for name in ("disk0.img", "disk1.img"):
        t.file(name, 8 * MiB)
    t.mount(t.define(DEFINITION))
    return client.Mount(t.mnt)


def refused(function, *arguments, **keys):
    try:
        function(*arguments, **keys)
    except client.Error as error:
        return error
    raise lab.Failed(f"{arguments} {keys}: not refused")


def test_a_shell_speaks_to_the_control_file(t):
    fresh(t)
    script = (f"exec 3<>{t.mnt}/.volfs/control\n"
              """echo '{"request":"map.table","map":"data"}' >&3; cat <&3\n"""
              """echo '{"request":"nothing"}' >&3; cat <&3\n""")
    first, second = run("sh", "-c", script).splitlines()
    equal(json.loads(first), {"ok": True, "result": "0 8192 linear disk0 0\n"}, "a good request")
    equal(json.loads(second)["error"]["code"], "ENOSYS", "the code of an unknown request")


def test_errors_have_code_message_and_place(t):
    mount = fresh(t)
    error = refused(mount.request, "map.load", map="data", table="0 8 zero\n9 8 zero")
    equal((error.code, error.errno, error.place), ("EINVAL", 22, "table:2"), "a table")
    error = refused(mount.request, "map.suspend", map="data", timeout_ms=-1)
    equal((error.code, error.place), ("EINVAL", "timeout_ms"), "a key")
    with open(t.mnt / "data", "rb"):
        error = refused(mount.request, "map.remove", map="data")
        equal((error.code, error.place), ("EBUSY", "data"), "a device in use")
        holds(f"python3 (pid {os.getpid()})" in error.message or f"(pid {os.getpid()})" in error.message,
              f"who uses it is not said: {error.message}")
        users = mount.request("volume.users", volume="data")
        equal((users["open"], [user["pid"] for user in users["users"]]), (1, [os.getpid()]), "users")


# Of each type of a key what it is not.
WRONG_VALUES = {"string": (7, ["x"]), "boolean": ("yes", 1), "integer": (-1, "4096"), "array": ("x", [1])}


def test_what_is_malformed_is_refused_with_its_place(t):
    """Every request, by its schema: keys that it has not, that are missing, of another type; then values."""
    mount = fresh(t)
    before, wrong = mount.request("status"), []
    for name, schema in mount.request("mount.requests").items():
        keys = {key: about for key, about in schema["properties"].items() if key != "request"}
        right = {key: {"string": "/x", "boolean": True, "integer": 1, "array": []}[about["type"]]
                 for key, about in keys.items() if key in schema["required"]}
        wrong.append((name, {**right, "never": 1}, "never"))
        for key, about in keys.items():
            for value in WRONG_VALUES[about["type"]]:
                wrong.append((name, {**right, key: value}, key))
            if key in right:
                wrong.append((name, {k: v for k, v in right.items() if k != key}, key))
    for name, body, place in wrong:
        error = refused(mount.request, name, **body)
        equal((error.code, error.place), ("EINVAL", place), f"{name} {body}")
        holds(error.message.startswith(f"{name}: ") and f"'{place}'" in error.message, f"{name} {body}: {error.message}")
    holds("'add_tags' has in it 1; expected a list of strings" in
          refused(mount.request, "lv.change", lv="vg/a", add_tags=[1]).message, "what is wrong in a list")
    holds(len(wrong) >= 100, f"only {len(wrong)} malformed requests")
    for name in ("device.contents", "array.speed", "lv.change", "vg.activate", "mount.add_image"):
        holds(any(each[0] == name for each in wrong), f"{name} was not tried")
    for name, body, code, place, said in (
            ("device.contents", {"device": "disk9"}, "ENOENT", "disk9", "no such device"),
            ("array.speed", {"array": "data", "min": 1}, "ENOTTY", "data", "no array"),
            ("lv.change", {"lv": "vg/a", "permission": "r"}, "ENOENT", "vg/a", "no volume group 'vg'"),
            ("lv.change", {"lv": "a", "permission": "r"}, "EINVAL", "a", "expected GROUP/VOLUME"),
            ("vg.check", {"vg": "vg", "requests": []}, "ENOENT", "vg", "no volume group 'vg'"),
            ("vg.activate", {"vg": "vg"}, "ENOENT", "vg", "no volume group 'vg'"),
            ("vg.activate", {"vg": "vg", "activation": "some"}, "EINVAL", "vg", "expected complete, degraded or partial"),
            ("vg.activate", {"vg": "vg", "devices": ["disk9"]}, "ENOENT", "vg", "disk9"),
            ("snapshot.remove", {"snapshot": "data"}, "ENOTTY", "data", "not a snapshot but a map"),
            ("snapshot.merge", {"snapshot": "data"}, "ENOTTY", "data", "not a snapshot"),
            ("snapshot.status", {"snapshot": "disk0"}, "ENOTTY", "disk0", "not a snapshot"),
            ("array.stop", {"array": "data"}, "ENOTTY", "data", "not an array but a map"),
            ("array.check", {"array": "data"}, "ENOTTY", "data", "no array"),
            ("map.load", {"map": "disk0", "table": "0 8 zero"}, "ENOTTY", "disk0", "not a map but an image"),
            ("mount.remove_image", {"image": "data"}, "ENOTTY", "data", "not an image but a map"),
            ("vg.deactivate", {"vg": "vg"}, "ENOENT", "vg", "no volume group 'vg'"),
            ("mount.add_image", {"image": "d", "path": "/nowhere"}, "ENOENT", "d", "/nowhere")):
        error = refused(mount.request, name, **body)
        equal((error.code, error.place), (code, place), f"{name} {body}: {error.message}")
        holds(said in error.message, f"{name} {body}: {error.message}")
    after = mount.request("status")
    for status in (before, after):
        for device in status["devices"]:
            device.pop("counters", None)
    equal(after, before, "the mount afterwards")


def test_64_clients_at_once(t):
    """Each makes, loads, looks at and removes maps of its own; one is suspended and waits all the time."""
    mount = fresh(t)
    mount.request("map.suspend", map="other")
    failures, done = [], []

    def work(number):
        try:
            mine = client.Mount(t.mnt)
            name = f"map{number}"
            for turn in range(8):
                size = 8 * (1 + (number + turn) % 100)
                mine.request("map.create", map=name, table=f"0 {size} linear disk1 {number}")
                equal(os.stat(t.mnt / name).st_size, size * 512, "size of a new map")
                mine.request("map.load", map=name, table=f"0 {size * 2} zero")
                mine.request("map.suspend", map=name)
                mine.request("map.resume", map=name)
                equal(mine.request("map.table", map=name), f"0 {size * 2} zero \n", "table")
                equal(mine.device(name)["size"], size * 1024, "size in the status")
                equal(refused(mine.request, "map.rename", map=name, to="data").code, "EEXIST", "a rename")
                mine.request("map.rename", map=name, to=name + "-b")
                mine.request("map.remove", map=name + "-b")
                holds(not (t.mnt / (name + "-b")).exists(), "a removed map is there")
            done.append(number)
        except Exception as error:  # told by the test, not the thread
            failures.append(f"client {number}: {error!r}")

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    equal(failures, [], "failures")
    equal(len(done), 64, "clients that came through")
    equal(sorted(os.listdir(t.mnt)), [".volfs", "data", "other"], "what is left")
    mount.request("map.resume", map="other")


def test_a_slow_request_blocks_no_other_and_a_dropped_client_leaves_nothing_half_done(t):
    mount = fresh(t)
    # A delayed write is under way, which a suspend waits for.
    mount.request("map.create", map="slow", table="0 8192 delay disk1 0 0 disk1 0 1500")
    writer = threading.Thread(target=lambda: os.pwrite(os.open(t.mnt / "slow", os.O_WRONLY | os.O_SYNC),
                                                       b"x" * 4096, 0), daemon=True)
    writer.start()
    time.sleep(0.4)
    control = os.open(mount.path("control"), os.O_RDWR)
    begun = time.monotonic()
    os.write(control, b'{"request":"map.suspend","map":"slow"}')
    os.close(control)  # the client is gone: the request is carried out all the same
    for _ in range(5):
        mount.request("status")
        mount.request("map.table", map="slow")
    holds(time.monotonic() - begun < 1, "other requests waited for a slow one")
    wait_until(lambda: mount.device("slow")["map"]["suspended"], "the suspend of a client that is gone", 20)
    writer.join(20)
    mount.request("map.resume", map="slow")
    # A killed client, while it waits.
    mount.request("map.suspend", map="data")
    equal(mount.device("data")["map"]["suspended"], True, "suspended")
    mount.request("map.resume", map="data")
    # Half a request is none.
    control = os.open(mount.path("control"), os.O_RDWR)
    os.write(control, b'{"request":"map.remove","map":"da')
    os.close(control)
    holds((t.mnt / "data").exists(), "half a request was carried out")


def test_events_reach_many_readers_in_order(t):
    mount = fresh(t)
    readers = [mount.events() for _ in range(20)]
    mount.request("map.create", map="new", table="0 8 zero")
    mount.request("map.load", map="new", table="0 16 zero")
    mount.request("map.suspend", map="new")
    mount.request("map.resume", map="new")
    mount.request("map.rename", map="new", to="newer")
    mount.request("map.remove", map="newer")
    expected = [("volume.added", "new"), ("map.loaded", "new"), ("map.suspended", "new"),
                ("map.resumed", "new"), ("volume.renamed", "newer"), ("volume.removed", "newer")]
    for reader in readers:
        got = [reader.next_within(20) for _ in expected]
        equal([(event["event"], event["device"]) for event in got], expected, "events")
        numbers = [event["number"] for event in got]
        equal(numbers, list(range(numbers[0], numbers[0] + len(got))), "numbers")
        equal(got[4]["from"], "new", "the old name")
        equal(got[3]["size"], 16 * 512, "the new size")
        equal(reader.next_within(0.1), None, "an event after the last")
        reader.close()


def test_events_poll_block_and_are_interrupted(t):
    mount = fresh(t)
    blocking = os.open(mount.path("events"), os.O_RDONLY)
    nonblocking = os.open(mount.path("events"), os.O_RDONLY | os.O_NONBLOCK)
    lab.raises(11, os.read, nonblocking, 4096)
    equal(select.select([blocking, nonblocking], [], [], 0.1)[0], [], "readable without an event")
    woken = []

    def wait():
        poll = select.poll()
        poll.register(nonblocking, select.POLLIN)
        woken.append(poll.poll(20000))

    waiter = threading.Thread(target=wait)
    waiter.start()
    got = []
    reader = threading.Thread(target=lambda: got.append(os.read(blocking, 4096)))
    reader.start()
    time.sleep(0.2)
    mount.request("map.suspend", map="data")
    waiter.join(20)
    reader.join(20)
    equal(woken, [[(nonblocking, select.POLLIN)]], "what poll says")
    equal([json.loads(text)["event"] for text in got], ["map.suspended"], "what a blocking read gives")
    equal(json.loads(os.read(nonblocking, 4096))["event"], "map.suspended", "what the other reads")
    mount.request("map.resume", map="data")
    equal(json.loads(os.read(blocking, 4096))["event"], "map.resumed", "an event that waited")

    # A signal that the program handles ends a read that waits.
    class Alarm(Exception):
        pass

    def ring(*_):
        raise Alarm

    before = signal.signal(signal.SIGUSR1, ring)
    try:
        for _ in range(3):
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            try:
                os.read(blocking, 4096)
                raise lab.Failed("a read came back without an event")
            except Alarm:
                pass
    finally:
        signal.signal(signal.SIGUSR1, before)
    mount.request("map.suspend", map="data")
    equal(json.loads(os.read(blocking, 4096))["event"], "map.suspended", "the event after interrupts")
    mount.request("map.resume", map="data")
    os.close(blocking)
    os.close(nonblocking)


ARRAY = """
volfs: 1
images:
  disk0: {path: a.img, size: 32MiB}
  disk1: {path: b.img, size: 32MiB}
  disk2: {path: c.img, size: 32MiB}
arrays:
  md0: {level: raid1, devices: [disk0, disk1], metadata: "1.2", assume_clean: true}
"""


def test_events_and_metrics_of_an_array(t):
    definition = t.define(ARRAY)
    volfs("create", definition)
    t.mount(definition)
    mount = client.Mount(t.mnt)
    with mount.events() as events:
        time.sleep(0.5)  # the watcher has looked once
        mount.request("array.fail", array="md0", device="disk1")
        expected = {"member.failed", "array.state"}
        while expected:
            event = events.next_within(30)
            holds(event, f"no event {expected}")
            expected.discard(event["event"])
            if event["event"] == "array.state":
                equal((event["device"], event["before"], event["state"]), ("md0", "active", "degraded"), "state")
            if event["event"] == "member.failed":
                equal(event["member"], "disk1", "the failed member")
        holds('volfs_array_degraded{device="md0",kind="array"} 1' in mount.metrics(), "metrics")
        mount.request("array.remove", array="md0", device="disk1")
        mount.request("array.add", array="md0", device="disk2")
        mount.request("array.wait", array="md0", timeout_ms=120000)
        seen = {}
        while not {"member.removed", "member.added", "member.in_sync", "array.state"} <= set(seen):
            event = events.next_within(30)
            holds(event, f"only {sorted(seen)}")
            seen[event["event"]] = event
        equal(seen["member.removed"]["member"], "disk1", "removed")
        equal(seen["member.in_sync"]["member"], "disk2", "in sync")
        equal(seen["array.state"]["state"], "active", "state at the end")
    holds('volfs_array_degraded{device="md0",kind="array"} 0' in mount.metrics(), "metrics at the end")
    holds('volfs_array_members{device="md0",kind="array",state="in_sync"} 2' in mount.metrics(), "members")


def test_a_slow_reader_is_told_what_it_lost(t):
    mount = fresh(t)
    with mount.events() as slow:
        for _ in range(2500):  # more events than are kept: 5000
            mount.request("map.suspend", map="data")
            mount.request("map.resume", map="data")
        first = slow.next_within(20)
        equal(first["event"], "lost", "what comes first")
        count, last = first["count"], None
        while event := slow.next_within(0.1):
            last, count = event, count + 1
        equal((count, last["event"]), (5000, "map.resumed"), "lost and read together")


def test_unmounting_ends_the_stream(t):
    mount = fresh(t)
    events = mount.events()
    ended = []
    follower = threading.Thread(target=lambda: ended.extend(events), daemon=True)
    follower.start()
    cat = subprocess.Popen(["cat", mount.path("events")], stdout=subprocess.PIPE)
    time.sleep(0.3)
    t.umount()
    follower.join(20)
    holds(not follower.is_alive(), "the follower still waits")
    equal([event["event"] for event in ended], ["mount.ending"], "the last event")
    equal((list(events), events.next_within(None)), ([], None), "asked once more after the end")
    equal(json.loads(cat.communicate(timeout=20)[0])["event"], "mount.ending", "what cat shows")
    # What else is open is named.
    fresh(t)
    with open(t.mnt / "data", "rb"):
        message = stderr_of(lab.VOLFS, "umount", t.mnt)
        holds(f"(pid {os.getpid()})" in message, f"who uses the mount is not said: {message}")


def test_a_refused_umount_ends_no_stream(t):
    mount = fresh(t)
    with mount.events() as events:
        with open(t.mnt / "data", "rb"):
            stderr_of(lab.VOLFS, "umount", t.mnt)
            mount.request("map.suspend", map="other")
            equal(events.next_within(20)["event"], "map.suspended", "what comes after a refused umount")
        mount.request("map.resume", map="other")
        equal(events.next_within(20)["event"], "map.resumed", "what comes then")


def test_an_empty_request_is_refused(t):
    fresh(t)
    control = os.open(t.mnt / ".volfs/control", os.O_RDWR)
    os.write(control, b"")
    reply = json.loads(os.read(control, 4096))
    equal((reply["ok"], reply["error"]["code"]), (False, "EINVAL"), "the reply")
    os.close(control)


def test_waiting_for_an_array(t):
    volfs("create", definition := t.define(ARRAY))
    t.mount(definition)
    mount = client.Mount(t.mnt)
    mount.request("array.frozen", array="md0")
    volfs("array", "wait", t.mnt / "md0", "--timeout", "0")  # nothing is to be synced
    mount.request("array.fail", array="md0", device="disk1")
    mount.request("array.remove", array="md0", device="disk1")
    mount.request("array.add", array="md0", device="disk2")
    holds("frozen" in stderr_of(lab.VOLFS, "array", "wait", t.mnt / "md0"), "that it is frozen is not said")
    mount.request("array.speed", array="md0", min=1024, max=1024)
    mount.request("array.idle", array="md0")
    equal(refused(mount.request, "array.wait", array="md0", timeout_ms=0).code, "ETIMEDOUT", "a look")
    # Who waits does not keep it from being stopped, and is told.
    errors = []
    waiter = threading.Thread(target=lambda: errors.append(refused(
        client.Mount(t.mnt).request, "array.wait", array="md0")))
    waiter.start()
    time.sleep(0.3)
    mount.request("array.stop", array="md0")
    waiter.join(20)
    equal([error.code for error in errors], ["ENODEV"], "the end of the wait")


def test_others_that_look_at_a_map_keep_it_from_nothing(t):
    fresh(t)
    errors = []

    def work(number):
        mount, name = client.Mount(t.mnt), f"map{number}"
        for _ in range(40):
            try:
                mount.request("map.create", map=name, table="0 8 linear disk1 0")
                mount.request("map.remove", map=name)
            except client.Error as error:
                errors.append(str(error))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    equal(errors, [], "maps that only one client has")


def test_the_c_client_compiles_and_speaks(t):
    lab.need_program("cc")
    fresh(t)
    source = pathlib.Path(__file__).resolve().parents[2] / "clients/c/example.c"
    example = t.path / "example"
    run("cc", "-std=c99", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2", "-o",
        example, source)
    equal(run(example, t.mnt, "data"), "0 8192 linear disk0 0\n", "the table of a map")
    message = stderr_of(example, t.mnt, 'no "such\n')
    equal(message, f"{example}: no \"such\n: no such device [ENOENT] at 'no \"such\n'\n", "an error")
    holds("No such file" in stderr_of(example, t.path, "data"), "no mount, no error")


def test_counters_tell_what_was_done(t):
    mount = fresh(t)
    with open(t.mnt / "data", "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"x" * 65536, 4096)
        os.fsync(file.fileno())
    with open(os.open(t.mnt / "data", os.O_RDONLY | os.O_DIRECT), "rb", buffering=0) as file:
        run("dd", f"if={t.mnt}/data", "of=/dev/null", "bs=4k", "count=16", "iflag=direct")
    counters = mount.device("data")["counters"]
    equal((counters["writes"] >= 1, counters["bytes_written"]), (True, 65536), "writes")
    equal((counters["reads"], counters["bytes_read"]), (16, 65536), "reads")
    equal((counters["flushes"] >= 1, counters["errors"], counters["in_flight"]), (True, 0, 0), "others")
    for kind in ("read", "write", "flush"):
        equal(sum(counters["latency_us"][kind].values()),
              counters[{"read": "reads", "write": "writes", "flush": "flushes"}[kind]], f"histogram of {kind}")
    image = mount.device("disk0")["counters"]
    equal((image["bytes_written"], image["bytes_read"]), (65536, 65536), "bytes of the image")
    metrics = mount.metrics()
    for line in ('volfs_bytes_total{device="data",kind="map",op="write"} 65536',
                 'volfs_operations_total{device="data",kind="map",op="read"} 16',
                 'volfs_operation_duration_seconds_count{device="data",kind="map",op="read"} 16',
                 'volfs_operation_duration_seconds_bucket{device="data",kind="map",op="read",le="+Inf"} 16',
                 'volfs_bytes_total{device="disk0",kind="image",op="write"} 65536',
                 'volfs_size_bytes{device="data",kind="map"} 4194304'):
        holds(line in metrics.splitlines(), f"{line} is not in the metrics")
    check_prometheus(metrics)
    mount.request("map.create", map="bad", table="0 8 error")
    lab.raises(5, lambda: open(t.mnt / "bad", "rb", buffering=0).read(512))
    holds(mount.device("bad")["counters"]["errors"] > 0, "an error was not counted")


def check_prometheus(text):
    """Each family has HELP and TYPE first and its lines together; each line a name, labels, a number."""
    seen, current = set(), None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            current = line.split()[2]
            holds(current not in seen, f"{current} comes twice")
            seen.add(current)
        elif line.startswith("# TYPE "):
            equal(line.split()[2], current, "a type")
        else:
            match = re.fullmatch(r'([a-z_]+)\{([a-z_]+="(?:[^"\\\\]|\\\\.)*",?)+\} ([0-9.e+-]+)', line)
            holds(match, f"not a line of metrics: {line}")
            holds(match[1].startswith(current), f"{line} stands below {current}")
            float(match[3])


if __name__ == "__main__":
    lab.main(globals())
