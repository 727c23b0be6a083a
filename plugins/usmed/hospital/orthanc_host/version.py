"""Which Orthanc is new enough.

Imported before anything else of ours, in whatever Python an old Orthanc brings: no syntax and no library here that
Debian 12 does not have, or what is wrong could not be said.
"""

import orthanc

from usmed.domain.errors import ConfigurationError

OLDEST_ORTHANC = (1, 12, 11)


def check_version() -> None:
    """Refuse an Orthanc whose known faults mix up patients.

    Raises:
        ConfigurationError: older than 1.12.11.
    """
    if not orthanc.CheckVersionAdvanced(*OLDEST_ORTHANC):
        raise ConfigurationError(
            "Orthanc",
            [
                "is older than 1.12.11. Older versions take the patient numbers 1234, _1234 and %1234 for one patient"
                " and have known security holes; please upgrade Orthanc, then start again"
            ],
        )
