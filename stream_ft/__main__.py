"""``python -m stream_ft`` is the command ``stream-ft``."""

from stream_ft.cli import main

if __name__ == "__main__":
    main()
