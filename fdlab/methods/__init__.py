"""Distillation methods: one file each, one line each in `METHODS`."""

from fdlab.core.tables import Table

METHODS = Table(
    "method",
    {
        "none": "fdlab.methods.none:NoDistillation",
        "kd": "fdlab.methods.kd:LogitDistillation",
        "feat": "fdlab.methods.feat:FeatureDistillation",
        "fdcmkd": "fdlab.methods.fdcmkd:FDCMKD",
        "fdcmkd_soft": "fdlab.methods.fdcmkd_soft:SoftFDCMKD",
        "heads_only": "fdlab.methods.heads_only:HeadsOnly",
    },
)
