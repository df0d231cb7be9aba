"""What runs inside Triton: numpy and the standard library only.

The folder of each Python model in the repository gets a copy of this package.
"""
