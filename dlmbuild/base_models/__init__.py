"""Base models: what a document may name in `base_model`, and how that becomes a folder of checkpoint files.

registry    the rows of registry.toml: bases that are known by a short name, pinned to a commit
reference   what a `base_model` line means
resolve     a reference becomes a checkpoint folder and the facts about it
license     what has to be accepted before a gated base is used
"""
