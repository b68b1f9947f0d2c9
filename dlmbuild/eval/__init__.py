"""Measuring a model: what it says to questions, how well it foresees texts, and what of that is right."""
