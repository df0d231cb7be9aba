"""What runs inside Triton: numpy and the standard library only. Each Python model's folder gets a copy of this package."""
