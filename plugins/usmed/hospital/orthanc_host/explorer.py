"""What Orthanc Explorer shows of the region, as the one script that Orthanc loads behind its own.

On a patient's and a study's page: who holds what and where it stands; in lookup results: which studies are elsewhere;
while a study is on its way: how far it is. Nothing in it asks the server on any other page. Names and descriptions come
from other hospitals: they reach the page as text, never as HTML.
"""

from importlib.resources import files


def explorer_script() -> str:
    """Return the files of `explorer/` in the order of their names, in one scope (jQuery 1.7, jQuery Mobile 1.1)."""
    folder = files(__package__).joinpath("explorer")
    parts = sorted(folder.iterdir(), key=lambda part: part.name)
    body = "\n".join(part.read_text("utf-8") for part in parts if part.name.endswith(".js"))
    return f"(function ($) {{\n'use strict';\n{body}\n}})(jQuery);\n"
