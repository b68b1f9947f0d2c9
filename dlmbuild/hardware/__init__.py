"""What this machine can do, and the training plan that follows from it."""
