"""doit's side: when a step is up to date, and what a person sees while steps run. Documented extension points only."""
