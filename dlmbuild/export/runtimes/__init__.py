"""What runtimes other than Ollama load: how each is started, and the layout that each wants of an adapter.

Every script answers to this machine alone, unless a person adds an option that says otherwise.
"""

HERE = """set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
"""
"""The beginning of a script for any POSIX shell: `$here` is the folder that it lies in."""
