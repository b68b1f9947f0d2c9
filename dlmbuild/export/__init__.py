"""From a checkpoint and an adapter to the files that llama.cpp loads."""
