"""Networks: one file each, one line each in `MODELS`."""

from __future__ import annotations

from fdlab.core.tables import Table

MODELS = Table(
    "model",
    {
        "resnet18": "fdlab.models.resnet:build_resnet18",
        "resnet34": "fdlab.models.resnet:build_resnet34",
        "resnet50": "fdlab.models.resnet:build_resnet50",
        "vit_small": "fdlab.models.vit:build_vit_small",
        "vit_s14": "fdlab.models.vit:build_vit_s14",
        "vit_l14": "fdlab.models.vit:build_vit_l14",
        "swin_t": "fdlab.models.swin:build_swin_t",
        "mobilenetv1": "fdlab.models.mobilenetv1:build_mobilenetv1",
        "mobilenetv2": "fdlab.models.mobilenetv2:build_mobilenetv2",
        "deeplabv3plus": "fdlab.models.deeplab:build_deeplabv3plus",
        "vit_small_pixels": "fdlab.models.dense:build_vit_small_pixels",
        "vit_small_boxes": "fdlab.models.dense:build_vit_small_boxes",
        "vit_s14_pixels": "fdlab.models.dense:build_vit_s14_pixels",
        "vit_s14_boxes": "fdlab.models.dense:build_vit_s14_boxes",
        "vit_l14_pixels": "fdlab.models.dense:build_vit_l14_pixels",
        "vit_l14_boxes": "fdlab.models.dense:build_vit_l14_boxes",
        "swin_t_pixels": "fdlab.models.dense:build_swin_t_pixels",
        "swin_t_boxes": "fdlab.models.dense:build_swin_t_boxes",
        "resnet18_pixels": "fdlab.models.dense:build_resnet18_pixels",
        "resnet18_boxes": "fdlab.models.dense:build_resnet18_boxes",
        "resnet50_pixels": "fdlab.models.dense:build_resnet50_pixels",
        "resnet50_boxes": "fdlab.models.dense:build_resnet50_boxes",
        "textcnn": "fdlab.models.textcnn:build_textcnn",
        "bert": "fdlab.models.bert:build_bert",
        "bert_tiny": "fdlab.models.bert:build_bert_tiny",
        "resnet8": "fdlab.models.resnet_cifar:build_resnet8",
        "resnet14": "fdlab.models.resnet_cifar:build_resnet14",
        "resnet20": "fdlab.models.resnet_cifar:build_resnet20",
        "resnet32": "fdlab.models.resnet_cifar:build_resnet32",
        "resnet44": "fdlab.models.resnet_cifar:build_resnet44",
        "resnet56": "fdlab.models.resnet_cifar:build_resnet56",
        "resnet110": "fdlab.models.resnet_cifar:build_resnet110",
        "resnet8x4": "fdlab.models.resnet_cifar:build_resnet8x4",
        "resnet32x4": "fdlab.models.resnet_cifar:build_resnet32x4",
        "wrn_16_1": "fdlab.models.wrn:build_wrn_16_1",
        "wrn_16_2": "fdlab.models.wrn:build_wrn_16_2",
        "wrn_40_1": "fdlab.models.wrn:build_wrn_40_1",
        "wrn_40_2": "fdlab.models.wrn:build_wrn_40_2",
        "vgg8": "fdlab.models.vgg:build_vgg8",
        "vgg13": "fdlab.models.vgg:build_vgg13",
        "resnet18_cifar": "fdlab.models.resnet_cifar:build_resnet18",
        "resnet34_cifar": "fdlab.models.resnet_cifar:build_resnet34",
        "resnet50_cifar": "fdlab.models.resnet_cifar:build_resnet50",
        "mobilenetv1_cifar": "fdlab.models.mobilenetv1:build_mobilenetv1_cifar",
        "mobilenetv2_half": "fdlab.models.mobilenetv2_cifar:build_mobilenetv2_half",
        "shufflenetv1": "fdlab.models.shufflenetv1:build_shufflenetv1",
        "shufflenetv2": "fdlab.models.shufflenetv2:build_shufflenetv2",
    },
)

WORDS = ("textcnn", "bert", "bert_tiny")
PIXELS, BOXES = "_pixels", "_boxes"  # how the names of networks end that are for these


def find_use(name: str) -> str:
    """What a network of the table is for: "words", which it reads, "pixels", each of which it gives
    a class, "boxes", which it finds, or "images", whole."""
    MODELS.find_place(name)
    if name in WORDS:
        return "words"
    if name.endswith(PIXELS) or name == "deeplabv3plus":
        return "pixels"
    return "boxes" if name.endswith(BOXES) else "images"


def find_task(name: str) -> str:
    """What a network of the table is trained for, one of `fdlab.data.dataset.TASKS`."""
    return {"pixels": "segmentation", "boxes": "detection"}.get(find_use(name), "classification")
