"""The rules that ``nas audit`` and the monitors hold a network to, and that bound nothing."""

from __future__ import annotations

from nas.rules.numbers import RESIDUAL_FROM, SATURATING_MOST
from nas.rules.rule import Rule

CHECKED = (
    Rule(
        "saturating-activations",
        f"More than {SATURATING_MOST} layers of sigmoid or tanh in a row saturate; ReLU and its kin"
        " do not.",
        "Glorot & Bengio 2010, sec. 3.1 and 3.2; the number is ours",
    ),
    Rule(
        "normalise-deep",
        f"From {RESIDUAL_FROM} layers on a network is normalised.",
        "Ioffe & Szegedy 2015, sec. 3.3 (larger rates); the number is ours",
    ),
    Rule(
        "non-linear",
        "There is an activation between two layers: without it they are one.",
        "Goodfellow et al. 2016, Deep Learning, sec. 6.1",
    ),
    Rule(
        "one-output-a-class",
        "A classifier has one output for each class, or a single one for two.",
        "Goodfellow et al. 2016, Deep Learning, sec. 6.2.2.2 and 6.2.2.3",
    ),
    Rule(
        "logits",
        "A classifier returns logits: the cross-entropy takes the softmax itself.",
        "Goodfellow et al. 2016, Deep Learning, sec. 6.2.2.3",
    ),
    Rule(
        "no-noise-in-prediction",
        "A prediction is the same each time: dropout and other noise are for training.",
        "Srivastava et al. 2014, sec. 4 (no unit is left out at test time)",
    ),
    Rule(
        "independent-samples",
        "A prediction does not depend on the other samples of its batch.",
        "Ioffe & Szegedy 2015, sec. 3.1 (statistics of the population in inference)",
    ),
    Rule(
        "gradient-for-all",
        "Every trainable parameter gets a gradient; one without it never changes.",
        "Rumelhart et al. 1986 (Learning representations by back-propagating errors)",
    ),
    Rule(
        "inputs-standardised",
        "Inputs have a mean near zero and a deviation near one.",
        "LeCun et al. 1998 (Efficient BackProp), sec. 4.3",
    ),
    Rule(
        "loss-at-start",
        "Before the first step a classifier's loss is near the logarithm of its classes.",
        "Karpathy 2019 (A Recipe for Training Neural Networks), step 2; the tolerance is ours",
    ),
    Rule(
        "one-batch",
        "A network that can learn can memorise one batch.",
        "Karpathy 2019 (A Recipe for Training Neural Networks), step 2",
    ),
    Rule(
        "finite",
        "Losses, gradients and activations are finite numbers.",
        "Pei et al. 2024 (BTTackler), sec. 4",
    ),
    Rule(
        "vanishing-gradients",
        "Gradients reach the first layers, and do not shrink from layer to layer.",
        "Glorot & Bengio 2010, sec. 4.2",
    ),
    Rule(
        "exploding-gradients",
        "Gradients keep their order of magnitude; growth without bound undoes what was learnt.",
        "Pascanu et al. 2013, sec. 2",
    ),
    Rule(
        "dead-units",
        "Units that are zero for every sample get no gradient and stay so.",
        "Lu et al. 2020 (Dying ReLU and Initialization), sec. 2",
    ),
    Rule(
        "learns",
        "In its first quarter a training brings the loss below that of a constant.",
        "Pei et al. 2024 (BTTackler), sec. 4; the quarter is ours",
    ),
)
