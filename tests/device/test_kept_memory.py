"""What the C library does with freed memory, told by the pages that the system had to fill."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

if not sys.platform.startswith("linux") or os.confstr("CS_GNU_LIBC_VERSION") is None:
    pytest.skip("not the GNU C library", allow_module_level=True)

# Blocks of 48 MiB: the C library maps each of them anew, whatever it has learned.
CODE = """
import json, resource, sys
from edge_runtime.memory import give_back, keep_freed

kept = keep_freed() if sys.argv[1] == "keep" else None
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(48 << 20)
before = faults()
for _ in range(5):
    b"x" * (48 << 20)
many = faults() - before
give_back()
before = faults()
b"x" * (48 << 20)
print(json.dumps([kept, many, faults() - before]))
"""
PAGES = (48 << 20) // os.sysconf("SC_PAGE_SIZE")


def pages_filled(word, **settings):
    own = {n: v for n, v in os.environ.items() if not n.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    words = [sys.executable, "-c", CODE, word]
    return json.loads(subprocess.run(words, env=own | settings, capture_output=True).stdout)


def test_a_large_block_is_mapped_anew_each_time():
    kept, many, _ = pages_filled("leave")
    assert kept is None
    assert many > 4 * PAGES


def test_freed_memory_is_kept_for_the_next_use_until_it_is_given_back():
    kept, many, after_giving_back = pages_filled("keep")
    assert kept is True
    assert many < PAGES
    assert after_giving_back > PAGES / 2


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_settings_of_the_user_stand(name):
    value = "glibc.malloc.arena_max=2" if name == "GLIBC_TUNABLES" else "1048576"
    kept, many, _ = pages_filled("keep", **{name: value})
    assert kept is False
    assert many > 4 * PAGES
