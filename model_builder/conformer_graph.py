"""NeMo's Conformer encoder arranged for inference engines: adapter of torch.

The weights and the results are NeMo's; what differs is how engines like it: `benchmarks/results/plans.json`.
Padding is masked only where a kernel could read it (NeMo masks every layer of the subsampling, which keeps convolutions
from being fused with what follows), and never by a product, so that whatever lies in the padding has no effect. The
relative positions of all layers are one product over the slice of the table that this length needs, and the shift of
Transformer-XL (Dai et al. 2019, appendix B) is a reshape without padding. Convolutions of width 1 are products, so that
activations keep the layout [batch, steps, channels] throughout.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

MASKED_SCORE = -10_000.0
"""NeMo's own, and within FP16; `exp` of it is zero."""
LARGE = 60_000.0
"""Above any activation, and within FP16."""


def _inside(steps: int | torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """[B, steps] bool: before the end of each utterance; `lengths` is [B]."""
    return torch.arange(steps, device=lengths.device)[None, :] < lengths[:, None]


def _masked(x: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Zero where not inside, whatever was there."""
    return torch.where(inside, x, torch.zeros((), dtype=x.dtype, device=x.device))


class Subsampling(nn.Module):
    """Features [B, T, F] and frames [B] to [B, S, d] through NeMo's strided convolutions, and steps [B].

    The output of the first convolution is by far the largest array of the model. Its mask costs nothing here: it is a
    second input channel, whose weight pushes what must be zero below zero before the ReLU. Later masks are a minimum
    with zero, which engines compute together with the ReLU, in any memory layout.
    """

    def __init__(self, pre_encode: Any) -> None:  # noqa: ANN401 (NeMo has no types)
        super().__init__()
        first, *rest = pre_encode.conv
        self.first = nn.Conv2d(2, first.out_channels, first.kernel_size, first.stride, bias=first.bias is not None)
        with torch.no_grad():
            self.first.weight.zero_()
            self.first.weight[:, :1] = first.weight
            self.first.weight[:, 1, 0, 0] = -LARGE
            if first.bias is not None:
                self.first.bias.copy_(first.bias)
        self.paddings = [_padding(layer) for layer in pre_encode.conv if isinstance(layer, nn.Conv2d)]
        self.rest = nn.ModuleList(rest)
        self.out = pre_encode.out

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Convolve, flatten, project."""
        paddings = iter(self.paddings)
        padding = next(paddings)
        steps = _strided(lengths, self.first, padding)
        signal = _masked(features, _inside(features.shape[1], lengths)[:, :, None])
        signal = functional.pad(signal, (*padding, *padding))
        # The output at t is read off `stride * t` of the padded input and on; what lies behind the end is masked.
        behind = torch.logical_not(_inside(signal.shape[1], steps * self.first.stride[0]))[:, :, None]
        x = torch.stack([signal, behind.to(signal.dtype).expand_as(signal)], dim=1)
        x = self.first(x)
        masked = True
        for layer in self.rest:
            if not isinstance(layer, nn.Conv2d):
                x = layer(x)
                continue
            padding = next(paddings)
            if layer.kernel_size[0] > 1 and not masked:
                limit = torch.where(_inside(x.shape[2], steps), LARGE, 0.0).to(x.dtype)
                x = torch.minimum(x, limit[:, None, :, None])
            x = layer(x)
            masked = False
            if layer.stride[0] > 1:
                steps = _strided(steps, layer, padding)
        return self.out(x.transpose(1, 2).flatten(2)), steps


def _padding(conv: Any) -> tuple[int, int]:  # noqa: ANN401 (NeMo has no types)
    """Before and after, the same for time and bands; NeMo's causal convolutions pad by themselves."""
    if hasattr(conv, "_left_padding"):
        return conv._left_padding, conv._right_padding  # noqa: SLF001 (there is no public name)
    return int(conv.padding[0]), int(conv.padding[0])


def _strided(lengths: torch.Tensor, conv: nn.Conv2d, padding: tuple[int, int]) -> torch.Tensor:
    """Length after a convolution."""
    return torch.div(lengths + (sum(padding) - conv.kernel_size[0]), conv.stride[0], rounding_mode="floor") + 1


class Attention(nn.Module):
    """Self-attention, with or without relative positions, [B, S, d] to [B, S, d]."""

    def __init__(self, attention: Any) -> None:  # noqa: ANN401 (NeMo has no types)
        super().__init__()
        self.heads, self.width = attention.h, attention.d_k
        self.query, self.key, self.value = attention.linear_q, attention.linear_k, attention.linear_v
        self.out = attention.linear_out
        # The scores' scale goes to the query, where it is a product with few numbers and not in the way of the softmax.
        self.scale = float(self.width**-0.5)
        self.relative = hasattr(attention, "linear_pos")
        if self.relative:
            self.register_buffer("content_bias", (attention.pos_bias_u * self.scale).detach().reshape(-1))
            self.register_buffer("position_bias", (attention.pos_bias_v * self.scale).detach().reshape(-1))

    def forward(self, x: torch.Tensor, positions: torch.Tensor | None, mask: torch.Tensor) -> torch.Tensor:
        """Attend.

        Args:
            x: [B, S, d].
            positions: [heads, d / heads, 2 S] projected positions from S down to 1 - S, if they are relative.
            mask: [B, 1, 1 or S, S] added to the scores.
        """
        batch, steps = x.shape[0], x.shape[1]
        query = self.query(x) * self.scale
        by_content = query
        if positions is not None:
            by_content = query + self.content_bias
            by_position = self._split(query + self.position_bias, batch)
            # Row i must move left by i: read with rows one shorter than they are, every row starts one further on.
            shifted = torch.matmul(by_position, positions).flatten(2)[:, :, steps:]
            mask = shifted.reshape(batch, self.heads, steps, 2 * steps - 1)[:, :, :, :steps] + mask
        keys = self._split(self.key(x), batch).transpose(2, 3)
        scores = torch.matmul(self._split(by_content, batch), keys) + mask
        attended = torch.matmul(torch.softmax(scores, dim=-1), self._split(self.value(x), batch))
        return self.out(attended.transpose(1, 2).flatten(2))

    def _split(self, x: torch.Tensor, batch: int) -> torch.Tensor:
        return x.reshape(batch, -1, self.heads, self.width).transpose(1, 2)


def pointwise(conv: nn.Conv1d) -> nn.Linear:
    """A convolution of width 1 as the product that it is, with the same weights."""
    linear = nn.Linear(conv.in_channels, conv.out_channels, bias=conv.bias is not None)
    linear.weight = nn.Parameter(conv.weight.detach()[:, :, 0])
    if conv.bias is not None:
        linear.bias = conv.bias
    return linear


class Convolution(nn.Module):
    """The Conformer's convolution module, [B, S, d] to [B, S, d].

    The depthwise convolution is a sum of shifted products: with batch normalisation folded in it is elementwise work in
    the layout of its neighbours, which engines compute in one pass together with gate, mask and activation.
    """

    def __init__(self, conv: Any) -> None:  # noqa: ANN401 (NeMo has no types)
        super().__init__()
        # NeMo names the gated linear unit; any other activation is a module.
        self.activation_in = _gate if conv.pointwise_activation == "glu_" else conv.pointwise_activation
        self.pointwise_in, self.pointwise_out = pointwise(conv.pointwise_conv1), pointwise(conv.pointwise_conv2)
        self.activation = conv.activation
        depthwise, norm = conv.depthwise_conv, conv.batch_norm
        self.padding = _padding(depthwise)
        weight, bias = depthwise.weight.detach()[:, 0], torch.zeros(depthwise.out_channels)
        if depthwise.bias is not None:
            bias = depthwise.bias.detach()
        self.norm = norm
        if isinstance(norm, nn.BatchNorm1d):
            factor = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
            weight, bias = weight * factor[:, None], (bias - norm.running_mean) * factor + norm.bias.detach()
            self.norm = nn.Identity()
        self.register_buffer("taps", weight.T.contiguous())
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """Convolve; `inside` is [B, S, 1]."""
        x = _masked(self.activation_in(self.pointwise_in(x)), inside)
        x = functional.pad(x, (0, 0, *self.padding))
        steps = inside.shape[1]
        convolved = self.bias
        for tap in range(self.taps.shape[0]):
            convolved = convolved + self.taps[tap] * x[:, tap : tap + steps]
        return self.pointwise_out(self.activation(self.norm(convolved)))


def _gate(x: torch.Tensor) -> torch.Tensor:
    return functional.glu(x, dim=2)


class Layer(nn.Module):
    """One Conformer block, [B, S, d] to [B, S, d]."""

    def __init__(self, layer: Any) -> None:  # noqa: ANN401 (NeMo has no types)
        super().__init__()
        self.norms = nn.ModuleList(
            [layer.norm_feed_forward1, layer.norm_self_att, layer.norm_conv, layer.norm_feed_forward2, layer.norm_out]
        )
        self.feed_forward = nn.ModuleList([layer.feed_forward1, layer.feed_forward2])
        self.factor = float(layer.fc_factor)
        self.attention, self.convolution = Attention(layer.self_attn), Convolution(layer.conv)

    def forward(
        self, x: torch.Tensor, positions: torch.Tensor | None, mask: torch.Tensor, inside: torch.Tensor
    ) -> torch.Tensor:
        """Run the block."""
        x = x + self.feed_forward[0](self.norms[0](x)) * self.factor
        x = x + self.attention(self.norms[1](x), positions, mask)
        x = x + self.convolution(self.norms[2](x), inside)
        x = x + self.feed_forward[1](self.norms[3](x)) * self.factor
        return self.norms[4](x)


class Encoder(nn.Module):
    """Features [B, F, T] and frames [B] int64 to encoded [B, S, d] and steps [B] int64."""

    def __init__(self, encoder: Any) -> None:  # noqa: ANN401 (NeMo has no types)
        super().__init__()
        self._masks = encoder._create_masks  # noqa: SLF001 (there is no public name)
        self._context = list(encoder.att_context_size)
        self.unlimited = encoder.att_context_style == "regular" and self._context == [-1, -1]
        self.subsampling = Subsampling(encoder.pre_encode)
        self.layers = nn.ModuleList(Layer(layer) for layer in encoder.layers)
        self.scale = encoder.pos_enc.xscale
        self.out = encoder.out_proj
        self.register_buffer("positions", encoder.pos_enc.pe[0].clone())
        self.relative = bool(self.layers[0].attention.relative)
        if self.relative:
            weights = torch.cat([layer.self_attn.linear_pos.weight.detach() for layer in encoder.layers])
            self.register_buffer("project_positions", weights.T.contiguous())

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode."""
        x, lengths = self.subsampling(features.transpose(1, 2), lengths)
        if self.scale:
            x = x * self.scale
        steps = x.shape[1]
        inside = _inside(steps, lengths)
        visible = inside[:, None, None, :]
        if not self.unlimited:
            whole = torch.full((1,), 1, dtype=torch.int64, device=x.device) * steps
            _, hidden = self._masks(self._context, whole, steps, None, x.device)
            visible = torch.logical_and(visible, torch.logical_not(hidden)[:, None])
        zero = torch.zeros((), dtype=x.dtype, device=x.device)
        mask = torch.where(visible, zero, zero + MASKED_SCORE)
        positions: Sequence[torch.Tensor | None] = [None] * len(self.layers)
        if self.relative:
            positions = self._project(steps)
        else:
            x = x + self.positions[:steps]
        for layer, projected in zip(self.layers, positions, strict=True):
            x = layer(x, projected, mask, inside[:, :, None])
        return x if self.out is None else self.out(x), lengths

    def _project(self, steps: int) -> Sequence[torch.Tensor]:
        """For each layer [heads, d / heads, 2 steps], one product for all of them."""
        # The table runs from the longest distance down, with distance 0 in its middle.
        middle = self.positions.shape[0] // 2
        table = torch.matmul(self.positions[middle - steps : middle + steps], self.project_positions)
        attention = self.layers[0].attention
        split = table.reshape(2 * steps, len(self.layers), attention.heads, attention.width)
        return tuple(split.permute(1, 2, 3, 0).unbind(0))
