"""Networks: one file each, one line each in `MODELS`."""

from fdlab.core.tables import Table

MODELS = Table(
    "model",
    {
        "resnet18": "fdlab.models.resnet:build_resnet18",
        "textcnn": "fdlab.models.textcnn:build_textcnn",
    },
)
