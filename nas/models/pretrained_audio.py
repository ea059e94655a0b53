"""A pretrained encoder of sounds, Whisper's or wav2vec 2.0's, with a new head.

The encoders are this project's own (``nas.models.whisper``, ``nas.models.wav2vec``). Waves come at
the rate of the data and are resampled to that of the checkpoint. A sound is not filled up to 30 s,
as transformers does for Whisper: tokens beyond its end are masked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from nas.models.adapted import PretrainedTokens, freeze
from nas.models.spectrogram import Resample
from nas.models.wav2vec import Wav2Vec
from nas.models.whisper import Whisper

EPS = 1e-5  # of LayerNorm


@dataclass(frozen=True)
class AudioAdaptation:
    """What of an encoder is trained, and with what rates: ``trained`` blocks from the last on, and
    what comes before them too where it is more than there are."""

    trained: int
    rate: int  # of the data, Hz
    published_rate: int  # of the checkpoint, Hz
    pooling: str = "avg"
    head: str = "linear"
    dropout: float = 0.1
    head_rate: float = 5.0
    layer_decay: float = 1.0


class PretrainedAudio(PretrainedTokens):
    """Waves (B, samples) and their lengths (B,) to logits (B, outputs)."""

    def __init__(
        self, encoder: Whisper | Wav2Vec, adaptation: AudioAdaptation, outputs: int
    ) -> None:
        how = adaptation
        super().__init__(
            encoder.width,
            outputs,
            pooling=how.pooling,
            head=how.head,
            dropout=how.dropout,
            head_rate=how.head_rate,
            layer_decay=how.layer_decay,
        )
        self.adaptation = adaptation
        self.resample = Resample(how.rate, how.published_rate)
        for name in ("pool", "dropout", "head"):
            setattr(encoder, name, nn.Identity())
        for module in encoder.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = EPS
        self.encoder = encoder
        freeze(self.layers[: max(0, len(encoder.blocks) + 1 - how.trained)])
        if how.trained == 0:
            freeze([encoder.norm])

    @property
    def layers(self) -> list[nn.Module]:
        """What comes before the blocks, as one; the blocks; and the normalisation after them."""
        named = self.encoder.named_children()
        front = nn.ModuleList(m for name, m in named if name not in ("blocks", "norm"))
        return [front, *self.encoder.blocks, self.encoder.norm]

    def features(self, wave: Tensor, wave_length: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, width), and the mask (B, T), true where one is real."""
        return self.encoder.features(*self.resample(wave, wave_length))

    def seen(self, name: str, values: np.ndarray) -> np.ndarray:
        """A sound is heard as it is."""
        return values

    def identity(self) -> Iterator[Any]:
        """What its features follow from beside the sound."""
        yield self.adaptation.rate, self.adaptation.published_rate
        yield from self.encoder.state_dict().values()

    def forward(self, wave: Tensor, wave_length: Tensor) -> Tensor:
        """Logits (B, outputs)."""
        return self.answer(self.vector(*self.features(wave, wave_length)))
