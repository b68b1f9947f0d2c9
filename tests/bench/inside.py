"""Run doit with the words given, and then print as JSON what it took: its own CPU seconds, its jobs', bytes hashed.

python tests/bench/inside.py export:Q4_K_M
"""

from __future__ import annotations

import atexit
import gc
import json
import resource
import sys

from doit.doit_cmd import DoitMain

from dlmbuild.io.statcache import StatCache


def main() -> int:
    code = DoitMain().run(sys.argv[1:])
    caches = [cache for cache in gc.get_objects() if isinstance(cache, StatCache)]
    atexit._run_exitfuncs()  # then the process that jobs are forked from has ended, and what they took is counted
    own, jobs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    found = {
        "own": own.ru_utime + own.ru_stime,
        "jobs": jobs.ru_utime + jobs.ru_stime,
        "hashed": sum(cache.bytes_hashed for cache in caches),
    }
    print("\n" + json.dumps(found))
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
