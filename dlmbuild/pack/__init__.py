"""A document with its trained adapter in one file, to carry to another machine."""
