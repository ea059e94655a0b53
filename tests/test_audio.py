"""Audio: what becomes of sound files, and networks that do not hear the filling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from default_run import mostly_slow
from torch import Tensor, nn

from nas.data import encode, read
from nas.data.audio import recognise
from nas.data.folders import subfolders
from nas.data.ragged import Ragged
from nas.family import load_families
from nas.models.blocks import TransformerConfig
from nas.models.sequence import Convolution, sinusoids
from nas.models.spectrogram import LogMel, SpecAugment, mel_filters
from nas.models.wav2vec import Wav2Vec
from nas.rules import WAVE_LONGEST_S
from nas.task import DataProfile, InputError, Target, Task, UsageError
from nas.training.augment import augment_waves

FAMILIES = load_families("audio")


def sound(
    path: Path, pitch: float = 440.0, seconds: float = 0.1, rate: int = 8000, **kwargs: Any
) -> np.ndarray:
    """A tone of half the full scale, written to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, wave, rate, **kwargs)
    return wave


def class_folders(root: Path, n: int = 6, classes: Sequence[str] = ("low", "high")) -> Path:
    for k, label in enumerate(classes):
        for i in range(n):
            sound(root / label / f"{i}.wav", 300 * (k + 1) + i, 0.05 + 0.01 * i)
    return root


def listing(root: Path, column: str = "file_name", folder: str = "", n: int = 12) -> pd.DataFrame:
    rows = []
    for i in range(n):
        sound(root / folder / f"{i}.wav", 300 + 300 * (i % 2) + i, 0.05)
        rows.append({column: f"{i}.wav", "label": "ab"[i % 2], "speaker": f"s{i // 3}"})
    return pd.DataFrame(rows)


def waves(dataset: Any) -> Ragged:
    found = dataset.inputs["wave"]
    assert isinstance(found, Ragged)
    return found


# Reading ---------------------------------------------------------------------------------


def test_class_folders_become_int16_waves_of_their_own_lengths(tmp_path: Path) -> None:
    dataset = read(class_folders(tmp_path / "tones"))
    assert dataset.modality == "audio"
    assert dataset.targets[0].classes == ("high", "low")
    assert dataset.profile.sample_rate == 8000
    found = waves(dataset)
    assert found.values.dtype == np.int16
    assert found.lengths.tolist() == [400, 480, 560, 640, 720, 800] * 2
    expected, _ = soundfile.read(tmp_path / "tones" / "high" / "0.wav", dtype="int16")
    np.testing.assert_array_equal(found[0], expected)


def test_part_folders_keep_their_parts(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        class_folders(tmp_path / part, n=5)
    dataset = read(tmp_path)
    assert [len(rows) for rows in dataset.parts.values()] == [10, 10, 10]


@pytest.mark.parametrize("column", ["file_name", "file", "path"])
@pytest.mark.parametrize("folder", ["", "wav"])
def test_a_table_lists_files_beside_it_or_in_one_subfolder(
    tmp_path: Path, column: str, folder: str
) -> None:
    table = listing(tmp_path, column, folder)
    table["split"] = ["train"] * 8 + ["dev"] * 2 + ["test"] * 2
    table.to_csv(tmp_path / "meta.csv", index=False)
    for source in (tmp_path, tmp_path / "meta.csv"):
        dataset = read(source, modality="audio")
        assert dataset.targets[0].name == "label"
        assert [len(rows) for rows in dataset.parts.values()] == [8, 2, 2]
        assert waves(dataset).lengths.tolist() == [400] * 12


def test_a_group_is_whole_in_one_part(tmp_path: Path) -> None:
    table = listing(tmp_path)
    table.to_csv(tmp_path / "metadata.csv", index=False)
    dataset = read(tmp_path, split="group=speaker")
    speakers = [set(table["speaker"][rows]) for rows in dataset.parts.values()]
    assert not speakers[0] & speakers[1]
    assert not speakers[2] & (speakers[0] | speakers[1])


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_each_format_gives_the_wave_that_was_written(tmp_path: Path, ending: str) -> None:
    for i in range(12):
        written = sound(tmp_path / "ab"[i % 2] / f"{i}.{ending}", 500.0, 0.2, rate=16000)
    found = waves(read(tmp_path))[0] / 32767
    assert np.abs(found - written).max() < (0.02 if ending == "ogg" else 1e-4)


def test_channels_are_averaged_and_float_files_scaled(tmp_path: Path) -> None:
    class_folders(tmp_path)
    sides = np.stack([np.full(800, 0.4), np.full(800, 0.2)], axis=1)
    soundfile.write(tmp_path / "low" / "0.wav", sides, 8000, subtype="FLOAT")
    dataset = read(tmp_path)
    np.testing.assert_array_equal(waves(dataset)[6], round(0.3 * 32767))
    assert any("1 of 12 sounds have several channels" in note for note in dataset.notes)


def test_all_sounds_get_the_commonest_rate_and_keep_their_pitch(tmp_path: Path) -> None:
    class_folders(tmp_path)
    sound(tmp_path / "low" / "0.wav", 440, seconds=0.5, rate=44100)
    dataset = read(tmp_path)
    found = waves(dataset)[6].astype(float)
    assert dataset.profile.sample_rate == 8000
    assert len(found) == 4000
    assert np.argmax(np.abs(np.fft.rfft(found))) * 8000 / len(found) == pytest.approx(440, abs=2)
    assert any("1 of 12 sounds are resampled from 44100 to 8000 Hz" in n for n in dataset.notes)


def test_a_rate_above_16_khz_is_lowered_to_it(tmp_path: Path) -> None:
    for i in range(12):
        sound(tmp_path / "ab"[i % 2] / f"{i}.wav", 440, rate=44100)
    assert read(tmp_path).profile.sample_rate == 16000


def test_long_sounds_are_cut_with_a_note(tmp_path: Path) -> None:
    class_folders(tmp_path)
    sound(tmp_path / "low" / "0.wav", seconds=WAVE_LONGEST_S + 1)
    dataset = read(tmp_path)
    assert waves(dataset).lengths.max() == WAVE_LONGEST_S * 8000
    assert any("1 of 12 sounds are cut after 10 seconds" in note for note in dataset.notes)


def test_lists_of_waves_are_read_as_16_khz(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = [rng.uniform(-1, 1, 600 + i).astype(np.float32) for i in range(12)]
    x[0] = (32767 * x[0]).round().astype(np.int16)
    dataset = read((x, list("ab") * 6))
    assert dataset.modality == "audio"
    assert dataset.profile.sample_rate == 16000
    np.testing.assert_array_equal(waves(dataset)[0], x[0])
    np.testing.assert_allclose(waves(dataset)[3], 32767 * x[3], atol=0.51)


def test_new_sounds_are_coded_like_the_training_data(tmp_path: Path) -> None:
    dataset = read(class_folders(tmp_path / "tones"))
    again = encode(tmp_path / "tones", dataset.profile, "audio", dataset.targets)
    assert isinstance(again.inputs["wave"], Ragged)
    np.testing.assert_array_equal(again.inputs["wave"].values, waves(dataset).values)
    np.testing.assert_array_equal(again.labels["label"], dataset.labels["label"])
    assert again.names[0] == "high/0.wav"
    sound(tmp_path / "new.flac", seconds=0.25, rate=32000)
    one = encode(tmp_path / "new.flac", dataset.profile, "audio", dataset.targets)
    assert isinstance(one.inputs["wave"], Ragged)
    assert one.inputs["wave"].lengths.tolist() == [2000]
    assert one.names == ("new.flac",)


def test_only_sounds_are_recognised(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    table = pd.DataFrame({"file": ["a.png", "b.png"], "label": [0, 1]})
    table.to_csv(tmp_path / "images.csv", index=False)
    table.assign(file=["a.wav", "b.wav"]).to_csv(tmp_path / "sounds.csv", index=False)
    assert not recognise(tmp_path / "empty")
    assert not recognise(tmp_path / "images.csv")
    assert not recognise(pd.DataFrame({"path": [1, 2]}))
    assert "'file' names audio files" in recognise(tmp_path / "sounds.csv")


def corrupt(root: Path) -> None:
    (root / "low" / "0.wav").write_bytes(b"RIFF and then nothing of the kind")


def empty(root: Path) -> None:
    (root / "low" / "0.wav").write_bytes(b"")


def silent(root: Path) -> None:
    soundfile.write(root / "low" / "0.wav", np.zeros(0), 8000)


def not_a_number(root: Path) -> None:
    soundfile.write(root / "low" / "0.wav", np.full(400, np.nan), 8000, subtype="FLOAT")


def missing(root: Path) -> None:
    rows = "file_name,label\nlow/0.wav,a\nlow/99.wav,b\n"
    (root / "metadata.csv").write_text(rows)


def no_column(root: Path) -> None:
    (root / "metadata.csv").write_text("name,label\nlow/0.wav,a\n")


def no_target(root: Path) -> None:
    (root / "metadata.csv").write_text("file_name,digit,speaker\nlow/0.wav,a,b\n")


def ambiguous(root: Path) -> None:
    (root / "metadata.csv").write_text("file_name,label\n0.wav,a\n1.wav,b\n")


def nothing(root: Path) -> None:
    for folder in subfolders(root):
        for file in folder.iterdir():
            file.unlink()


def no_sounds(root: Path) -> None:
    nothing(root)
    (root / "notes.md").write_text("to be recorded")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (corrupt, r"1 of 12 sounds cannot be read: .*low/0\.wav \(Format not recognised\)"),
        (empty, r"low/0\.wav \(empty\)"),
        (silent, r"low/0\.wav \(no samples\)"),
        (not_a_number, r"low/0\.wav \(NaN or infinite values\)"),
        (missing, r"names 1 files that do not exist: low/99\.wav; file_name is relative"),
        (no_column, r"has no column file_name, file or path; it has name, label"),
        (no_target, r"name the target column, one of digit, speaker"),
        (ambiguous, r"the folders 'high', 'low' all hold the files"),
        (nothing, r"is empty: there is no file in it; name another folder"),
        (no_sounds, r"holds no audio file; expected one folder per class"),
    ],
)
def test_bad_input_is_refused_in_one_line(tmp_path: Path, spoil: Any, said: str) -> None:
    spoil(class_folders(tmp_path))
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path, modality="audio")
    assert "\n" not in str(caught.value)


def test_waves_of_a_wrong_scale_are_refused() -> None:
    with pytest.raises(InputError, match=r"wave 1 of float64 reaches 300; floats are waves in"):
        read(([np.full(300 + i, 300.0) for i in range(12)], list("ab") * 6), modality="audio")
    with pytest.raises(UsageError, match="needs its labels"):
        read([np.zeros(300 + i, np.float32) for i in range(12)], modality="audio")


# Features --------------------------------------------------------------------------------


def test_log_mel_frames_are_those_of_a_fourier_transform() -> None:
    rate, window, hop, bands = 8000, 200, 80, 40
    rng = np.random.default_rng(0)
    wave = rng.integers(-20000, 20000, 1234).astype(np.int16)
    frames, mask = LogMel(rate, bands, window, hop)(
        torch.from_numpy(wave)[None], torch.tensor([1234])
    )
    assert frames.shape == (1, 1 + 1234 // hop, bands)
    assert mask.all()
    # A frame of 256 around every 80th sample, under a Hann window of 200 in its middle.
    x = np.pad(wave / 32768, 128)
    hann = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window), 28)
    spectrum = np.stack([np.fft.rfft(x[i * hop :][:256] * hann) for i in range(frames.shape[1])])
    mel = np.log10(np.abs(spectrum) ** 2 @ mel_filters(rate, 256, bands).numpy().T)
    expected = (np.maximum(mel, mel.max() - 8) + 4) / 4
    np.testing.assert_allclose(frames[0].numpy(), expected, atol=1e-5)


def test_mixed_precision_leaves_log_mel_frames_as_they_are() -> None:
    front = LogMel(8000, 40, 200, 80)
    wave, length = batch([3000])
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = front(wave, length)
    torch.testing.assert_close(found, front(wave, length)[0], atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["sample", "band"])
def test_standardised_features_do_not_know_the_volume(kind: str) -> None:
    wave = torch.randint(-8000, 8000, (2, 3000), dtype=torch.int16)
    length = torch.tensor([3000, 1700])
    front = LogMel(8000, 40, 200, 80, kind)
    loud, mask = front(wave, length)
    soft, _ = front(wave.float() / 4, length)
    torch.testing.assert_close(loud, soft, atol=2e-3, rtol=0)
    for frames, real in zip(loud, mask, strict=True):
        assert frames[real].mean().abs() < 1e-5
        assert not frames[~real].any()


def test_spec_augment_blanks_a_share_of_time_and_bands_in_training_only() -> None:
    torch.manual_seed(0)
    x, mask = torch.ones(200, 50, 30), torch.ones(200, 50, dtype=torch.bool)
    module = SpecAugment(masks=1)
    y = module.train()(x, mask)
    frames, bands = (y == 0).all(2).sum(1), (y == 0).all(1).sum(1)
    assert frames.max() in (9, 10)  # a fifth of 50
    assert bands.max() in (9, 10)  # a third of 30
    assert frames.float().mean() == pytest.approx(5, abs=0.8)
    assert module.eval()(x, mask) is x


def test_a_shifted_wave_is_the_wave_moved_and_a_faster_one_is_higher() -> None:
    torch.manual_seed(0)
    time = torch.arange(4000)
    wave = (10_000 * torch.sin(2 * torch.pi * 50 * time / 4000)).round().short().repeat(64, 1)
    length = torch.full((64,), 4000)
    moved, new = augment_waves(wave, length, "shift")
    assert new.tolist() == length.tolist()
    start = int((moved[0] != 0).nonzero()[0]) - int(moved[0, 0] == 0)
    assert len({int((row != 0).nonzero()[0]) for row in moved}) > 10
    if start > 0:
        torch.testing.assert_close(moved[0, start:], wave[0, : 4000 - start].float())
    other, new = augment_waves(wave, length, "shift+speed")
    assert 3636 <= new.min() < 3800
    assert 4200 < new.max() <= 4445
    assert not other[torch.arange(other.shape[1]) >= new[:, None]].any()


# Networks --------------------------------------------------------------------------------


def task(seconds: float = 0.5, rate: int = 8000, n_train: int = 2000) -> Task:
    middle = round(seconds * rate)
    lengths = tuple(round(middle * share) for share in (0.3, 0.5, 0.8, 1, 1.2, 1.6, 3))
    profile = DataProfile(
        n_train, 50, 50, {"wave": (3 * middle,)}, lengths={"wave": lengths}, sample_rate=rate
    )
    target = Target("y", "multiclass", tuple("abcde"), (n_train // 5,) * 5)
    return Task("audio", (target,), profile).with_objectives()


def batch(lengths: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    length = torch.tensor(lengths)
    size = (len(lengths), int(length.max()))
    wave = torch.randint(-20_000, 20_000, size, generator=generator).short()
    return wave * (torch.arange(size[1]) < length[:, None]), length


def shaken(network: nn.Module) -> nn.Module:
    """Weights away from zero, and running statistics away from 0 and 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        for name, buffer in network.named_buffers():
            if "running" in name:
                buffer += 0.2 * torch.rand_like(buffer)
    return network


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sample_alone_and_in_any_batch_has_the_same_logits(name: str) -> None:
    space = FAMILIES[name].space(task())
    configs = [space.baseline(), *(space.sample(np.random.default_rng(i)) for i in range(8))]
    wave, length = batch([4000, 1, 161, 799, 2500, 3999])
    noise = torch.randint(-9000, 9000, (len(length), 900)).short()
    for config in configs:
        network = shaken(FAMILIES[name].build(config, task())).eval()
        with torch.inference_mode():
            together = network(wave=wave, wave_length=length)
            longer = network(wave=torch.cat([wave, noise], 1), wave_length=length)
            alone = [
                network(wave=wave[i : i + 1, :n], wave_length=length[i : i + 1])
                for i, n in enumerate(length.tolist())
            ]
        assert together.std() > 1e-3, config
        torch.testing.assert_close(torch.cat(alone), together, atol=3e-5, rtol=0)
        torch.testing.assert_close(longer, together, atol=3e-5, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_what_the_pooling_sees(name: str) -> None:
    network: Any = FAMILIES[name].build(FAMILIES[name].baseline(task()), task()).eval()
    wave, length = batch([4000, 1000])
    with torch.inference_mode():
        x, mask = network.features(wave=wave, wave_length=length)
        logits = network.head(network.pool(x, mask))
        torch.testing.assert_close(logits, network(wave=wave, wave_length=length))
    assert x.shape == (2, mask.shape[1], network.width)
    assert (6 if name == "audio_resnet" else 20) <= mask[0].sum() <= 50  # tokens of half a second


@pytest.mark.parametrize("seconds", [0.05, 2.0, 9.0])
@pytest.mark.parametrize("rate", mostly_slow([1000, 8000, 16000], [16000]))
# The frames of pretrained encoders come with their weights.
@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if not f.load])
def test_long_sounds_keep_to_the_tokens_that_attention_affords(
    name: str, rate: int, seconds: float
) -> None:
    long = task(seconds, rate)
    space = FAMILIES[name].space(long)
    wave = torch.zeros(1, long.profile.lengths["wave"][5], dtype=torch.int16)
    for i in range(4):
        config = space.sample(np.random.default_rng(i)) if i else space.baseline()
        with torch.device("meta"):
            network: Any = FAMILIES[name].build(config, long)
        x, _ = network.features(
            wave=wave.to("meta"), wave_length=torch.tensor([wave.shape[1]], device="meta")
        )
        assert x.shape[1] <= 256 * 1.3  # of raw waves the steps are powers of two


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_sees_zeros_behind_a_sample(stride: int) -> None:
    x = torch.randn(1, 9, 3)
    conv = Convolution(3, 5, kernel=5, stride=stride)
    short, mask = conv(x, torch.arange(9)[None] < 6)
    alone, _ = conv(x[:, :6], torch.ones(1, 6, dtype=torch.bool))
    assert mask.sum() == alone.shape[1] == -(-6 // stride)
    torch.testing.assert_close(short[mask], alone[0])


def test_sinusoids_have_wavelengths_from_2_pi_to_20000_pi() -> None:
    table = sinusoids(50, 8, torch.zeros(1))
    time = np.arange(50)
    for i, length in enumerate(np.geomspace(2 * np.pi, 2e4 * np.pi, 4)):
        np.testing.assert_allclose(table[:, i], np.sin(2 * np.pi * time / length), atol=1e-5)
        np.testing.assert_allclose(table[:, 4 + i], np.cos(2 * np.pi * time / length), atol=1e-5)


def test_wav2vec_has_a_token_for_every_begun_step() -> None:
    network = Wav2Vec(
        2, (10, 3, 2), (5, 2, 2), 8, TransformerConfig(16, 1, 2), position_kernel=4
    ).eval()
    for n in (1, 19, 20, 21, 400):
        x, mask = network.features(*batch([n]))
        assert x.shape[1] == mask.sum() == -(-n // 20)


@pytest.mark.data
def test_spoken_digits_are_read_with_their_speakers(data_folder: Path) -> None:
    dataset = read(data_folder / "audio" / "fsdd", modality="audio")
    assert len(dataset.parts["test"]) == 300
    assert dataset.targets[0].classes == tuple("0123456789")
    assert dataset.profile.sample_rate == 8000
    assert replace(dataset.profile, fingerprint="").lengths["wave"][3] == 3355
