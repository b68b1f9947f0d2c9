"""What this repository builds: the documents under examples/."""

from dlmbuild.rules import project

globals().update(project("examples/*/*.dlm"))
