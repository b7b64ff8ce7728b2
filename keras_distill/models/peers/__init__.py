"""Several models or branches that are trained together."""
