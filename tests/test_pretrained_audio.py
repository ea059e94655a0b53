"""Encoders of sounds from published weights: what is read, how it is loaded, and what is heard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import audio_folder
from safetensors.torch import load_file, save_file

from nas.data import Dataset, read
from nas.family import load_families
from nas.models.spectrogram import Resample
from nas.pretrained import weights
from nas.pretrained.sources import describe
from nas.task import InputError, Task
from nas.training import frozen
from nas.training.batches import batch_inputs, part_tensors
from nas.training.proxy import Proxy, build_network

KINDS = ("whisper", "wav2vec2")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_FEATURES", str(tmp_path / "features"))


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(0)
    label = np.arange(40) % 2
    waves = [
        (np.sin(np.arange(n) * (0.1 + 0.2 * k)) / 2).astype(np.float32)
        for k, n in zip(label, rng.integers(1_500, 4_000, 40), strict=True)
    ]
    return read((waves, np.where(label, "yes", "no")), modality="audio")


@pytest.fixture(scope="module", params=KINDS)
def task(request: pytest.FixtureRequest, data: Dataset, tmp_path_factory: Any) -> Task:
    folder = audio_folder(tmp_path_factory.mktemp("weights") / "tiny", request.param)
    made = Task("audio", data.targets, data.profile).with_objectives()
    return replace(made, pretrained=(describe(str(folder)),))


def config_of(task: Task, family: str = "frozen_audio", **given: Any) -> Any:
    return load_families()[family].space(task).complete(given)


def test_a_folder_says_what_is_heard_and_how(task: Task) -> None:
    found = task.pretrained[0]
    assert (found.modality, found.sizes["rate"], found.sizes["blocks"]) == ("audio", 16_000, 2)


@pytest.mark.parametrize(
    ("kind", "config", "says"),
    [
        ("whisper", {"activation_function": "relu"}, "activation_function 'relu'"),
        ("wav2vec2", {"feat_extract_norm": "group"}, "feat_extract_norm 'group'"),
        ("wav2vec2", {"do_stable_layer_norm": False}, "do_stable_layer_norm False"),
        ("wav2vec2", {"conv_dim": [8, 16, 8]}, "conv_dim"),
    ],
)
def test_an_encoder_that_is_built_otherwise_is_refused_in_one_line(
    kind: str, config: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says) as refused:
        describe(str(audio_folder(tmp_path / "tiny", kind, **config)))
    assert "\n" not in str(refused.value)


def test_what_is_done_to_a_wave_comes_from_the_checkpoint(tmp_path: Path) -> None:
    folder = audio_folder(tmp_path / "tiny", "whisper")
    (folder / "preprocessor_config.json").write_text('{"n_fft": 512}')
    with pytest.raises(InputError, match="n_fft 512"):
        describe(str(folder))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"preprocessor_config\.json is missing"):
        describe(str(folder))


@pytest.mark.parametrize("blocks", [1, 2])
def test_all_of_an_encoder_is_loaded_and_accounted_for(task: Task, blocks: int) -> None:
    network: Any = build_network("frozen_audio", config_of(task, blocks=blocks), task)
    found = weights.load_audio(network, task.pretrained[0])
    assert found.fresh == ("head.weight", "head.bias")
    assert len(found.loaded) + len(found.fresh) == len(network.state_dict())
    unused = {
        "whisper": "model.decoder.layer_norm.weight",
        "wav2vec2": "wav2vec2.masked_spec_embed",
    }
    assert unused[task.pretrained[0].architecture] in found.unused
    assert any("blocks.1" in name for name in found.unused) == (blocks == 1)
    tensors = load_file(task.pretrained[0].path)
    ends = ("layers.0.self_attn.k_proj.weight", "layers.0.attention.k_proj.weight")
    keys = next(value for name, value in tensors.items() if name.endswith(ends))
    assert network.encoder.blocks[0].attention.qkv.weight[16:32].equal(keys)


def test_positions_that_are_not_whispers_are_refused(tmp_path: Path, data: Dataset) -> None:
    folder = audio_folder(tmp_path / "tiny", "whisper")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.encoder.embed_positions.weight"] += 0.1
    save_file(tensors, folder / "model.safetensors")
    made = Task("audio", data.targets, data.profile).with_objectives()
    made = replace(made, pretrained=(describe(str(folder)),))
    with pytest.raises(InputError, match="sinusoids"):
        build_network("frozen_audio", config_of(made), made, True)


@pytest.mark.parametrize("rate", [16_000, 8_000, 22_050])
def test_a_sound_is_the_same_alone_and_beside_longer_ones(
    task: Task, data: Dataset, rate: int
) -> None:
    made = replace(task, profile=replace(task.profile, sample_rate=rate))
    network = build_network("frozen_audio", config_of(made), made, True).eval()
    tensors, _ = part_tensors(data, np.arange(5), "cpu")
    rows = torch.arange(5)
    with torch.inference_mode():
        together = network(**batch_inputs(tensors, rows, rows))
        alone = torch.cat([network(**batch_inputs(tensors, r, r)) for r in rows.split(1)])
    assert torch.allclose(alone, together, atol=1e-5)


@pytest.mark.parametrize(("rate", "wanted"), [(8_000, 16_000), (44_100, 16_000)])
def test_a_tone_keeps_its_frequency_and_loudness_at_another_rate(rate: int, wanted: int) -> None:
    def tone(each: int) -> torch.Tensor:
        return 8_000 * torch.sin(2 * torch.pi * 440 * torch.arange(each // 2) / each)

    found, length = Resample(rate, wanted)(tone(rate)[None], torch.tensor([rate // 2]))
    assert int(length) == wanted // 2
    inner = slice(200, wanted // 2 - 200)
    assert float((found[0][inner] - tone(wanted)[inner]).abs().max()) < 40  # half of a per cent


def test_mixed_precision_leaves_a_resampled_wave_as_it_is() -> None:
    front, wave, length = Resample(8_000, 16_000), 8_000 * torch.randn(1, 400), torch.tensor([400])
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = front(wave, length)
    torch.testing.assert_close(found, front(wave, length)[0], atol=0, rtol=0)


def test_a_head_on_kept_features_is_the_whole_network(task: Task, data: Dataset) -> None:
    proxy = Proxy("frozen_audio", dict(config_of(task)), task).eval()
    tensors = part_tensors(data, data.parts["train"], "cpu")
    kept, _ = frozen.frozen_tensors(proxy.network, tensors)
    rows = torch.arange(7)
    with torch.inference_mode():
        whole = proxy.logits(batch_inputs(tensors[0], rows, rows))
        head = proxy.logits(batch_inputs(kept, rows, rows))
    assert torch.allclose(whole, head, atol=1e-5)


def test_all_layers_are_trained_each_at_its_rate(task: Task) -> None:
    config = config_of(task, "pretrained_audio", layer_decay=0.6, lr=1e-4, head_rate=8.0)
    network: Any = build_network("pretrained_audio", config, task)
    groups = network.parameter_groups(1e-4, 0.01)
    assert sorted({g["lr"] for g in groups}) == pytest.approx(
        [0.6**3 * 1e-4, 0.36e-4, 0.6e-4, 1e-4, 8e-4]
    )
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(ids) == len(set(ids)) == len(list(network.parameters()))
