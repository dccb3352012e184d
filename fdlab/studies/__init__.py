"""Studies: one question each, records or feature banks in, a dataclass of plain arrays out."""

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
    "report",
)
