"""A heavy step as a job: a specification in, files out, in a process of its own.

A process of its own because determinism wants its environment set before torch is loaded, because memory is given back
when it ends, and because a crash of native code then kills nobody else.
"""
