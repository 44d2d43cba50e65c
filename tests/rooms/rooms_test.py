#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Includes point one way, every source has its licence line, nothing names a place outside."""

import pathlib
import sys
import tempfile
import unittest

import rooms

ROOT = pathlib.Path(sys.argv.pop(1))


class ThisTree(unittest.TestCase):
    def check(self, complaints):
        complaints = list(complaints)
        if complaints:
            self.fail("\n" + "\n".join(complaints))

    def test_includes_point_one_way(self):
        self.check(rooms.check_rooms(ROOT))

    def test_every_source_has_a_licence_line(self):
        self.check(rooms.check_licences(ROOT))

    def test_nothing_names_a_folder_outside_the_project(self):
        self.check(rooms.check_foreign_words(ROOT))


class Checks(unittest.TestCase):
    """Each rule complains about a small tree that breaks it, naming file and line."""

    def tree(self, files):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        root = pathlib.Path(folder.name)
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return root

    def complaints(self, files, check=rooms.check_rooms):
        return list(check(self.tree(files)))

    def test_an_include_that_points_up(self):
        found = self.complaints({
            "include/volfs/engine/graph.h": "",
            "src/md/array.cc": '#include <vector>\n#include "volfs/engine/graph.h"\n'})
        self.assertEqual(
            found, ["src/md/array.cc:2: md may not include engine (include/volfs/engine/graph.h)"])

    def test_a_private_header_of_another_room(self):
        found = self.complaints({"src/dm/table.h": "", "src/engine/plan.cc": '#include "dm/table.h"\n'})
        self.assertEqual(found, ["src/engine/plan.cc:1: src/dm/table.h is private to dm; "
                                 "what crosses rooms is in include/volfs"])

    def test_a_header_that_does_not_exist(self):
        found = self.complaints({"src/dm/table.cc": '#include "tabel.h"\n'})
        self.assertEqual(found, ['src/dm/table.cc:1: "tabel.h" is not found'])

    def test_only_the_raid_and_mirror_targets_of_dm_include_md(self):
        files = {"include/volfs/md/array.h": "", "src/dm/targets/raid.cc": '#include "volfs/md/array.h"\n'}
        self.assertEqual(self.complaints(files), [])
        files["src/dm/targets/linear.cc"] = files["src/dm/targets/raid.cc"]
        self.assertEqual(len(self.complaints(files)), 1)

    def test_locks_and_clocks_outside_base(self):
        text = "std::mutex m;\nauto t = std::chrono::steady_clock::now();\n"
        self.assertEqual(len(self.complaints({"src/block/lock.cc": text})), 2)
        self.assertEqual(self.complaints({"src/base/lock.cc": text}), [])

    def test_a_heavy_header_in_a_public_header(self):
        text = "#include <nlohmann/json.hpp>\n"
        self.assertEqual(len(self.complaints({"include/volfs/control/reply.h": text})), 1)
        self.assertEqual(self.complaints({"src/control/reply.cc": text}), [])

    def test_a_folder_that_is_no_room(self):
        self.assertEqual(len(self.complaints({"src/misc/x.cc": ""})), 1)

    def test_a_missing_licence_line(self):
        found = self.complaints({"src/md/x.cc": "int x;\n"}, rooms.check_licences)
        self.assertEqual(found, ["src/md/x.cc:1: the first line is not "
                                 "'SPDX-License-Identifier: GPL-2.0-or-later'"])

    def test_a_folder_outside(self):
        text = "one\nsee /wor" "k/main\n"
        self.assertEqual(self.complaints({"README.md": text}, rooms.check_foreign_words),
                         ["README.md:2: names a folder outside the project"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
