"""Client of an ASR model repository on Triton: transcribe, bench, doctor."""
