"""Several models or branches trained together."""
