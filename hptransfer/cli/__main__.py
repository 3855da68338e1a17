"""python -m hptransfer.cli"""

import sys

from hptransfer.cli.command import main

sys.exit(main())
