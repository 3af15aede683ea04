"""``python -m stream_ft`` and the command ``stream-ft``."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line. Ctrl-C ends it as quietly while the modules behind it are still being imported."""
    try:
        from stream_ft.cli import main as command
    except KeyboardInterrupt:
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
