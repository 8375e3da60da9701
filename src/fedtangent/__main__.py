"""The command line, as `python -m fedtangent`."""

from fedtangent.cli import main

raise SystemExit(main())
