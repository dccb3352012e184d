"""Networks: one file each, one line each in `MODELS`."""

from fdlab.core.tables import Table

MODELS = Table(
    "model",
    {
        "resnet18": "fdlab.models.resnet:build_resnet18",
        "mobilenetv2": "fdlab.models.mobilenetv2:build_mobilenetv2",
        "deeplabv3plus": "fdlab.models.deeplab:build_deeplabv3plus",
        "textcnn": "fdlab.models.textcnn:build_textcnn",
        "bert": "fdlab.models.bert:build_bert",
        "bert_tiny": "fdlab.models.bert:build_bert_tiny",
    },
)
