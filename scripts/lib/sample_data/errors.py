"""The two ways in which making sample data fails. A message says what happened, why, and what to do now."""


class SampleDataError(Exception):
    """The sample data cannot be made."""


class TemplateMissingError(SampleDataError):
    """The template for the MR head could not be had; everything else could still be made."""
