"""What Ollama takes: a Modelfile beside a merged, quantised GGUF."""
