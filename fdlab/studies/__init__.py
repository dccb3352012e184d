"""Studies: one question each, records or feature banks in, a dataclass of plain arrays out."""

from fdlab.data.dataset import SCORED, TASKS

DENSE = TASKS[1:]  # whose answers have places in the image
# Study → the tasks that it is for, where they are not those whose answers are scores of classes.
SUITED = {
    "data": TASKS,
    "report": TASKS,
    "segmentation": ("segmentation",),
    "spectrum": DENSE,
    "infrared": DENSE,
    "heterogeneous": ("classification",),
}
PAIRS = ("logits", "zoo")  # studies of data sets that name pairs of networks
ACROSS = (
    "similarity",
    "scale",
    "gradients",
    "embedding",
    "spectrum",
    "infrared",
)  # studies that compare modalities
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
    "spectrum",
    "infrared",
    "heterogeneous",
    "report",
)


def suits(stem: str, task: str) -> bool:
    """Whether a study is for data sets of a task."""
    return task in SUITED.get(stem, SCORED)
