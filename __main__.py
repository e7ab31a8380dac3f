"""`python -m tfcompress`."""

import sys

from .cli import main

sys.exit(main())
