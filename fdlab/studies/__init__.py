"""Studies: one question each, records or feature banks in, a dataclass of plain arrays out."""

TASKS = {"segmentation": "segmentation"}  # study → the only task that it is for
PAIRS = ("logits", "zoo")  # studies of data sets that name pairs of networks
ACROSS = ("similarity", "scale", "gradients", "embedding")  # studies that compare modalities
STEMS = (
    "data",
    "similarity",
    "scale",
    "gradients",
    "distillation",
    "comparison",
    "embedding",
    "ablation",
    "sensitivity",
    "protocol",
    "methods",
    "segmentation",
    "speed",
    "precision",
    "logits",
    "zoo",
    "report",
)
