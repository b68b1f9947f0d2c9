"""Documents are source code, tuned local models are the build output, doit decides what to rebuild."""

__version__ = "0.1.0"
