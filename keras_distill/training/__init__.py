"""Training: the distiller, its objective, its terms, and the train step of each backend."""
