"""The numbers in the rules, once each: sentences, bounds, defaults and checks use the same.
``statements`` says where they come from."""

from __future__ import annotations

RESIDUAL_FROM = 10  # weighted layers from which on a network has residual connections
SMALL_BATCH = 16  # samples of a batch below which GroupNorm replaces BatchNorm
MOST_TOKENS = 256  # that attention spans before it is local, or the model linear in them
FREE_PARAMS, PARAMS_PER_SAMPLE = 500_000, 2_000  # a network's at most, whichever is more
REFERENCE_PARAMS_PER_SAMPLE = 750  # of a published network that a space holds, at most
REFERENCE_PARAMS_PER_ROW = {"tabular": 70, "graphs": 35}  # of a table, or node of a graph
# That one worker must train it for in a fifth of the time, and all in a third of the budget
REFERENCE_EPOCHS = 20
# Floating-point operations a second in training with dense convolutions or matrices: of a CPU core
# as measured here, and of an A100 in mixed precision by NVIDIA's published figures of ResNet-50.
# Only whether a published network is within reach depends on them.
TRAINING_FLOPS = {"cpu": 2e10, "cuda": 5e13}
LONGEST_STEPS = 450_000  # of a recipe: 90 epochs of ImageNet in batches of 256
LEAST_DROPOUT, MOST_DROPOUT = 0.1, 0.5  # the bound where data abound, and where they are few
MOST_DROP_PATH = 0.2  # of whole branches, and of attention's weights
SATURATING_MOST = 4  # layers of sigmoid or tanh in a row
LEAST_DECAY, MOST_DECAY = 1e-4, 1e-2  # decoupled weight decay
GRAPH_L2 = (1e-5, 5e-4, 5e-3)  # of networks on one graph: the least L2, the default, the most
WEIGH_CLASSES_FROM = 1.5  # largest class over smallest from which on classes may be weighed
STEPS_OF_AN_EPOCH = 100  # that the batch size leaves, about
BATCH_SAMPLES, BATCH_ROWS = 64, 512  # of a batch at most; rows of a table
BATCH_VALUES = 2**24  # input values of a batch at most: 64 MiB in float32
GPU_BATCHES = 4  # times as many samples and values on a GPU, at most
GPU_BATCH_MB = 10_000  # memory of a worker on a GPU for each of those times, MiB
WHOLE_IMAGE = 32  # pixels a side of an image that is not halved before the first stage
HEAD_WIDEST = 128  # units of a fully connected layer after the pooling
PRETRAINED_BELOW = 10_000  # samples below which pretrained weights are worth looking for
PRETRAINED_STEPS = 600  # of a pretrained network's training
FREEZE_BELOW = 1_000  # samples below which more of a pretrained network stays as it is
CATEGORY_VALUES = 16  # of a category's vector, at most
WARMUP = 0.05  # of the steps
PATIENCE, PATIENCE_EPOCHS = 0.25, 5  # of a training's epochs, and at least so many
EARLY = 0.5  # of a schedule: one whose best epoch came by then was too long
GRADIENT_CLIP = 1.0  # of the global norm
VALIDATION_MOST = 5_000  # samples that score a proxy: a standard error of half a per cent
CROSS_VALIDATED = 150  # validation samples from which on one split is enough
# Values in memory for each edge and node in a step of the largest baseline on a whole graph (GAT of
# width 64), beside the nodes' features: as predicted by nas.training.cost.
EDGE_VALUES, NODE_VALUES = 460, 900
LATER_HOPS = (10, 5)  # neighbours that are drawn of a node in the second hop, and the third
MOST_HOPS = 1 + len(LATER_HOPS)
CLOUD_MOST = 2_048  # points of a cloud that are kept
CLOUD_CELLS = 64  # of a grid for each point of a cloud, at most
WAVE_LONGEST_S = 10.0  # seconds of a sound that are kept
TEXT_LONGEST = 1_024  # tokens of a text that are kept
FORECAST_SHORTEST = 16  # steps that a forecast is made from
SERIES_LONGEST = 1_024  # steps of a sequence of numbers that are kept
NEW_WORDS, WORD_COUNT, MOST_WORDS, MOST_PIECES = 0.15, 2, 30_000, 8_000  # of a vocabulary
LR_TEST = False  # whether a search begins with range tests; measured in experiments/LOG.md
LONGEST_CANDIDATE = 0.2  # of the wall clock
BASELINE_TIME_FACTOR = 2.0  # a baseline's time limit over a candidate's: all are compared with it
RATE_TOLERANCE = 3.0  # a range test finds a learning rate within this factor
