"""Data sets: one file each, one line each in `DATASETS`; `folder` reads anybody's own."""

from fdlab.core.tables import Table

DATASETS = Table(
    "data set",
    {
        "digits": "fdlab.data.digits:DIGITS",
        "digits_text": "fdlab.data.digits:DIGITS_TEXT",
        "planted": "fdlab.data.planted:PLANTED",
        "rooms": "fdlab.data.rooms:ROOMS",
        "shapes": "fdlab.data.shapes:SHAPES",
        "cremad": "fdlab.data.cremad:CREMAD",
        "ave": "fdlab.data.ave:AVE",
        "vggsound": "fdlab.data.vggsound:VGGSOUND",
        "crisismmd": "fdlab.data.crisismmd:CRISISMMD",
        "nyuv2": "fdlab.data.nyuv2:NYUV2",
        "kaist": "fdlab.data.kaist:KAIST",
        "flir": "fdlab.data.flir:FLIR",
        "mfnet": "fdlab.data.mfnet:MFNET",
        "cifar100": "fdlab.data.cifar:CIFAR100",
        "cifar10": "fdlab.data.cifar:CIFAR10",
        "tinyimagenet": "fdlab.data.tinyimagenet:TINYIMAGENET",
        "cub200": "fdlab.data.cub200:CUB200",
        "mit67": "fdlab.data.mit67:MIT67",
        "stanford40": "fdlab.data.stanford40:STANFORD40",
        "stanford_dogs": "fdlab.data.stanford_dogs:STANFORD_DOGS",
        "folder": "fdlab.data.folder:FOLDER",
    },
)
