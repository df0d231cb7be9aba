"""The graphs that are exported, as torch modules: adapter of torch.

`LogMel` is NeMo's feature recipe in operations that every ONNX engine has (a product in place of an STFT), with
all padding masked by `where`. `CtcHead` adds what need not leave the device.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from asr_serving.tensors import Tensor
from model_builder.checkpoint import MAX_WEIGHT_BYTES, too_large
from model_builder.conformer_graph import Encoder, pointwise

OPSET = 17
STD_GUARD = 1e-5
"""NeMo adds it to each band's deviation (`nemo.collections.asr.parts.preprocessing.features.CONSTANT`)."""

MIN_UNIT = 2.0**-60
"""Powers in units of a smaller guard than this could leave the range of FP32."""
SERIES_BELOW = 0.01
"""Three terms of the series of log(1 + x) are exact to FP32 there."""


@dataclass(frozen=True, slots=True)
class MelRecipe:
    """What defines the features; taken from the checkpoint's own preprocessor.

    Attributes:
        window: [W] analysis window.
        mel: [bands, n_fft // 2 + 1] filter bank.
        n_fft: Points of the transform; the window is centred in it.
        hop: Samples between frames.
        preemphasis: Coefficient of the first-order pre-emphasis.
        log_guard: Added to each mel power before the logarithm.
    """

    window: torch.Tensor
    mel: torch.Tensor
    n_fft: int
    hop: int
    preemphasis: float
    log_guard: float


def unpack(audio: torch.Tensor) -> torch.Tensor:
    """Bytes [B, 2 L] uint8 of 16-bit integers, the low one of each first, to audio [B, L] float32 in [-1, 1)."""
    pairs = audio.to(torch.float32).reshape(audio.shape[0], -1, 2)
    unsigned = pairs[:, :, 0] + 256 * pairs[:, :, 1]
    return torch.where(unsigned < 2**15, unsigned, unsigned - 2**16) * 2**-15


class LogMel(nn.Module):
    """Audio and samples [B, 1] int32 to features [B, bands, L // hop + 1] and frames [B, 1] int32.

    Audio is [B, L] float32 in [-1, 1], or what `unpack` takes.

    Pre-emphasis, windowed power spectrum with zero-padded centres, mel bands, log; per band the mean removed and the
    deviation (N - 1) divided out over the true length; zero behind it. The recipe is that of NeMo's FilterbankFeatures.

    A band that is constant is exactly zero, so that a muted microphone has the same features alone and in any batch.
    NeMo's sums leave rounding noise there, which the division makes as large as speech. Two steps see to that, and
    change nothing else, since the mean takes a constant away: the power is counted in units of the guard, so that no
    power has the logarithm 0 and little power keeps its digits; and the first frame is subtracted before the mean.
    """

    def __init__(self, recipe: MelRecipe) -> None:
        super().__init__()
        window = recipe.window.to(torch.float64)
        offset = (recipe.n_fft - window.numel()) // 2
        time = torch.arange(offset, offset + window.numel(), dtype=torch.int64)
        frequency = torch.arange(recipe.n_fft // 2 + 1, dtype=torch.int64)[:, None]
        # The phase is reduced in integers first: large angles lose digits.
        angle = (frequency * time % recipe.n_fft).to(torch.float64) * (2 * torch.pi / recipe.n_fft)
        kernel = torch.cat([torch.cos(angle) * window, torch.sin(angle) * window])
        blocks = -(-window.numel() // recipe.hop)
        kernel = functional.pad(kernel, (0, blocks * recipe.hop - window.numel()))
        self.register_buffer("kernel", kernel.T.to(torch.float32).contiguous())
        unit = recipe.log_guard if recipe.log_guard >= MIN_UNIT else 1.0
        self.register_buffer("mel", (recipe.mel.to(torch.float64) / unit).T.to(torch.float32).contiguous())
        self._guard = recipe.log_guard / unit
        self._padding = recipe.n_fft // 2 - offset
        self._hop = recipe.hop
        self._blocks = blocks
        self._preemphasis = recipe.preemphasis

    def forward(self, audio: torch.Tensor, audio_length: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the features."""
        if audio.dtype == torch.uint8:
            audio = unpack(audio)
        zero = torch.zeros((), dtype=audio.dtype)
        inside = torch.arange(audio.shape[1])[None, :] < audio_length
        audio = torch.where(inside, audio, zero)
        emphasised = torch.cat([audio[:, :1], audio[:, 1:] - self._preemphasis * audio[:, :-1]], dim=1)
        emphasised = torch.where(inside, emphasised, zero)
        # Windows overlap: cut into blocks of one hop, each window is a few blocks side by side, and the transform of
        # all windows is one product, which engines do faster than a convolution of one channel.
        count = audio.shape[1] // self._hop + 1
        padded = functional.pad(emphasised, (self._padding, self._blocks * self._hop))
        whole = padded[:, : (count - 1 + self._blocks) * self._hop].reshape(audio.shape[0], -1, self._hop)
        windows = torch.cat([whole[:, block : block + count] for block in range(self._blocks)], dim=2)
        real, imaginary = torch.matmul(windows, self.kernel).chunk(2, dim=2)
        power = torch.matmul(real * real + imaginary * imaginary, self.mel)
        levels = torch.log(power + self._guard)
        if self._guard == 1:
            # 1 + power has no digits left for a power far below the guard: the logarithm's series has them.
            series = power * (1 - power * (0.5 - power / 3))
            levels = torch.where(power < SERIES_BELOW, series, levels)
        levels = levels.transpose(1, 2)
        features = levels - levels[:, :, :1]

        frames = torch.div(audio_length, self._hop, rounding_mode="floor")
        valid = (torch.arange(features.shape[2])[None, :] < frames)[:, None, :]
        count = frames[:, :, None].to(features.dtype)
        mean = torch.where(valid, features, zero).sum(dim=2, keepdim=True) / count
        centred = torch.where(valid, features - mean, zero)
        # A single frame deviates by nothing, as in NeMo.
        deviation = torch.sqrt((centred * centred).sum(dim=2, keepdim=True) / torch.clamp(count - 1, min=1))
        return centred / (deviation + STD_GUARD), frames.to(torch.int32)


class CtcHead(nn.Module):
    """From features [B, bands, T] and frames [B, 1].

    Gives best tokens [B, S], their log-probabilities [B, S], steps [B, 1], and all log-probabilities [B, S, classes].
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = Encoder(encoder)
        (classify,) = decoder.decoder_layers
        self.classify = pointwise(classify)
        self.temperature = float(decoder.temperature)

    def forward(
        self, processed_signal: torch.Tensor, processed_signal_length: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Run encoder and decoder; argmax and lengths in the graph."""
        encoded, lengths = self.encoder(processed_signal, processed_signal_length[:, 0].to(torch.int64))
        logits = self.classify(encoded)
        if self.temperature != 1.0:
            logits = logits / self.temperature
        logprobs = functional.log_softmax(logits, dim=-1)
        token_logprobs, tokens = logprobs.max(dim=2)
        return tokens.to(torch.int32), token_logprobs, lengths[:, None].to(torch.int32), logprobs


def export(
    module: nn.Module, path: Path, *, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], example: tuple[Any, ...]
) -> None:
    """Trace `module` with `example` and write it as ONNX, with the names and variable axes of the tensor table.

    Raises:
        UnsupportedCheckpointError: Its weights are more than one ONNX file can hold.
    """
    size = sum(weight.numel() * weight.element_size() for weight in (*module.parameters(), *module.buffers()))
    if size > MAX_WEIGHT_BYTES:
        raise too_large(size)

    def axes(tensor: Tensor) -> dict[int, str]:
        named = enumerate(zip(tensor.dims, tensor.axes, strict=True), start=1)
        return {0: "batch"} | {position: axis for position, (size, axis) in named if size < 0}

    with warnings.catch_warnings(), torch.inference_mode():
        # The tracer warns of each Python condition on a shape; the check stage shows whether one of them mattered.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            example,
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in inputs],
            output_names=[tensor.name for tensor in outputs],
            dynamic_axes={tensor.name: axes(tensor) for tensor in (*inputs, *outputs)},
        )
