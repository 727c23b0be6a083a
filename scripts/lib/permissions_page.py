"""Prints docs/reference/permissions.md: PYTHONPATH=plugins scripts/lib/permissions_page.py > docs/reference/..."""

from usmed.domain.staff_role import ANYBODY, STAFF
from usmed.hospital.staff.rules import permissions, roles


def page() -> str:
    """Return the page, made from staff/permissions.yaml and staff/roles.yaml."""
    known, _ = roles("")
    lines = [
        "# Roles, permissions and addresses of a node",
        "",
        "Made from `plugins/usmed/hospital/staff/permissions.yaml` and `roles.yaml`. How to give somebody a role, and",
        "how to change what a role may: [roles.md](../how-to/roles.md). What is not here is denied to everybody.",
        "",
        "## Roles",
        "",
        "| role | what for |",
        "|---|---|",
        *(f"| `{role.name}` | {role.means} |" for role in known.values()),
        "",
        "## Who has which permission",
        "",
        "| permission | which means | roles |",
        "|---|---|---|",
    ]
    for name, document in permissions().items():
        if name == ANYBODY:
            who = "everybody, without a log-in"
        elif name == STAFF:
            who = "everybody with a role"
        else:
            who = ", ".join(role.name for role in known.values() if name in role.permissions)
        lines.append(f"| `{name}` | {document['means']} | {who} |")
    lines += ["", "## Addresses", ""]
    lines += [
        "`{x}` is any one part of a path, `{x...}` all the rest; `$dicomweb` and `$wado` are what `DicomWeb.Root` and",
        "`DicomWeb.WadoRoot` say.",
    ]
    for name, document in permissions().items():
        lines += ["", f"### {name}", "", "```", *document["routes"], "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
