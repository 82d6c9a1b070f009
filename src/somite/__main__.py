"""`python -m somite`."""

import sys

from somite.cli import main

sys.exit(main())
