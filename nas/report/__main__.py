"""The command `python -m nas.report FOLDER`: render a run's page again."""

import sys

from nas.report.page import main

sys.exit(main())
