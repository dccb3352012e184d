"""Data sets: one file each, one line each in `DATASETS`."""

from fdlab.core.tables import Table

DATASETS = Table(
    "data set",
    {
        "digits": "fdlab.data.digits:DIGITS",
        "planted": "fdlab.data.planted:PLANTED",
    },
)
