"""From a NeMo CTC checkpoint to a checked, published Triton model repository."""

import os

# Libraries report their use unless this is set before they are loaded, and some load others: NeMo loads ONNX Runtime.
# Servers that are started inherit it.
os.environ.update(
    {
        "ORT_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "WANDB_ERROR_REPORTING": "false",
    }
)
