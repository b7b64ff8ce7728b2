"""What trains: the distiller, its objective, terms, and the step of each backend."""
