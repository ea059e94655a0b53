"""Weights of a checkpoint into a network of this project, with an account of what was loaded."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.sequence import sinusoids
from nas.pretrained import tokenizer as tokenizers
from nas.pretrained.sources import sha256
from nas.task import Checkpoint, InputError


@dataclass(frozen=True)
class Loaded:
    """What became of a checkpoint's weights: names of the network's that were ``loaded`` and that
    begin as they are (``fresh``), and of the checkpoint's that are ``unused``."""

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{len(self.loaded)} tensors loaded, {len(self.fresh)} fresh"
            f" ({', '.join(self.fresh[:4])}), {len(self.unused)} of the checkpoint unused"
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file: safetensors, or a pickle that holds tensors alone.

    Raises:
        InputError: It holds anything else, or is not whole.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; the pretrained weights have moved") from None
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} holds more than tensors (a pickle of code or objects) and is not opened;"
            " save its state_dict, or as safetensors"
        ) from None
    except Exception as error:  # safetensors and torch raise many kinds for what is damaged
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} holds no whole tensors ({reason:.100})") from None
    for key in ("state_dict", "model", "state_dict_ema"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise InputError(f"{path} holds no tensors by name; save the network's state_dict")
    return {str(name): value for name, value in found.items()}


def verified(checkpoint: Checkpoint) -> Path:
    """The file of a checkpoint's weights. Raises InputError where it is another than it was."""
    path = Path(checkpoint.path)
    if not path.is_file():
        raise InputError(
            f"the pretrained weights {path} are missing; put {checkpoint.name} (sha256"
            f" {checkpoint.sha256[:16]}) back there"
        )
    if checkpoint.sha256 and sha256(path) != checkpoint.sha256:
        raise InputError(
            f"the pretrained weights {path} have changed since the search (sha256"
            f" {sha256(path)[:16]} instead of {checkpoint.sha256[:16]}); put the old file back"
        )
    return path


def load_text(network: nn.Module, checkpoint: Checkpoint, tokenizer: str) -> Loaded:
    """Load an encoder into a ``PretrainedText``, its words in the order of ``tokenizer``.

    Raises:
        InputError: The file has changed, or lacks a tensor of the encoder.
    """
    path = verified(checkpoint)
    tensors = _renamed(read_tensors(path), _TEXT[checkpoint.architecture])
    order = tokenizers.rows(path.parent, tokenizer)
    sizes = checkpoint.sizes
    own = network.state_dict()
    words = tensors["embedding.words.weight"]
    if max(order) >= len(words):
        raise InputError(
            f"{path} has words for {len(words):,} tokens, and its tokenizer knows"
            f" {max(order) + 1:,}; save network and tokenizer together (resize_token_embeddings)"
        )
    words = words[torch.tensor(order)]
    tensors["embedding.words.weight"] = words[: len(own["embedding.words.weight"])]
    positions = tensors["embedding.positions"][int(sizes.get("first", 0)) :]
    # All tokens are of the first kind.
    kinds = tensors.pop("embedding.kinds", None)
    tensors["embedding.positions"] = positions if kinds is None else positions + kinds[0]
    return _filled(network, tensors, path, fresh=("pool.", "head."))


def load_image(network: nn.Module, checkpoint: Checkpoint) -> Loaded:
    """Load a ``PretrainedImage``. Raises InputError as ``load_text``."""
    path = verified(checkpoint)
    tensors = read_tensors(path)
    if checkpoint.architecture == "resnet":
        tensors = _resnet(tensors)
    elif checkpoint.architecture == "vit":
        tensors = _renamed(tensors, _VIT)
        grid = network.stem.grid  # type: ignore[union-attr]
        tensors["stem.position"] = _on_grid(tensors["stem.position"], grid)  # type: ignore[arg-type]
    elif "conv_stem.weight" in tensors:
        tensors = _timm_lite0(tensors)
    else:
        tensors = _renamed(tensors, _LITE0)
    return _filled(network, tensors, path, fresh=("pool.", "head.", "input."))


def load_audio(network: nn.Module, checkpoint: Checkpoint) -> Loaded:
    """Load a ``PretrainedAudio``. Raises InputError as ``load_text``."""
    path = verified(checkpoint)
    found = read_tensors(path)
    if checkpoint.architecture == "whisper":
        names, of = _WHISPER, re.compile(r"^(?:model\.)?encoder\.")
    else:
        names, of = _WAV2VEC, re.compile(r"^(?:wav2vec2\.)?(?=feature_|encoder\.)")
    # Decoders and heads keep their names, and are not used.
    own = {of.sub("", name): value for name, value in found.items() if of.match(name)}
    tensors = {f"encoder.{n}": v for n, v in _fused(_plain(_renamed(own, names))).items()}
    if (table := tensors.pop("encoder.embed_positions.weight", None)) is not None:
        expected = sinusoids(len(table), table.shape[1], table)
        if not torch.allclose(table, expected, atol=1e-4):
            raise InputError(f"{path}: positions that are not Whisper's sinusoids are not known")
    loaded = _filled(network, tensors, path, fresh=("pool.", "head."))
    others = sorted(name for name in found if not of.match(name))
    return replace(loaded, unused=(*loaded.unused, *others))


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Kernels without their weight normalisation, whose scale is that of each place in time."""
    found = dict(tensors)
    for scale, direction in (("weight_g", "weight_v"), (_SCALE, _DIRECTION)):
        given = found.pop(f"positions.conv.{scale}", None)
        if given is not None:
            value = found.pop(f"positions.conv.{direction}")
            size = value.square().sum((0, 1), keepdim=True).sqrt()
            found["positions.conv.weight"] = given * value / size
    return found


_SCALE, _DIRECTION = (f"parametrizations.weight.original{i}" for i in (0, 1))


def _fused(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values of a block as one layer; where keys have no bias it is zero."""
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        match = re.fullmatch(r"(blocks\.\d+\.attention)\.([qkv])_proj\.(weight|bias)", name)
        if match is None:
            found[name] = value
        else:
            parts.setdefault(f"{match[1]}.qkv.{match[3]}", {})[match[2]] = value
    for name, three in parts.items():
        if name.endswith("bias") and three.keys() == {"q", "v"}:
            three["k"] = torch.zeros_like(three["q"])
        if three.keys() == {"q", "k", "v"}:
            found[name] = torch.cat([three[part] for part in "qkv"])
    return found


def _filled(
    network: nn.Module, tensors: Mapping[str, Tensor], path: Path, fresh: Iterable[str]
) -> Loaded:
    """Copy ``tensors`` into the network; low-rank updates and names that begin with one of
    ``fresh`` keep their values."""
    own = network.state_dict()
    loaded, kept = [], []
    with torch.no_grad():
        for name, value in own.items():
            given = tensors.get(name)
            if given is None:
                new = name.startswith(tuple(fresh)) or name.endswith((".down", ".up"))
                if not new:
                    raise InputError(f"{path} lacks the weights {name}; it is another network")
                kept.append(name)
                continue
            if given.shape != value.shape:
                raise InputError(
                    f"{path}: {name} is {tuple(given.shape)}, not {tuple(value.shape)} as its"
                    " sizes say"
                )
            value.copy_(given)
            loaded.append(name)
    unused = sorted(tensors.keys() - set(loaded))
    return Loaded(tuple(loaded), tuple(kept), tuple(unused))


# -- names -----------------------------------------------------------------------------------------

Names = tuple[tuple[str, str], ...]  # patterns of a library's names, and ours


def _renamed(tensors: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Tensors by our names; those that have none keep theirs."""
    found = {}
    for name, value in tensors.items():
        new = re.sub(r"^(?:bert|roberta|distilbert|model)\.", "", name)
        new = new.replace("LayerNorm.gamma", "LayerNorm.weight")
        new = new.replace("LayerNorm.beta", "LayerNorm.bias")
        for pattern, ours in names:
            new, count = re.subn(rf"^{pattern}(?=\.|$)", ours, new)
            if count:
                break
        found[new] = value
    return found


_LAYER = r"encoder\.layer\.(\d+)"
_BERT: Names = (
    (r"embeddings\.word_embeddings", "embedding.words"),
    (r"embeddings\.position_embeddings\.weight", "embedding.positions"),
    (r"embeddings\.token_type_embeddings\.weight", "embedding.kinds"),
    (r"embeddings\.LayerNorm", "embedding.norm"),
    (rf"{_LAYER}\.attention\.self\.(query|key|value)", r"blocks.\1.\2"),
    (rf"{_LAYER}\.attention\.output\.dense", r"blocks.\1.out"),
    (rf"{_LAYER}\.attention\.output\.LayerNorm", r"blocks.\1.norm1"),
    (rf"{_LAYER}\.intermediate\.dense", r"blocks.\1.up"),
    (rf"{_LAYER}\.output\.dense", r"blocks.\1.down"),
    (rf"{_LAYER}\.output\.LayerNorm", r"blocks.\1.norm2"),
)
_DISTIL = r"transformer\.layer\.(\d+)"
_DISTILBERT: Names = (
    *_BERT[:4],
    (rf"{_DISTIL}\.attention\.q_lin", r"blocks.\1.query"),
    (rf"{_DISTIL}\.attention\.k_lin", r"blocks.\1.key"),
    (rf"{_DISTIL}\.attention\.v_lin", r"blocks.\1.value"),
    (rf"{_DISTIL}\.attention\.out_lin", r"blocks.\1.out"),
    (rf"{_DISTIL}\.sa_layer_norm", r"blocks.\1.norm1"),
    (rf"{_DISTIL}\.ffn\.lin1", r"blocks.\1.up"),
    (rf"{_DISTIL}\.ffn\.lin2", r"blocks.\1.down"),
    (rf"{_DISTIL}\.output_layer_norm", r"blocks.\1.norm2"),
)
_TEXT: dict[str, Names] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "distilbert": _DISTILBERT,
}
_HEARD = r"layers\.(\d+)"
_WHISPER: Names = (
    (r"(conv[12])", r"\1.conv"),
    (rf"{_HEARD}\.self_attn\.([qkv]_proj)", r"blocks.\1.attention.\2"),
    (rf"{_HEARD}\.self_attn\.out_proj", r"blocks.\1.attention.out"),
    (rf"{_HEARD}\.self_attn_layer_norm", r"blocks.\1.norm1"),
    (rf"{_HEARD}\.fc1", r"blocks.\1.feed_forward.up"),
    (rf"{_HEARD}\.fc2", r"blocks.\1.feed_forward.down"),
    (rf"{_HEARD}\.final_layer_norm", r"blocks.\1.norm2"),
    (r"layer_norm", "norm"),
)
_WAV2VEC: Names = (
    (r"feature_extractor\.conv_layers\.(\d+)\.conv", r"convolutions.\1.conv"),
    (r"feature_extractor\.conv_layers\.(\d+)\.layer_norm", r"convolutions.\1.norm"),
    (r"feature_projection\.layer_norm", "projection_norm"),
    (r"feature_projection\.projection", "projection"),
    (r"encoder\.pos_conv_embed\.conv", "positions.conv"),
    (rf"encoder\.{_HEARD}\.attention\.([qkv]_proj)", r"blocks.\1.attention.\2"),
    (rf"encoder\.{_HEARD}\.attention\.out_proj", r"blocks.\1.attention.out"),
    (rf"encoder\.{_HEARD}\.layer_norm", r"blocks.\1.norm1"),
    (rf"encoder\.{_HEARD}\.feed_forward\.intermediate_dense", r"blocks.\1.feed_forward.up"),
    (rf"encoder\.{_HEARD}\.feed_forward\.output_dense", r"blocks.\1.feed_forward.down"),
    (rf"encoder\.{_HEARD}\.final_layer_norm", r"blocks.\1.norm2"),
    (r"encoder\.layer_norm", "norm"),
)
# Of the first port to PyTorch; its head has the names of ours.
_LITE0: Names = (
    (r"_conv_stem", "stem.conv"),
    (r"_bn0", "stem.norm"),
    (r"_blocks\.(\d+)\._expand_conv", r"blocks.\1.expand.conv"),
    (r"_blocks\.(\d+)\._bn0", r"blocks.\1.expand.norm"),
    (r"_blocks\.(\d+)\._depthwise_conv", r"blocks.\1.depthwise.conv"),
    (r"_blocks\.(\d+)\._bn1", r"blocks.\1.depthwise.norm"),
    (r"_blocks\.(\d+)\._project_conv", r"blocks.\1.project.conv"),
    (r"_blocks\.(\d+)\._bn2", r"blocks.\1.project.norm"),
    (r"_conv_head", "top.conv"),
    (r"_bn1", "top.norm"),
)


def _resnet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of torchvision's and timm's ResNet, whose blocks are counted in each stage."""
    place = re.compile(r"layer(\d)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.(\d))\.")
    found = {name: place.match(name) for name in tensors}
    counted = sorted({(int(m[1]), int(m[2])) for m in found.values() if m})
    number = {block: i for i, block in enumerate(counted)}
    renamed = {}
    for name, value in tensors.items():
        if match := found[name]:
            block = f"blocks.{number[int(match[1]), int(match[2])]}"
            # A convolution, its normalisation and its activation follow each other.
            part = f"shortcut.{match[5]}"
            if match[3]:
                part = f"branch.{3 * (int(match[4]) - 1) + (match[3] == 'bn')}"
            name = f"{block}.{part}.{name[match.end() :]}"
        else:
            first, _, rest = name.partition(".")
            name = f"{_RESNET_STEM.get(first, first)}.{rest}"
        renamed[name] = value
    return renamed


def _on_grid(position: Tensor, grid: tuple[int, int]) -> Tensor:
    """Positions (1, 1 + n², dim) of a class token and a square of patches, on another ``grid``
    (rows, columns): Dosovitskiy et al. 2021, sec. 3.2 (2D interpolation)."""
    side = math.isqrt(position.shape[1] - 1)
    if (side, side) == grid:
        return position
    square = position[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    found = F.interpolate(square, grid, mode="bicubic", antialias=True)
    return torch.cat([position[:, :1], found.flatten(2).transpose(1, 2)], dim=1)


_VIT: Names = (
    (r"patch_embed\.proj", "stem.projection"),
    (r"cls_token", "stem.cls"),
    (r"pos_embed", "stem.position"),
    (r"norm", "top"),
    (r"blocks\.(\d+)\.attn\.qkv", r"blocks.\1.attention.qkv"),
    (r"blocks\.(\d+)\.attn\.proj", r"blocks.\1.attention.out"),
    (r"blocks\.(\d+)\.mlp\.fc1", r"blocks.\1.feed_forward.up"),
    (r"blocks\.(\d+)\.mlp\.fc2", r"blocks.\1.feed_forward.down"),
    (r"head", "published_head"),  # of other classes
)
_RESNET_STEM = {"conv1": "stem.0", "bn1": "stem.1"}


def _timm_lite0(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of timm's EfficientNet, whose blocks are counted in each stage, as those of the first
    port."""
    counted = sorted(
        {tuple(map(int, m.groups())) for name in tensors if (m := _TIMM_BLOCK.match(name))}
    )
    number = {place: i for i, place in enumerate(counted)}
    renamed = {}
    for name, value in tensors.items():
        if found := _TIMM_BLOCK.match(name):
            place = tuple(map(int, found.groups()))
            parts = _FIRST_STAGE if place[0] == 0 else _LATER_STAGES
            part, _, rest = name[found.end() :].partition(".")
            name = f"blocks.{number[place]}.{parts[part]}.{rest}"
        else:
            part, _, rest = name.partition(".")
            name = f"{_TIMM_ENDS.get(part, part)}.{rest}"
        renamed[name] = value
    return renamed


_TIMM_BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.")
_TIMM_ENDS = {"conv_stem": "stem.conv", "bn1": "stem.norm", "conv_head": "top.conv",
              "bn2": "top.norm"}  # fmt: skip
_FIRST_STAGE = {"conv_dw": "depthwise.conv", "bn1": "depthwise.norm", "conv_pw": "project.conv",
                "bn2": "project.norm"}  # fmt: skip
_LATER_STAGES = {"conv_pw": "expand.conv", "bn1": "expand.norm", "conv_dw": "depthwise.conv",
                 "bn2": "depthwise.norm", "conv_pwl": "project.conv",
                 "bn3": "project.norm"}  # fmt: skip
