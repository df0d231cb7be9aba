"""The API group `asr-operator.dev`."""
