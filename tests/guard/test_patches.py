"""Which paths a patch in the format of `apply_patch` names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcp_claims.guard.patches import patched_paths

PATCH = """\
*** Begin Patch
*** Add File: src/new.py
+import os
+*** Add File: added-line.py
*** Update File: src/app.py
*** Move to: src/main.py
@@ def run():
-*** Delete File: removed-line.py
+pass
*** Update File: docs/a b.md
@@
-old
+new
*** End of File
*** Delete File: src/old.py
*** End Patch
"""


def test_each_kind_of_change_names_its_path_in_order() -> None:
    assert patched_paths(PATCH) == ["src/new.py", "src/app.py", "src/main.py", "docs/a b.md", "src/old.py"]


def test_a_path_is_named_once() -> None:
    assert patched_paths("*** Begin Patch\n*** Update File: a\n*** Update File: a\n*** End Patch") == ["a"]


def test_what_stands_outside_of_the_patch_does_not_count() -> None:
    outside = "*** Add File: before\n{}*** Add File: behind\n"
    assert patched_paths(outside.format(PATCH)) == patched_paths(PATCH)


def test_a_second_patch_counts() -> None:
    assert patched_paths(f"{PATCH}\n*** Begin Patch\n*** Delete File: z\n*** End Patch") == [*patched_paths(PATCH), "z"]


def test_a_patch_without_its_first_line_is_read() -> None:
    assert patched_paths("*** Update File: a\n@@\n-x\n+y\n*** End Patch\n*** Add File: b") == ["a"]


def test_line_ends_of_windows_are_no_part_of_a_path() -> None:
    assert patched_paths(PATCH.replace("\n", "\r\n")) == patched_paths(PATCH)


def test_blanks_around_a_marker_hide_no_path_since_codex_ignores_them() -> None:
    assert patched_paths(" *** Begin Patch\n  *** Delete File:  a \n\t*** Add File: b\n+x\n*** End Patch") == ["a", "b"]


def test_a_line_of_context_that_looks_like_the_end_ends_nothing() -> None:
    text = "*** Begin Patch\n*** Update File: a\n@@\n *** End Patch\n-x\n*** Delete File: b\n*** End Patch"
    assert patched_paths(text) == ["a", "b"]


def test_a_marker_without_a_path_and_a_path_that_is_too_long_are_skipped() -> None:
    assert patched_paths(
        f"*** Add File:\n*** Add File: \n*** Add File: {'x' * 4_097}\n*** Add File: {'y' * 4_096}"
    ) == ["y" * 4_096]


def test_at_most_two_hundred_paths_are_returned() -> None:
    assert patched_paths("\n".join(f"*** Add File: {n}" for n in range(300))) == [str(n) for n in range(200)]


def test_a_marker_behind_a_long_file_counts() -> None:
    assert patched_paths("*** Begin Patch\n*** Add File: a\n" + "+x\n" * 100_000 + "*** Delete File: b\n") == ["a", "b"]


@given(st.lists(st.sampled_from([*PATCH.splitlines(), "*** ", "***", " ", "\0", "\x85"]) | st.text(), max_size=20))
def test_any_text_has_a_list_of_paths(lines: list[str]) -> None:
    paths = patched_paths("\n".join(lines))
    assert len(set(paths)) == len(paths) and all(path == path.strip() != "" for path in paths)
