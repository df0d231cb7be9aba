"""From a NeMo CTC checkpoint to a checked, published Triton model repository."""
