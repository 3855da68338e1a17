"""python -m hptransfer: the same as the command `hptransfer`."""

import sys

from hptransfer.cli import main

sys.exit(main())
