"""Training in Lightning: the module around a network, and its data as device tensors.

The same module trains a search's proxies and the final network of a recipe; only the
amount of data and the number of epochs differ.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging
from scipy.special import entr
from torch import Tensor, nn
from torch.nn import functional as F

from nas import rules
from nas.candidate import Reason
from nas.data import Dataset, read
from nas.data.ragged import Input, Whole
from nas.family import load_families
from nas.front import standard_error
from nas.models.ensemble import Ensemble
from nas.options import ReadOptions
from nas.space import Config, members
from nas.task import Column, DataProfile, InputError, Target, Task, UsageError, input_type
from nas.training.augment import augment
from nas.training.batches import Batch, Batches, evaluation_batch, part_inputs, part_tensors
from nas.training.frozen import frozen_tensors
from nas.training.lr import WarmupCosine
from nas.training.metrics import score
from nas.training.monitors import TrainingStopped
from nas.training.neighbours import layered_tensors, sampled_tensors

NOISE = 1 / 3  # of a standard error: epochs that are this near to the best are as good


def quiet_lightning() -> None:
    """Silence Lightning's notes about hardware, its adverts, its hints about options that were
    chosen, and what it calls that is deprecated; errors stay."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(pytorch_)?lightning(\.|_|$)")


def build_network(family: str, config: Config, task: Task, pretrained: bool = False) -> nn.Module:
    """The network of a configuration, or the mean of several (``nas.space.members``); with
    ``pretrained`` it has its published weights, where its family starts from some."""
    networks = members(family, config)
    if len(networks) > 1:
        return Ensemble([build_network(name, own, task, pretrained) for name, own in networks])
    families = load_families(task.modality)
    if family not in families:
        raise InputError(
            f"the family {family!r} is not installed here; installed are {', '.join(families)}"
        )
    network = families[family].build(config, task)
    if pretrained and (load := families[family].load) is not None:
        load(network, config, task)
    return channels_last(network)


def channels_last(network: nn.Module) -> nn.Module:
    """The network, its two-dimensional convolutions with their channels last in memory, in which
    they are faster: a training step of a ResNet or an EfficientNet 1.2 to 1.6 times on a CPU; on
    GPUs tensor cores compute in this order (NVIDIA, "Tensor layouts in memory", of its guide to
    convolutional layers)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


class Proxy(pl.LightningModule):
    """A network of ``family`` with its losses, metrics, optimiser and schedule.

    ``task`` is a Task or its dictionary, as it stands in a recipe and in a checkpoint.
    Of ``config`` the training uses lr, weight_decay, clip, label_smoothing, class_weights,
    sparsity and what ``nas.training.augment`` knows, where they are present. ``pretrained`` is
    false where a checkpoint brings all weights.
    """

    def __init__(
        self,
        family: str,
        config: dict[str, Any],
        task: dict[str, Any] | Task,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        self.task = task if isinstance(task, Task) else Task.from_dict(task)
        self.family, self.config = family, config
        self.hparams.update(  # plain data, so that a checkpoint loads without pickle
            family=family, config=config, task=json.loads(self.task.to_json())
        )
        self.network = build_network(family, config, self.task, pretrained)
        self.temperatures: dict[str, float] = {}
        self.val_errors: dict[str, list[float]] = {}  # on the validation part, by target of numbers
        self._seen: list[tuple[Tensor, dict[str, Tensor]]] = []
        for i, target in enumerate(self.task.targets):
            self.register_buffer(f"class_weights_{i}", self._class_weights(target))
        self.chance_loss = fmean(map(self._chance_loss, self.task.targets))

    def _class_weights(self, target: Target) -> Tensor | None:
        classes = target.kind in ("binary", "multiclass")
        if not classes or self.config.get("class_weights", "none") == "none":
            return None
        counts = torch.tensor(target.counts, dtype=torch.float32).clamp(min=1)
        # Inverse frequency, with a mean of one over the samples (King & Zeng 2001, sec. 4).
        return counts.sum() / (len(counts) * counts)

    def _chance_loss(self, target: Target) -> float:
        """The loss of the best prediction that is the same for all training samples: the entropy
        of the labels, smoothed and weighted as in training, or a regression's variance."""
        if target.kind == "regression":
            return 1.0
        frequencies = np.array(target.counts) / self.task.profile.n_train
        if target.kind == "multilabel":
            return float((entr(frequencies) + entr(1 - frequencies)).mean())
        weights = self._class_weights(target)
        if weights is not None:
            frequencies = frequencies * weights.numpy()
        smoothing = float(self.config.get("label_smoothing", 0.0))
        frequencies = (1 - smoothing) * frequencies / frequencies.sum()
        frequencies = frequencies + smoothing / len(frequencies)
        return float(entr(frequencies).sum())

    def forward(self, **inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(**inputs)
        return logits

    def heads(self, logits: Tensor) -> dict[str, Tensor]:
        """Logits (B, task.outputs) cut into one part for each target."""
        parts = torch.split(logits, [t.outputs for t in self.task.targets], dim=1)
        return {t.name: part for t, part in zip(self.task.targets, parts, strict=True)}

    def loss(self, logits: Tensor, labels: Mapping[str, Tensor], plain: bool = False) -> Tensor:
        """Mean over the targets of cross-entropy or squared error in standard deviations; with
        ``plain`` without the smoothing and the class weights of the configuration, so that it can
        be compared with that of others."""
        smoothing = 0.0 if plain else float(self.config.get("label_smoothing", 0.0))
        total = logits.new_zeros(())
        heads = self.heads(logits)
        target_weights = rules.target_weights(self.task)
        for i, (target, weight) in enumerate(zip(self.task.targets, target_weights, strict=True)):
            label, part = labels[target.name], heads[target.name]
            if target.kind == "regression":
                standard = ((label - target.mean) / target.std).float()
                own = F.mse_loss(part[:, 0], standard)
            elif target.kind == "multilabel":
                own = F.binary_cross_entropy_with_logits(part, label)
            else:
                weights = None if plain else getattr(self, f"class_weights_{i}")
                own = _cross_entropy(part, label, weights, smoothing)
            total = total + weight * own
        return total

    def temperature(self, target: str) -> float:
        """What the logits of a target of classes are divided by before they are probabilities."""
        return self.temperatures.get(target, 1.0)

    def predictions(self, logits: Tensor) -> dict[str, Any]:
        """Probabilities, or values in the user's units, as numpy arrays by target."""
        result = {}
        heads = self.heads(logits)
        for target in self.task.targets:
            part = heads[target.name]
            if target.kind == "regression":
                value = part[:, 0].double() * target.std + target.mean
            elif target.kind == "multilabel":
                value = (part / self.temperature(target.name)).sigmoid()
            else:
                value = (part / self.temperature(target.name)).softmax(dim=1)
            result[target.name] = value.cpu().numpy()
        return result

    # -- training ------------------------------------------------------------------------

    def trained(self, lr: float, weight_decay: float) -> Any:
        """What an optimiser trains: all parameters, or the groups that a network makes of its
        own, each with its rate."""
        groups = getattr(self.network, "parameter_groups", None)
        return self.parameters() if groups is None else groups(lr, weight_decay)

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """Of a batch of samples, or of the features of a frozen encoder."""
        if "features" in inputs:
            return self.network.from_fixed(**inputs)  # type: ignore[operator, no-any-return]
        return self.network(**inputs)  # type: ignore[no-any-return]

    def training_step(self, batch: Batch, _: int) -> Tensor:
        inputs, labels = batch
        loss = self.loss(self.logits(augment(inputs, self.config)), labels)
        extra = getattr(self.network, "auxiliary_loss", None)
        if extra is not None:  # TabNet's sparsity (Arik & Pfister 2019, "Feature selection")
            loss = loss + float(self.config["sparsity"]) * extra
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW (Adam by rule "l2-one-graph") with warm-up and cosine; a recipe's own sections
        replace it."""
        lr, weight_decay = float(self.config["lr"]), float(self.config["weight_decay"])
        kind = torch.optim.AdamW if rules.decouples_decay(self.task) else torch.optim.Adam
        optimizer = kind(
            self.trained(lr, weight_decay), lr=lr, weight_decay=weight_decay, fused=True
        )
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = WarmupCosine(optimizer, total, rules.warmup_steps(total))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's own, but in two cases. In mixed precision it refuses a fused optimiser for
        the sake of the loss scaler: bfloat16 has none, and its gradients are clipped as they are.
        Of weights in parts (FSDP) only the whole network knows the norm."""
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            whole = getattr(self.trainer.strategy.model, "clip_grad_norm_", None)
            if whole is not None:
                whole(gradient_clip_val)
                return
            if self.trainer.precision == "bf16-mixed":
                nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
                return
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    # -- evaluation ----------------------------------------------------------------------

    def validation_step(self, batch: Batch, _: int) -> None:
        inputs, labels = batch
        self._seen.append((self.logits(inputs), labels))

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self._score(prefix=""))

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        self.log_dict(self._score(prefix="test_"))

    def _gathered(self, parts: list[Tensor]) -> Tensor:
        """What the batches gave, of all processes that train this network together."""
        own = torch.cat(parts)
        loader = self.trainer.val_dataloaders
        if self.trainer.world_size == 1 or not isinstance(loader, Batches):
            return own
        everywhere = self.all_gather(own)
        assert isinstance(everywhere, Tensor)
        return loader.gathered(everywhere)

    def _score(self, prefix: str) -> dict[str, float]:
        logits = self._gathered([each[0] for each in self._seen]).float()
        names = [t.name for t in self.task.targets]
        labels = {name: self._gathered([each[1][name] for each in self._seen]) for name in names}
        self._seen.clear()
        if not torch.isfinite(logits).all():
            raise TrainingStopped(Reason.NAN, "the network's output on the validation part")
        metrics, loss = self.scores(logits, labels)
        found = {f"{prefix}{name}": value for name, value in metrics.items()}
        return found | {f"{prefix or 'val_'}loss": loss}

    def scores(
        self, logits: Tensor, labels: Mapping[str, Tensor]
    ) -> tuple[dict[str, float], float]:
        """The metrics of logits (n, task.outputs), and their plain loss."""
        truth = {name: value.cpu().numpy() for name, value in labels.items()}
        metrics = score(self.task, truth, self.predictions(logits))
        return metrics, float(self.loss(logits, labels, plain=True))


def _cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float
) -> Tensor:
    """The mean over the samples, each with the weight of its class. Torch weighs the terms of the
    smoothing by class too, which draws the probabilities to the rare classes."""
    if weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    each = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    own = weights[labels]
    return (own * each).sum() / own.sum()


_P = TypeVar("_P", bound=Proxy)


def proxy_of(arguments: Mapping[str, Any], where: str, kind: Callable[..., _P]) -> _P:
    """The module of a recipe's model section: ``kind`` called with its init_args.

    Raises InputError, which begins with ``where``, where the family is not installed here or
    cannot build the configuration.
    """
    family = arguments["family"]
    try:
        return kind(**arguments)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except Exception as error:  # whatever a family's build raises for values it does not know
        reason = f"{type(error).__name__}: {str(error).strip() or 'no reason given'}"
        raise InputError(
            f"{where}: model.init_args.config: {family!r} cannot build this configuration"
            f" ({reason.splitlines()[0]}); export the recipe again"
        ) from error


class AveragedWeights(WeightAveraging):
    """An exponential moving average of the weights and of BatchNorm's statistics, which is
    validated and kept in their place.

    After n steps the decay is at most (1 + n) / (10 + n), as in TensorFlow's
    ExponentialMovingAverage, so that a short training's average is not that of its start.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise InputError(f"decay must be between 0 and 1, got {decay:g}")
        super().__init__(multi_avg_fn=self._average)
        self.decay = decay

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Keep the average on the device of the training: the network itself comes there later."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def _average(self, averages: list[Tensor], now: list[Tensor], _: Tensor) -> None:
        if not averages[0].is_floating_point():  # BatchNorm's number of batches
            torch._foreach_copy_(averages, now)
            return
        steps = self._latest_update_step
        decay = min(self.decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(averages, now, 1 - decay)

    def swap(self, module: pl.LightningModule) -> None:
        """Exchange the network's weights and their average."""
        self._swap_models(module)


class Patience(pl.Callback):
    """Ends a training after ``patience`` epochs in a row in which neither the metric ``monitor``
    nor the loss on the validation part was better than ever before, ``within`` this fraction of
    its epochs: behind it the learning rate comes down, and the last epochs are the best.

    A metric of few samples stands still while a network still learns, and the loss rises while its
    decisions get better: each alone ends trainings too early (scripts/bench_patience.py).
    """

    def __init__(self, monitor: str, mode: str, patience: int, within: float = 1.0) -> None:
        if patience < 1:
            raise InputError(f"patience must be at least 1, got {patience}")
        self.monitor, self.mode, self.patience, self.within = monitor, mode, patience, within
        self._best: dict[str, float] = {}
        self._since = 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.monitor not in trainer.callback_metrics:
            raise InputError(
                f"trainer.callbacks: there is no metric {self.monitor!r}; here are"
                f" {', '.join(trainer.callback_metrics)}"
            )
        self._since += 1
        for name, sign in ((self.monitor, 1 if self.mode == "max" else -1), ("val_loss", -1)):
            value = sign * float(trainer.callback_metrics[name])
            if value > self._best.get(name, -math.inf):
                self._best[name], self._since = value, 0
        most = trainer.max_epochs or -1  # -1: without an end
        within = most < 0 or trainer.current_epoch + 1 <= self.within * most
        if self._since >= self.patience and within:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "since": self._since}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best, self._since = dict(state_dict["best"]), int(state_dict["since"])


class LatestBest(ModelCheckpoint):
    """Keeps the best epoch or, of those within ``NOISE`` or one sample of it, the latest.

    A small validation part gives nearly the same quality to many epochs, and the first of them has
    hardly learned. A learning rate that comes down says which is the best of them: the last one.
    Where weights are averaged, their average is kept, as it is what was validated.
    """

    loss: float | None = None  # of the validation part, of the epoch that is kept
    _highest: float | None = None  # of all epochs, where larger is better

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        averages = [each for each in callbacks if isinstance(each, AveragedWeights)]
        if not self.save_weights_only:  # then they put their average into the checkpoint themselves
            averages = []
        module, place = trainer.lightning_module, Path(filepath)
        loss = float(trainer.callback_metrics.get("val_loss", math.nan))
        self.loss = loss if math.isfinite(loss) else None
        unfinished = place.with_name(f"{place.name}.new")
        for average in averages:
            average.swap(module)
        super()._save_checkpoint(trainer, str(unfinished))
        for average in averages:
            average.swap(module)
        if trainer.is_global_zero:
            unfinished.replace(place)  # whoever is killed leaves a whole file
        self._last_checkpoint_saved = filepath

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"highest": self._highest, "loss": self.loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of an earlier training, whose folder may have been moved since."""
        folder = Path(self.dirpath or ".")
        self._highest, self.loss = state_dict.get("highest"), state_dict.get("loss")

        def here(path: str) -> str:
            return str(folder / Path(path).name) if path else ""

        super().load_state_dict(
            state_dict
            | {"dirpath": self.dirpath, "best_model_path": here(state_dict["best_model_path"])}
            | {"kth_best_model_path": here(state_dict["kth_best_model_path"])}
            | {"best_k_models": {here(k): v for k, v in state_dict["best_k_models"].items()}}
        )

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        if current is None or not math.isfinite(float(current)):
            return super().check_monitor_top_k(trainer, current)
        value = float(current) * (1 if self.mode == "max" else -1)
        known = self._highest
        self._highest = value if known is None else max(known, value)
        return known is None or value >= known - self._noise(trainer, abs(self._highest))

    def _noise(self, trainer: pl.Trainer, value: float) -> float:
        """How far two epochs of a quality may be apart and still be equally good."""
        task: Task = trainer.lightning_module.task  # type: ignore[assignment]
        noise = NOISE * standard_error(task, str(self.monitor), value, task.profile.n_val)
        # A single sample is no difference, also where the best epoch had none wrong.
        counted = str(self.monitor) in ("accuracy", "balanced_accuracy", "f1")
        sample = 1.001 / max(1, task.profile.n_val) if counted else 0.0
        return max(noise, sample)


class TaskData(pl.LightningDataModule):
    """The data set of a recipe: read from its source, checked against the recipe's split.

    ``source`` may be the folder of a saved ``Dataset``; otherwise it and ``options``
    (``nas.options.ReadOptions``) are those of ``nas.data.read``. With a ``task``, data that the
    recipe has no fingerprint of must be coded as that of the task.
    """

    task: Task | None = None  # of the network that reads them

    def __init__(
        self,
        source: str,
        batch_size: int,
        fingerprint: str = "",
        split_hash: str = "",
        **options: Any,
    ) -> None:
        super().__init__()
        self.source, self.batch_size = source, batch_size
        self.fingerprint, self.split_hash = fingerprint, split_hash
        self.options = ReadOptions(**options)
        self.dataset: Dataset | None = None

    def setup(self, stage: str = "fit") -> None:
        if self.dataset is not None:
            return
        if not os.path.exists(os.path.expanduser(self.source)):
            raise UsageError(
                f"{self.source} does not exist; the recipe's data.source says where its data are"
                " (`nas train --set data.source=PATH`)"
            )
        folder = Path(self.source)
        saved = (folder / "dataset.json").is_file()
        how = self.options.reading()
        dataset = Dataset.load(folder) if saved else read(self.source, **how)
        profile = dataset.profile
        for what, expected, got in (
            ("data", self.fingerprint, profile.fingerprint),
            ("split", self.split_hash, profile.split),
        ):
            if expected and expected != got:
                raise InputError(
                    f"the {what} of {self.source} differs from what the recipe was found"
                    f" on ({got} instead of {expected}); put the old data back, or search on the"
                    " new ones"
                )
        if self.task is not None and not self.fingerprint:
            new, old = _coding(dataset), _coding(self.task)
            if differ := [name for name in new if new[name] != old[name]]:
                raise InputError(
                    f"the data of {self.source} are coded in another way than those that the"
                    f" recipe was found on ({', '.join(differ)}); put the old data back, or search"
                    " on the new ones"
                )
        self.dataset = dataset

    def batches(self, part: str, batch_size: int | None = None, shuffle: bool = False) -> Batches:
        self.setup()
        assert self.dataset is not None
        device = str(self.trainer.strategy.root_device) if self.trainer else "cpu"
        tensors = part_tensors(self.dataset, self.dataset.parts[part], device)
        if self.trainer:
            network: nn.Module = self.trainer.lightning_module.network  # type: ignore[assignment]
            if part == "test":
                tensors = layered_tensors(network, tensors)
            else:
                tensors = sampled_tensors(network, frozen_tensors(network, tensors))
        rank, world = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        if shuffle and len(self.dataset.parts[part]) < 2 * world:
            raise InputError(
                f"{world} processes need {2 * world} training samples, and there are"
                f" {len(self.dataset.parts[part])}; use fewer devices"
            )
        batch_size = batch_size or evaluation_batch(self.dataset.modality, tensors[0])
        return Batches(*tensors, batch_size, self.options.seed if shuffle else None, rank, world)

    def train_dataloader(self) -> Batches:
        return self.batches("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> Batches:
        return self.batches("val")

    def test_dataloader(self) -> Batches:
        return self.batches("test")


def _coding(of: Dataset | Task) -> dict[str, Any]:
    """How samples and labels are coded, by the names of the profile's fields, and "targets"."""
    return vars(_coded(of.profile)) | {"targets": [(t.name, t.kind, t.classes) for t in of.targets]}


def _coded(profile: DataProfile) -> DataProfile:
    """A profile without what only describes the data: numbers of samples, lengths, statistics."""
    fixed, series = ("numeric", "categorical", "image"), profile.series
    shapes = {
        name: shape if input_type(name) in fixed else shape[1:]
        for name, shape in profile.inputs.items()
    }
    columns = (
        Column(c.name, c.kind, categories=c.categories, shift=c.shift, form=c.form)
        for c in profile.columns
    )
    members = profile.members.items()
    return DataProfile(
        *(0, 0, 0, shapes, tuple(columns)),
        channel_shift=profile.channel_shift,
        channels=profile.channels,
        pixel_range=profile.pixel_range,
        vocabulary=profile.vocabulary,
        tokenizer=profile.tokenizer,
        sample_rate=profile.sample_rate,
        series=series and replace(series, naive_errors={}),
        members={name: replace(own, profile=_coded(own.profile)) for name, own in members},
    )


def load_proxy(checkpoint: Path, device: str = "cpu") -> Proxy:
    """A trained network back from its checkpoint; nothing in the file is executed."""
    try:
        content = torch.load(checkpoint, map_location=device, weights_only=True)
        saved = content["hyper_parameters"]
        proxy = Proxy(saved["family"], saved["config"], saved["task"], pretrained=False)
        proxy.load_state_dict(content["state_dict"])
        proxy.temperatures = {k: float(v) for k, v in saved.get("temperatures", {}).items()}
        errors = saved.get("val_errors", {})
        proxy.val_errors = {name: [float(e) for e in sizes] for name, sizes in errors.items()}
    except FileNotFoundError:
        raise InputError(f"no checkpoint at {checkpoint}; `nas train` makes one") from None
    except InputError as error:  # a family that is not installed here, a task of another version
        raise InputError(f"{checkpoint}: {error}") from error
    except (
        *(AttributeError, EOFError, LookupError, RuntimeError, TypeError, ValueError),
        pickle.UnpicklingError,
    ) as error:
        raise InputError(f"{checkpoint} is not a checkpoint of `nas train`") from error
    return proxy.to(device).eval()


@torch.inference_mode()
def predict(proxy: Proxy, inputs: Mapping[str, Input]) -> dict[str, Any]:
    """Predictions by target for encoded inputs, in the order of their samples."""
    samples = max(len(x) for x in inputs.values() if not isinstance(x, Whole))
    tensors = part_inputs(inputs, np.arange(samples), str(proxy.device))
    given, labels = layered_tensors(proxy.network, (tensors, {}))
    batches = Batches(given, labels, evaluation_batch(proxy.task.modality, given))
    batches.labels["row"] = torch.arange(batches.samples, device=proxy.device)
    parts = [(proxy.logits(batch), labels["row"]) for batch, labels in batches]
    order = torch.cat([rows for _, rows in parts]).argsort()
    return proxy.predictions(torch.cat([logits for logits, _ in parts])[order].float())
