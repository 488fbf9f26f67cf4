"""What is known about a device: a header and a table of kernel times, both plain text.

Importing this package is cheap (yaml and the standard library). Not for predicting: that is
`latency_models`, whose models are pure functions of a `DeviceProfile`.
"""

from device_profiles.header import (
    MEASURED,
    Calibration,
    FusionRules,
    Header,
    Interval,
    KindModel,
    Lanes,
    Residual,
    Scenario,
    Source,
)
from device_profiles.kernel import IMAGE_CHANNELS, Kernel
from device_profiles.profile import DeviceProfile, available_devices, load_profile, save_profile
from device_profiles.table import ORIGINS, KernelRow

__all__ = [
    "IMAGE_CHANNELS",
    "MEASURED",
    "ORIGINS",
    "Calibration",
    "DeviceProfile",
    "FusionRules",
    "Header",
    "Interval",
    "Kernel",
    "KernelRow",
    "KindModel",
    "Lanes",
    "Residual",
    "Scenario",
    "Source",
    "available_devices",
    "load_profile",
    "save_profile",
]
