"""`python -m staffstream`."""

import sys

from staffstream.cli import main

sys.exit(main())
