"""How families of several modalities make the layers that they share of a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.space import Config

if TYPE_CHECKING:
    from nas.models.blocks import TransformerConfig
    from nas.models.mamba import MambaConfig


def transformer_layers(
    config: Config, *, mlp_ratio: str = "mlp_ratio", post_norm: bool = False
) -> TransformerConfig:
    """The layers that the parameters of ``config`` describe; ``mlp_ratio`` names the one of the
    feed-forward part. A space without "attention_dropout" or "window" has neither. Of the heads
    there are as many as divide the width (rule "heads"): those of published networks need not."""
    from nas.models.blocks import TransformerConfig

    dim = int(config["dim"])
    return TransformerConfig(
        dim=dim,
        depth=int(config["depth"]),
        heads=max(n for n in range(1, int(config["heads"]) + 1) if dim % n == 0),
        mlp_ratio=float(config[mlp_ratio]),
        norm=str(config["norm"]),
        activation=str(config["activation"]),
        dropout=float(config["dropout"]),
        attention_dropout=float(config.get("attention_dropout", 0.0)),
        drop_path=float(config["drop_path"]),
        post_norm=post_norm,
        window=int(config.get("window", 0)) or None,
    )


def mamba_layers(config: Config) -> MambaConfig:
    """The layers of a Mamba that the parameters of ``config`` describe."""
    from nas.models.mamba import MambaConfig

    return MambaConfig(
        dim=int(config["dim"]),
        depth=int(config["depth"]),
        expand=int(config["expand"]),
        states=int(config["states"]),
        kernel=int(config["kernel"]),
        norm=str(config["norm"]),
        dropout=float(config["dropout"]),
        drop_path=float(config["drop_path"]),
    )
