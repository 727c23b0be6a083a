"""USMED: a regional PACS on Orthanc. Each sub-package is one actor; `domain` is what they agree on."""

__version__ = "0.1.0"
