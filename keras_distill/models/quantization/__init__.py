"""Students that are trained with the rounding of the integers that they will be exported as."""
