"""The `usmed` command. Each actor adds its own commands; this file only joins them and reports errors."""

import argparse
import re
import sys
from collections.abc import Sequence

from usmed import __version__
from usmed.domain.errors import ConfigurationError, UsmedError
from usmed.hospital import commands as hospital_commands
from usmed.hub import commands as hub_commands
from usmed.keyserver import commands as keyserver_commands
from usmed.platform import commands as platform_commands

_HYPHENATED_KEY = re.compile(r"-[A-Za-z0-9_-]{42}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 done, 1 refused or found broken, 2 wrongly called or configured."""
    parser = argparse.ArgumentParser(prog="usmed", description="Tools of the regional PACS.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (hospital_commands, hub_commands, keyserver_commands, platform_commands):
        module.add_commands(commands)
    parsed = parser.parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
    try:
        parsed.run(parsed)
    except UsmedError as error:
        print(f"usmed: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigurationError) else 1
    return 0


def _joined(arguments: Sequence[str]) -> list[str]:
    """Write `--key=VALUE` for `--key VALUE`: one public key in 64 begins with `-`, as options do for argparse."""
    joined: list[str] = []
    for one in arguments:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and _HYPHENATED_KEY.fullmatch(one):
            joined[-1] += f"={one}"
        else:
            joined.append(one)
    return joined


if __name__ == "__main__":
    sys.exit(main())
