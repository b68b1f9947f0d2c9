"""What a build ran under: pins, base, plan, hardware tier; and what a project holds everybody to (dlm.lock)."""
