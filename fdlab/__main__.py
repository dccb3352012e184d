import sys

from fdlab.cli import main

sys.exit(main())
