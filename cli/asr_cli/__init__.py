"""Transcribe, benchmark and diagnose speech recognition that this project serves."""
