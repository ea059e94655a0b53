"""The rules: sentences and sources.

A rule is a sentence, and its source what supports it; where the number in a rule is a choice
of this project, the source says so. The numbers are those of ``nas.rules.numbers``.
"""

from __future__ import annotations

from nas.rules.checked import CHECKED
from nas.rules.numbers import (
    BATCH_ROWS,
    BATCH_SAMPLES,
    BATCH_VALUES,
    CATEGORY_VALUES,
    CLOUD_CELLS,
    CLOUD_MOST,
    CROSS_VALIDATED,
    EARLY,
    EDGE_VALUES,
    FORECAST_SHORTEST,
    FREE_PARAMS,
    FREEZE_BELOW,
    GPU_BATCHES,
    GRADIENT_CLIP,
    HEAD_WIDEST,
    LATER_HOPS,
    LEAST_DECAY,
    MOST_DECAY,
    MOST_DROP_PATH,
    MOST_DROPOUT,
    MOST_TOKENS,
    NEW_WORDS,
    NODE_VALUES,
    PARAMS_PER_SAMPLE,
    PATIENCE,
    PATIENCE_EPOCHS,
    PRETRAINED_BELOW,
    PRETRAINED_STEPS,
    REFERENCE_PARAMS_PER_ROW,
    REFERENCE_PARAMS_PER_SAMPLE,
    RESIDUAL_FROM,
    SERIES_LONGEST,
    SMALL_BATCH,
    STEPS_OF_AN_EPOCH,
    TEXT_LONGEST,
    WARMUP,
    WAVE_LONGEST_S,
    WEIGH_CLASSES_FROM,
    WHOLE_IMAGE,
)
from nas.rules.rule import Rule

_ALL = (
    Rule(
        "families-by-modality",
        "What the data is (a table, images, texts …) says which families of networks are tried.",
        "Bronstein et al. 2021, Geometric Deep Learning, sec. 3 (symmetries of the data)",
    ),
    Rule(
        "baseline-first",
        "Each family's proven configuration, scaled to the data, is trained before any sample.",
        "Feurer et al. 2015 (a search starts from configurations that proved good elsewhere)",
    ),
    Rule(
        "references",
        "A space holds a published network of its family where the data"
        f" (1 sample for {REFERENCE_PARAMS_PER_SAMPLE} parameters, 1 row of a table for"
        f" {REFERENCE_PARAMS_PER_ROW['tabular']}, 1 node of a graph for"
        f" {REFERENCE_PARAMS_PER_ROW['graphs']}), the limits, the memory and the budget carry it,"
        " and the largest of them is the baseline where it exceeds the family's own.",
        "He et al. 2016, table 6, and Zagoruyko & Komodakis 2016, table 4, train 5 to 730 for each"
        " sample of CIFAR-10; Gorishniy et al. 2021 train 68 for each row of California housing,"
        " Veličković et al. 2018 34 for each node of Cora; He et al. 2016, sec. 3.4 (the length of"
        " a training on ImageNet); what a budget carries is ours",
    ),
    Rule(
        "pretrained-first",
        "Weights pretrained on similar data are preferred to random ones where they exist, and the"
        f" more so with fewer than {PRETRAINED_BELOW:,} samples.",
        "He et al. 2019 (Rethinking ImageNet Pre-Training): it made up for 10,000 images, not for"
        " 1,000",
    ),
    Rule(
        "adapt-by-data",
        "All layers of a pretrained network are trained, and a head on the frozen network is tried"
        " too; its last layers alone where that is named.",
        "Kornblith et al. 2019, sec. 4.2 (fine-tuning all layers was best on 12 data sets); the"
        " last ones alone did not pay here (experiments/LOG.md)",
    ),
    Rule(
        "freeze-few",
        f"With fewer than {FREEZE_BELOW:,} samples the statistics of a pretrained network's"
        " BatchNorm stay, and where a part of its blocks is trained, the first half stays.",
        "Yosinski et al. 2014, sec. 1 (features stay where the data are few and the parameters are"
        " many); Kolesnikov et al. 2020 (BiT), sec. 2.1 (statistics of batches harm transfer); the"
        " number is ours",
    ),
    Rule(
        "pretrained-rate",
        "Pretrained layers learn at rates below those of new ones: Transformers at 5e-5 for a width"
        " of 768, and in inverse proportion to it, networks of convolutions at 1e-3. A new head"
        " learns five times as fast, and what is new in a fusion 20 times, but at 3e-3 at most.",
        "Devlin et al. 2019, app. A.3 (2e-5 to 5e-5); Turc et al. 2019 (of small ones up to 3e-4);"
        " the rates of convolutions and of fusions are ours",
    ),
    Rule(
        "layer-wise-rates",
        "The nearer a pretrained layer is to the input, the slower it learns.",
        "Howard & Ruder 2018 (ULMFiT), sec. 3.2; Zhang et al. 2021 (few-sample BERT), sec. 5",
    ),
    Rule(
        "low-rank",
        "Updates of a pretrained layer have a low rank: 8 serves as well as 64.",
        "Hu et al. 2022 (LoRA), sec. 7.2",
    ),
    Rule(
        "first-blocks",
        "The first blocks of a pretrained network are a smaller and faster one.",
        "Sajjad et al. 2023 (On the Effect of Dropping Layers), sec. 5",
    ),
    Rule(
        "pretrained-steps",
        f"A pretrained network is trained for {PRETRAINED_STEPS} steps, but for no fewer than 3"
        " epochs and no more than 20 of texts, or 40 of images; a head for 10 to 40.",
        "Devlin et al. 2019, app. A.3 (2 to 4 epochs); Mosbach et al. 2021, sec. 6 (20);"
        " Kolesnikov et al. 2020 (BiT), sec. 3.3 (500 steps of few images)",
    ),
    Rule(
        "depth-from-data",
        "Depth grows with the logarithm of the number of training samples.",
        "Kaplan et al. 2020, sec. 4 (more data carry more parameters); the logarithm is ours",
    ),
    Rule(
        "width-from-data",
        "Width doubles with tenfold training samples, and grows with the logarithm of the classes.",
        "Kaplan et al. 2020, sec. 4 (more data carry more parameters); Yang et al. 2018 (a narrow"
        " last layer cannot tell many classes apart); the doublings and the logarithm are ours",
    ),
    Rule(
        "params-per-sample",
        f"A network has at most {FREE_PARAMS:,} parameters, or {PARAMS_PER_SAMPLE:,} for each"
        " sample where that is more.",
        "Zhang et al. 2017, sec. 4 (two for each sample fit any labels); the cap is ours",
    ),
    Rule(
        "cost-from-the-start",
        "Costs are objectives and limits from the start: a limit on parameters or memory bounds"
        " the widths, and each baseline keeps it.",
        "Tan et al. 2019 (MnasNet), sec. 3",
    ),
    Rule(
        "residual-from-10",
        f"From {RESIDUAL_FROM} layers on a network has residual connections.",
        "He et al. 2016, sec. 4.1 (plain networks degrade with depth); the ten is ours",
    ),
    Rule(
        "activation-by-family",
        "ReLU for convolutions, GELU for Transformers, SiLU for modern networks.",
        "He et al. 2015; Hendrycks & Gimpel 2016; Ramachandran et al. 2017",
    ),
    Rule(
        "norm-by-family",
        "BatchNorm for convolutions, LayerNorm or RMSNorm for Transformers.",
        "Ioffe & Szegedy 2015; Ba et al. 2016; Zhang & Sennrich 2019",
    ),
    Rule(
        "groupnorm-for-small-batches",
        f"With fewer than {SMALL_BATCH} samples in a batch GroupNorm replaces BatchNorm"
        " (LayerNorm where a layer has no positions).",
        "Wu & He 2018, fig. 1; sec. 3 (LayerNorm is GroupNorm of one group)",
    ),
    Rule(
        "dropout-from-risk",
        f"Dropout of at most {MOST_DROPOUT:g} (of paths and of attention {MOST_DROP_PATH:g}) where"
        " overfitting is likely, and a fifth of that where it is not: parameters against samples.",
        "Srivastava et al. 2014, sec. 7.3 and 7.4 (rate, and size of the data); Huang et al. 2016"
        " (paths); the proportion is ours",
    ),
    Rule(
        "no-dropout-after-batchnorm",
        "Convolutional blocks with BatchNorm have no dropout inside; it comes after the last"
        " BatchNorm, before the head.",
        "Li et al. 2019 (variance shift), sec. 3 and 4",
    ),
    Rule(
        "weight-decay-from-risk",
        f"Decoupled weight decay of {LEAST_DECAY:g} to {MOST_DECAY:g}, by default in proportion to"
        " the risk of overfitting: parameters against samples.",
        "Loshchilov & Hutter 2019, sec. 4; the proportion is ours",
    ),
    Rule(
        "learning-rate-by-family",
        "Convolutions take larger rates than attention; each family begins near its own, and a"
        " published network at its own where that is lower.",
        "Xiong et al. 2020, sec. 3 (Transformers need small rates or warm-up); the rates of"
        " families are ours",
    ),
    Rule(
        "learning-rate-first",
        "A range test of a family's baseline sets right a learning rate that is far off.",
        "Smith 2017, sec. 3.3 (a rate that grows while the loss is watched); the tenth of the rate"
        " of least loss, and the factors around it, are ours",
    ),
    Rule(
        "warm-up-cosine",
        f"AdamW; its rate warms up over {WARMUP:.0%} of the steps and falls along half a cosine.",
        "Loshchilov & Hutter 2017, eq. 5 (cosine), and 2019 (AdamW); Goyal et al. 2017, sec. 2.2"
        " (warm-up); its length is ours",
    ),
    Rule(
        "early-stopping",
        f"A training ends where {PATIENCE:.0%} of its epochs in a row, and at least"
        f" {PATIENCE_EPOCHS}, were better neither in quality nor in loss on the validation part;"
        f" not in the last {1 - EARLY - PATIENCE:.0%}, where the learning rate comes down. The best"
        " one is kept.",
        "Prechelt 1998, Early Stopping: But When?, sec. 2; the numbers are measured"
        " (scripts/bench_patience.py)",
    ),
    Rule(
        "schedule-length",
        f"Where the best epoch of a training came within the first {EARLY:.0%} of its schedule, the"
        " learning rate was still high: a search trains it again, with a schedule of as many"
        " epochs.",
        "Li, Yumer & Ramanan 2020, Budgeted Training: a good schedule has come down at the end of"
        " the budget, however short that is; the number is measured (experiments/LOG.md)",
    ),
    Rule(
        "deep-ensemble",
        "The logits of the best network at full scale, of those nearly as good and, where time is"
        " left, of more networks of its configuration from other random weights are averaged; but"
        " none from published weights, and no more than the limits on the costs allow.",
        "Lakshminarayanan et al. 2017, Deep Ensembles, sec. 2.4 and fig. 2: five networks give most"
        " of the gain; Heskes 1998, Logarithmic Opinion Pools, sec. 2; what it gives here is"
        " measured (experiments/LOG.md)",
    ),
    Rule(
        "gradient-clipping",
        f"Gradients are clipped to a global norm of {GRADIENT_CLIP:g}; in networks over sequences"
        " the search finds whether that helps.",
        "Pascanu et al. 2013, sec. 3.2; the norm is ours",
    ),
    Rule(
        "batch-from-data",
        f"The batch size leaves about {STEPS_OF_AN_EPOCH} steps in an epoch, of at most"
        f" {BATCH_SAMPLES} samples ({BATCH_ROWS} rows of a table) and"
        f" {BATCH_VALUES / 1e6:.0f} million values; on a GPU, by its memory, up to {GPU_BATCHES}"
        " times as many samples and values.",
        "Masters & Luschi 2018, sec. 5 (small batches generalise); He et al. 2016, sec. 3.4 (256 on"
        " ImageNet); the other numbers are ours",
    ),
    Rule(
        "micro-batch",
        "Where memory is short a batch comes in two, four or more parts, for BatchNorm of at least"
        f" {SMALL_BATCH} samples. On a CPU the activations of a part take at most half of what a"
        " data set may.",
        "Goyal et al. 2017, sec. 2.3 and 3 (gradients of parts are averaged; BatchNorm sees each"
        " part alone); Wu & He 2018, fig. 1 (its error grows below 16)",
    ),
    Rule(
        "attention-cost",
        f"Attention is quadratic in the tokens: patches leave 16 to {MOST_TOKENS} of an image.",
        f"Dosovitskiy et al. 2021, sec. 3.1; the {MOST_TOKENS} are ours",
    ),
    Rule(
        "long-sequences",
        f"From {MOST_TOKENS} tokens on attention may be local, from {2 * MOST_TOKENS} on it is;"
        " recurrent and state-space models are linear in the length.",
        "Beltagy et al. 2020 (Longformer), sec. 3.1; Gu & Dao 2023 (Mamba), sec. 3; the numbers"
        " are ours",
    ),
    Rule(
        "padding-masks",
        "Samples of different lengths are padded in a batch; what is padding changes no output.",
        "Vaswani et al. 2017, sec. 3.2.3 (masks)",
    ),
    Rule(
        "one-head-per-target",
        "Several targets share one network; each has its own head and equal weight in the loss.",
        "Caruana 1997, Multitask Learning, sec. 2; the equal weights are ours",
    ),
    Rule(
        "global-pooling",
        "Global pooling and one linear layer, or one of at most"
        f" {HEAD_WIDEST} units before it, instead of wide fully connected heads.",
        "Lin et al. 2014, sec. 3.2",
    ),
    Rule(
        "resolution",
        "Input resolution is searched with depth and width.",
        "Tan & Le 2019, sec. 3.2",
    ),
    Rule(
        "stages",
        "Maps are halved stage by stage until about four cells a side are left, at most four"
        " times.",
        "He et al. 2016, table 1 (four stages) and sec. 4.2 (three for small images); the four"
        " cells are ours",
    ),
    Rule(
        "early-downsampling",
        f"Images over {WHOLE_IMAGE} pixels are halved by the stem, as most of the cost is in the"
        f" first maps. Published networks reduce those of up to {2 * WHOLE_IMAGE} half as much at"
        f" first as larger ones, and those of up to {WHOLE_IMAGE} a quarter as much.",
        "He et al. 2016, table 1; for small images kept whole, sec. 4.2",
    ),
    Rule(
        "kernel",
        "Kernels of 3 or 5: two small ones see as far as a large one for fewer weights.",
        "Simonyan & Zisserman 2015, sec. 2.3; Tan et al. 2019 (MnasNet), sec. 4.1",
    ),
    Rule(
        "bottleneck",
        "Bottleneck blocks make deep networks of wide stages affordable.",
        "He et al. 2016, sec. 4.1 (deeper bottleneck architectures)",
    ),
    Rule(
        "expansion",
        "Inverted residuals widen a block's input up to six times.",
        "Sandler et al. 2018 (MobileNetV2), sec. 3.3",
    ),
    Rule(
        "squeeze-excite",
        "Channels are weighed by their global means, at a quarter of the width.",
        "Hu et al. 2018, sec. 3; the ratio as in Tan & Le 2019",
    ),
    Rule(
        "conv-stem",
        "A small Transformer trains better on a convolutional stem than on raw patches.",
        "Xiao et al. 2021 (Early Convolutions Help Transformers See Better), sec. 4",
    ),
    Rule(
        "heads",
        "One to eight attention heads share the width; published networks may have others.",
        "Vaswani et al. 2017, sec. 3.2.2 and table 3",
    ),
    Rule(
        "feed-forward",
        "The feed-forward layer is one to four times as wide as the attention.",
        "Vaswani et al. 2017, sec. 3.3; Gorishniy et al. 2021, app. E",
    ),
    Rule(
        "label-smoothing",
        "Targets of 0.9 rather than 1 keep a classifier from overconfidence.",
        "Szegedy et al. 2016, sec. 7",
    ),
    Rule(
        "tabnet",
        "TabNet's relaxation, shared and own layers, and sparsity lie around the paper's.",
        "Arik & Pfister 2019, the section on hyperparameters; entmax: Peters et al. 2019",
    ),
    Rule(
        "embedding",
        f"A category's vector has at most {CATEGORY_VALUES} values, and no more than there are"
        " categories.",
        "Guo & Berkhahn 2016, Entity Embeddings of Categorical Variables, sec. 5; the"
        f" {CATEGORY_VALUES} are ours",
    ),
    Rule(
        "numeric-encoding",
        "Numbers enter as piecewise-linear codes between their quantiles.",
        "Gorishniy et al. 2022, sec. 3.2",
    ),
    Rule(
        "augmentation",
        "Images are moved, turned or mirrored where the search finds that it helps; not by default"
        " where numbers are predicted, which may be places in them.",
        "Shorten & Khoshgoftaar 2019, sec. 3",
    ),
    Rule(
        "wave-length",
        f"Sounds are cut after {WAVE_LONGEST_S:g} s, as attention is quadratic in their frames.",
        "Vaswani et al. 2017, table 1 (cost of self-attention); the ten seconds are ours",
    ),
    Rule(
        "frame-rate",
        "Windows of 25 ms every 10 ms; longer sounds take longer steps, for some"
        f" {MOST_TOKENS} tokens.",
        f"Radford et al. 2022 (Whisper), sec. 2.2; the {MOST_TOKENS} are ours",
    ),
    Rule(
        "mel-bands",
        "40 to 80 mel bands, standardised by sample or by band.",
        "Radford et al. 2022 (Whisper), sec. 2.2; Viikki & Laurila 1998 (by band), sec. 2",
    ),
    Rule(
        "raw-wave",
        "Strided convolutions over the raw wave: a token every 20 ms or so.",
        "Baevski et al. 2020 (wav2vec 2.0), sec. 4.2; Schneider et al. 2019, sec. 3.1",
    ),
    Rule(
        "spec-augment",
        "Stretches of time and of frequency are blanked in training.",
        "Park et al. 2019 (SpecAugment), sec. 2",
    ),
    Rule(
        "time-shift",
        "Sounds are moved in time, and played slower or faster, where it helps.",
        "Ko et al. 2015, Audio Augmentation for Speech Recognition, sec. 2 (speed)",
    ),
    Rule(
        "vocabulary",
        "Words seen twice or more in training have a vector; where"
        f" {NEW_WORDS:.0%} are seen once, pieces do.",
        "Chen et al. 2019 (How Large a Vocabulary Does Text Classification Need?), sec. 4;"
        " Sennrich et al. 2016, sec. 3 (pieces); Good 1953 (new words); the 15 % are ours",
    ),
    Rule(
        "text-length",
        "Texts are cut at twice the 95th percentile of their lengths, and at"
        f" {TEXT_LONGEST:,} tokens.",
        "Devlin et al. 2019, app. A.2 (512); the numbers are ours",
    ),
    Rule(
        "series-length",
        "Of long sequences of numbers steps are averaged, so that nineteen of twenty have at most"
        f" {SERIES_LONGEST:,}; what is longer is cut.",
        "Keogh et al. 2001 (Dimensionality Reduction for Fast Similarity Search), sec. 3 (means of"
        " equal stretches); the number is ours",
    ),
    Rule(
        "forecast-window",
        "A forecast is made from two horizons or two seasons, whichever is longer, and at least"
        f" {FORECAST_SHORTEST} steps.",
        "Hyndman & Athanasopoulos 2021, Forecasting: Principles and Practice, sec. 2.8"
        " (autocorrelation shows the season); the numbers are ours",
    ),
    Rule(
        "forecast-linear",
        "A linear forecast of the window runs beside the network, and begins as the value a season"
        " before.",
        "Zeng et al. 2023 (Are Transformers Effective for Time Series Forecasting?), sec. 4; the"
        " beginning is ours",
    ),
    Rule(
        "series-scale",
        "Each sequence is standardised by itself, with or without its mean and deviation beside"
        " it, or not at all, where its level says something.",
        "Rakthanmanon et al. 2012, sec. 3 (without it, shapes cannot be compared); Kim et al. 2022"
        " (RevIN), sec. 3.1 (level and spread are kept)",
    ),
    Rule(
        "series-kernels",
        "Kernels of three lengths side by side, the longest of 10 to 40 steps and no longer than"
        " the sequences; of plain layers 8, 5 and 3.",
        "Ismail Fawaz et al. 2020 (InceptionTime), sec. 3.1 and 5; Wang et al. 2017, sec. II",
    ),
    Rule(
        "series-patches",
        "A few steps side by side become one token: at most"
        f" {MOST_TOKENS} tokens, or fewer where patches of up to 16 steps suffice.",
        f"Nie et al. 2023 (PatchTST), sec. 3.1 (patches of 16); the {MOST_TOKENS} are ours",
    ),
    Rule(
        "series-augmentation",
        "Sequences are jittered, scaled, cropped and blanked in training where it helps.",
        "Um et al. 2017, sec. 3 (jitter, scale, crop); Le Guennec et al. 2016, sec. 2 (slices);"
        " Park et al. 2019 (blanks)",
    ),
    Rule(
        "token-dropout",
        "Whole words are left out in training, so that no single one is relied upon.",
        "Iyyer et al. 2015 (Deep Averaging Networks), sec. 3",
    ),
    Rule(
        "text-convolutions",
        "Runs of two to five words are detected, those of each length by as many convolutions.",
        "Kim 2014, sec. 2 and 3.1; Zhang & Wallace 2017 (A Sensitivity Analysis of CNNs), sec. 4",
    ),
    Rule(
        "n-grams",
        "Runs of two and more words have short vectors of their own, found by a hash, in half as"
        " many rows as there are running words, or as the limit on parameters pays for.",
        "Joulin et al. 2017, sec. 2.1; Wang & Manning 2012 (bigrams beside words); Weinberger et"
        " al. 2009 (hashing); the number of rows is ours",
    ),
    Rule(
        "positions",
        "Positions are learned, sinusoidal, rotary or left out.",
        "Vaswani et al. 2017, sec. 3.5; Su et al. 2021 (RoFormer), sec. 3.2",
    ),
    Rule(
        "norm-placement",
        "Normalising before each branch trains more stably than after each sum.",
        "Xiong et al. 2020, sec. 3",
    ),
    Rule(
        "two-directions",
        "A recurrent layer reads a text in both directions where all of it is available.",
        "Schuster & Paliwal 1997; Graves & Schmidhuber 2005, sec. 5",
    ),
    Rule(
        "random-kernels",
        "Up to ten thousand features of fixed random kernels, and one trained layer, are as good as"
        " deep networks where sequences are few.",
        "Dempster et al. 2021 (MiniRocket), sec. 3.3 and 4.1",
    ),
    Rule(
        "recurrent-cell",
        "An LSTM's cell or the gated recurrent unit, with three quarters of its weights: neither"
        " is the better one on all data.",
        "Cho et al. 2014; Chung et al. 2014, sec. 5; Jozefowicz et al. 2015, sec. 4",
    ),
    Rule(
        "state-space",
        "Mamba's expansion, states and kernel lie around the paper's 2, 16 and 4.",
        "Gu & Dao 2023, sec. 3.4 and 3.6, table 10 (states)",
    ),
    Rule(
        "imbalance",
        "Where the objective weighs classes equally and the largest has more than"
        f" {WEIGH_CLASSES_FROM:g} times the samples of the smallest, the loss may weigh them too.",
        "King & Zeng 2001, sec. 4; Brodersen et al. 2010",
    ),
    Rule(
        "single-members",
        "A fused network is measured against one of each member alone.",
        "Wang et al. 2020 (What Makes Training Multi-Modal Networks Hard?), sec. 1",
    ),
    Rule(
        "light-encoders",
        "Each member has a light encoder of its modality; they share the limit on parameters.",
        "Kim et al. 2021 (ViLT), sec. 2.1; the equal parts are ours",
    ),
    Rule(
        "fusion",
        "Members' vectors are concatenated, or weighed by gates.",
        "Baltrušaitis et al. 2019, sec. 6; Arevalo et al. 2017, sec. 3",
    ),
    Rule(
        "modality-dropout",
        "In training a member is left out at random, so that none is relied upon alone.",
        "Neverova et al. 2016 (ModDrop)",
    ),
    Rule(
        "cross-validation",
        f"With fewer than {CROSS_VALIDATED} validation samples a proxy is scored on five folds of"
        " all but test, but for the nodes of one graph and parts that hold other groups or times.",
        "Kohavi 1995, sec. 4; the 150 (a standard error of four per cent) are ours",
    ),
    Rule(
        "proxy-steps",
        "A proxy trains for 300 (several modalities on a CPU) to 1,600 steps, on a fraction of"
        " plentiful data.",
        "Zhou et al. 2020 (EcoNAS), sec. 3 and 4; the steps are ours",
    ),
    Rule(
        "cloud-size",
        f"Of larger clouds {CLOUD_MOST:,} points are drawn; how many of them a network reads is"
        " searched.",
        "Qi et al. 2017 (PointNet), sec. 5.1 and 5.3 (half of 1,024 points cost 2.4 to 3.8 %)",
    ),
    Rule(
        "cloud-frame",
        "Each cloud is moved and scaled into the unit ball, unless place and size are informative.",
        "Qi et al. 2017 (PointNet), sec. 5.1",
    ),
    Rule(
        "cloud-pooling",
        "Points have no order: a maximum, a mean or both make one vector of them.",
        "Qi et al. 2017 (PointNet), sec. 4.2 and fig. 5; Wang et al. 2019, fig. 3 (both)",
    ),
    Rule(
        "cloud-features",
        "The last layer before the pooling is two to eight times as wide as those before it.",
        "Qi et al. 2017 (PointNet), fig. 2 (from 64 to 1,024); Wang et al. 2019, fig. 3",
    ),
    Rule(
        "cloud-transform",
        "A small network may turn each cloud into a common pose first.",
        "Qi et al. 2017 (PointNet), sec. 4.2 and 5.2",
    ),
    Rule(
        "neighbours",
        "Each point is compared with its 4 to 20 nearest; with few points these are near enough.",
        "Wang et al. 2019 (DGCNN), sec. 5.1 and table 5 (k = 20 of 1,024); the four are ours",
    ),
    Rule(
        "graph-of-points",
        "Neighbours are found once in space, or by each layer anew among its features.",
        "Wang et al. 2019 (DGCNN), sec. 3.2 and table 4 (0.7 % for three times the work)",
    ),
    Rule(
        "voxels",
        "A grid has 8 to 64 voxels a side, and no more cells than"
        f" {CLOUD_CELLS} for each point of a cloud.",
        "Maturana & Scherer 2015 (VoxNet), sec. III (32); Graham et al. 2018; the"
        f" {CLOUD_CELLS} are ours",
    ),
    Rule(
        "cloud-augmentation",
        "Clouds are turned, scaled, jittered and thinned where the search finds that it helps.",
        "Qi et al. 2017 (PointNet), sec. 5.1; Qi et al. 2017 (PointNet++), sec. 3.3",
    ),
    Rule(
        "graph-depth",
        "Two layers on one graph, three on many: further ones blur the nodes into each other.",
        "Kipf & Welling 2017, app. B; Li et al. 2018 (Deeper Insights into GCNs), sec. 3",
    ),
    Rule(
        "graph-layers",
        "Linear layers around the convolutions, or a last convolution that gives a node's logits.",
        "You et al. 2020 (Design Space), sec. 3.1 and 7.1; Luo et al. 2024; Kipf & Welling, eq. 9",
    ),
    Rule(
        "jumping-knowledge",
        "The head reads the last layer, all of them, or the largest value of each feature.",
        "Xu et al. 2018 (Jumping Knowledge Networks), sec. 4; Xu et al. 2019 (GIN), eq. 4.2",
    ),
    Rule(
        "graph-pooling",
        "A sum over the nodes counts what a graph contains, a mean gives its composition.",
        "Xu et al. 2019 (GIN), sec. 5.2; Li et al. 2016 (Gated Graph Sequence NNs), sec. 3.2",
    ),
    Rule(
        "neighbours-mean",
        "Neighbours are averaged, or the largest of each of their features is taken.",
        "Hamilton et al. 2017 (GraphSAGE), sec. 3.3",
    ),
    Rule(
        "drop-edge",
        "Edges are left out in training, each with the same chance.",
        "Rong et al. 2020 (DropEdge), sec. 3.1",
    ),
    Rule(
        "drop-features",
        "Features of nodes are left out in training, most of them where fewer nodes have labels"
        " than each has features.",
        "Kipf & Welling 2017, sec. 5.2; Veličković et al. 2018, sec. 3.3 (0.5, 0.6; 0.8 and where"
        " labels are few is ours)",
    ),
    Rule(
        "word-counts",
        "Word counts of a node are divided by their sum, and no mean is taken off.",
        "Kipf & Welling 2017, sec. 5.2",
    ),
    Rule(
        "whole-graph",
        "One graph is one batch, with all its labelled nodes, where a step of the largest baseline"
        " fits into a worker's memory.",
        f"Kipf & Welling 2017, sec. 3.1; {EDGE_VALUES} values an edge and {NODE_VALUES} a node are"
        " what our prediction of memory gives for GAT of width 64",
    ),
    Rule(
        "sampled-neighbours",
        "Of a graph that does not fit a batch holds some hundred nodes, with neighbours drawn in"
        f" each hop: up to 25 in the first, {LATER_HOPS[0]} in the second, {LATER_HOPS[1]} in the"
        " third, which is the last.",
        "Hamilton et al. 2017 (GraphSAGE), alg. 2, sec. 3.1 and 4 (25, 10; batches of 512; more"
        " than two hops gain little); Hu et al. 2020 (Open Graph Benchmark), example of"
        " ogbn-products (15, 10, 5)",
    ),
    Rule(
        "l2-one-graph",
        "Where a graph is the batch, the weights' L2 norm is a term of the loss, under Adam.",
        "Kipf & Welling 2017, sec. 5.2, and Veličković et al. 2018, sec. 3.3 (5e-4 of the half"
        " square); GAT reaches 0.816 on Cora with decoupled decay and 0.824 with this one",
    ),
    *CHECKED,
)
RULES = {rule.id: rule for rule in _ALL}
