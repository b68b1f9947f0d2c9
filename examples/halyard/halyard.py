"""halyard: hoist a call again until it holds."""

import functools
import os
import subprocess
import sys
import time

_calm = 0


class Slack(Exception):
    """Every try failed. `last` is the error of the last one."""

    def __init__(self, last):
        super().__init__(f"gave up: {last!r}")
        self.last = last


class calm:
    """Inside `with calm():` nothing waits. For tests."""

    def __enter__(self):
        global _calm
        _calm += 1

    def __exit__(self, *error):
        global _calm
        _calm -= 1


def hoist(tries=4, pause=0.25, ceiling=8, only=OSError):
    """Decorate a function so that it is called again when it raises `only`."""

    def decorate(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            wait = pause
            for left in reversed(range(tries)):
                try:
                    return function(*args, **kwargs)
                except only as error:
                    if os.environ.get("HALYARD_LOG"):
                        print(f"halyard: {error!r}, {left} left", file=sys.stderr)
                    if not left:
                        raise Slack(error) from error
                if not _calm:
                    time.sleep(wait)
                wait = min(wait * 2, ceiling)

        return call

    return decorate


def main():
    """python -m halyard COMMAND...: run a command again until it exits with 0."""
    run = hoist(only=subprocess.CalledProcessError)(subprocess.run)
    try:
        run(sys.argv[1:], check=True)
    except Slack:
        sys.exit(75)


if __name__ == "__main__":
    main()
