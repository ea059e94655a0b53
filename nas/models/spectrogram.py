"""Front ends for sound that live inside the network: waves in, normalised features out.

Waves are (B, T), int16 or floats of the same range, padded behind their lengths. Padding enters
no statistic, so that a sample has the same features alone and in any batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.blocks import full_precision, real

FULL_SCALE = 32768.0  # of int16
QUIETEST = 1e-10  # power
DYNAMIC_RANGE = 8.0  # powers of ten below a sample's loudest moment: 80 dB


def standardise(x: Tensor, mask: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    """Mean 0 and variance 1 over ``axes`` of what ``mask`` leaves, and 0 elsewhere."""
    weight = mask.to(x.dtype).expand_as(x)
    count = weight.sum(axes, keepdim=True)
    mean = (x * weight).sum(axes, keepdim=True) / count
    centred = (x - mean) * weight
    variance = centred.square().sum(axes, keepdim=True) / count
    return centred * torch.rsqrt(variance + epsilon)


def _mel(frequency: Tensor) -> Tensor:
    """Slaney's mel scale (1998, Auditory Toolbox): linear to 1 kHz, logarithmic above."""
    octave = 15 + 27 * torch.log(frequency.clamp(min=1000) / 1000) / math.log(6.4)
    return torch.where(frequency < 1000, 0.015 * frequency, octave)


def _hertz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15, mel / 0.015, 1000 * torch.exp(math.log(6.4) * (mel - 15) / 27))


def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """(n_mels, n_fft // 2 + 1) triangles of equal area, evenly spaced on the mel scale."""
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * sample_rate / n_fft
    top = _mel(torch.tensor(sample_rate / 2, dtype=torch.float64))
    edges = _hertz(torch.arange(n_mels + 2, dtype=torch.float64) * top / (n_mels + 1))
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles * 2 / (right - left)).float()


def dft_kernels(window: int, n_fft: int) -> Tensor:
    """(2 (n_fft // 2 + 1), 1, window): the real and imaginary rows of a Fourier transform
    of ``window`` samples, filled up to ``n_fft``, under a periodic Hann window."""
    time = torch.arange(window, dtype=torch.float64)
    hann = 0.5 - 0.5 * torch.cos(2 * math.pi * time / window)
    turns = torch.arange(n_fft // 2 + 1, dtype=torch.float64)[:, None] * time / n_fft
    rows = torch.cat([torch.cos(2 * math.pi * turns), -torch.sin(2 * math.pi * turns)])
    return (rows * hann).float().unsqueeze(1)


class LogMel(nn.Module):
    """Log-mel frames (B, F, n_mels) of waves (B, T), and which of them are real (B, F).

    The power spectrum is a convolution with the rows of a Fourier transform, which exports
    everywhere. Frame ``f`` is centred on sample ``f * hop``; the wave is zero outside itself,
    so that a sample of ``n`` has ``1 + n // hop`` frames. ``window`` and ``hop`` are in
    samples; the window is filled up to ``n_fft``, the next power of two. Powers are floored
    80 dB below the sample's loudest and scaled as Whisper's are (Radford et al. 2022, sec.
    2.2; log10 / 4 + 1), or standardised: by one mean and deviation of the whole sample, or
    of each mel band over time.
    """

    kernels: Tensor
    filters: Tensor

    def __init__(
        self,
        sample_rate: int,
        n_mels: int,
        window: int,
        hop: int,
        normalisation: str = "fixed",
        n_fft: int | None = None,
    ) -> None:
        super().__init__()
        if normalisation not in ("fixed", "sample", "band"):
            raise ValueError(
                f"unknown normalisation {normalisation!r}; known are fixed, sample, band"
            )
        n_fft = n_fft or 2 ** math.ceil(math.log2(window))
        if not window <= n_fft:
            raise ValueError(f"window <= n_fft must hold, but got {window}, {n_fft}")
        self.n_mels, self.hop, self.normalisation = n_mels, hop, normalisation
        before = n_fft // 2 - (n_fft - window) // 2
        self.padding = (before, window - before)
        self.register_buffer("kernels", dft_kernels(window, n_fft), persistent=False)
        filters = mel_filters(sample_rate, n_fft, n_mels)
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)

    def forward(self, wave: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Waves (B, T) and their lengths (B,) to frames (B, F, n_mels) and their mask (B, F)."""
        # Half precision would lose the quiet bands: the logarithm follows a sum of squares.
        with full_precision(wave.device.type):
            return self._frames(wave, length)

    def _frames(self, wave: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        x = wave.to(self.kernels.dtype) / FULL_SCALE * real(length, wave.shape[1])
        parts = F.conv1d(F.pad(x, self.padding).unsqueeze(1), self.kernels, stride=self.hop)
        cosine, sine = parts.chunk(2, dim=1)
        power = (cosine.square() + sine.square()).transpose(1, 2) @ self.filters
        mel = power.clamp(min=QUIETEST).log10()
        mask = real(1 + length // self.hop, mel.shape[1])
        each = mask.unsqueeze(2)
        loudest = mel.masked_fill(~each, -torch.inf).amax((1, 2), keepdim=True)
        mel = torch.maximum(mel, loudest - DYNAMIC_RANGE)
        if self.normalisation == "fixed":
            return (mel + 4) / 4 * each, mask
        axes = (1, 2) if self.normalisation == "sample" else (1,)
        return standardise(mel, each, axes, epsilon=1e-3), mask


class Resample(nn.Module):
    """Waves of ``rate`` Hz as waves of ``wanted`` Hz: a sinc under a Hann window, as a convolution
    (Smith 2002, Digital Audio Resampling; six zero crossings at either side, as torchaudio has)."""

    kernels: Tensor

    def __init__(self, rate: int, wanted: int, crossings: int = 6, rolloff: float = 0.99) -> None:
        super().__init__()
        common = math.gcd(rate, wanted)
        self.old, self.new = rate // common, wanted // common
        cut = min(self.old, self.new) * rolloff
        self.reach = math.ceil(crossings * self.old / cut)
        steps = torch.arange(-self.reach, self.reach + self.old, dtype=torch.float64) / self.old
        phases = torch.arange(0, -self.new, -1, dtype=torch.float64)[:, None] / self.new
        time = ((phases + steps) * cut).clamp(-crossings, crossings)
        window = torch.cos(time * math.pi / crossings / 2).square()
        kernels = (torch.sinc(time) * window * cut / self.old).float()
        self.register_buffer("kernels", kernels.unsqueeze(1), persistent=False)

    def forward(self, wave: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Waves (B, T), padded by anything, and their lengths (B,) to the same at the other rate,
        floats of the same range."""
        if self.old == self.new:
            return wave, length
        x = wave.to(self.kernels.dtype) * real(length, wave.shape[1])
        x = F.pad(x, (self.reach, self.reach + self.old)).unsqueeze(1)
        with full_precision(wave.device.type):  # bfloat16 keeps 8 bits of a wave's 16
            y = F.conv1d(x, self.kernels, stride=self.old).transpose(1, 2).flatten(1)
        return y, (length * self.new + self.old - 1) // self.old


class SpecAugment(nn.Module):
    """Blanks ``masks`` stretches of time and of channels of (B, T, C), in training only.

    Park et al. 2019, sec. 2, without warping: a stretch is up to a third of the channels and
    up to a fifth of a sample's time, and is set to zero, the mean of standardised features.
    """

    def __init__(self, masks: int) -> None:
        super().__init__()
        self.masks = masks

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, C) and its mask (B, T) to (B, T, C)."""
        if not self.training or not self.masks:
            return x
        size, channels = x.shape[1:]
        time = self._kept(size, mask.sum(1), 0.2)
        total = torch.full((len(x),), channels, device=x.device)
        channel = self._kept(channels, total, 1 / 3)
        return x * (time.unsqueeze(2) & channel.unsqueeze(1))

    def _kept(self, size: int, length: Tensor, fraction: float) -> Tensor:
        """(B, size): false in ``masks`` stretches of up to ``fraction`` of the length."""
        shape = (len(length), self.masks)
        width = torch.rand(shape, device=length.device) * (fraction * length).unsqueeze(1)
        start = torch.rand(shape, device=length.device) * (length.unsqueeze(1) - width)
        place = torch.arange(size, device=length.device)
        first, last = start.round().unsqueeze(2), (start + width).round().unsqueeze(2)
        return ((place < first) | (place >= last)).all(1)

    def extra_repr(self) -> str:
        return f"masks={self.masks}"
