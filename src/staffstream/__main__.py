"""`python -m staffstream`."""

import sys

from staffstream.cli.main import main

sys.exit(main())
