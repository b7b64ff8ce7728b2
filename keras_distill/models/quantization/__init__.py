"""Quantization-aware training: students that train with the rounding of their exported integers."""
