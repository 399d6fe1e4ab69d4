"""`python -m clipfuse COMMAND ...` is the command `clipfuse`."""

import sys

from clipfuse.cli.__main__ import main

sys.exit(main())
