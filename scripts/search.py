"""`slimfront search` for `ray submit CLUSTER.yaml scripts/search.py -- [CONFIG] --out RUN …`.

`ray submit` copies this one file to the head; the package comes by the cluster's setup commands.
The file has the package's name and its folder comes first on the path, of Ray's workers too: so
whoever imports it by that name gets the package.
"""

import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
before = list(sys.path)
sys.path[:] = [entry for entry in before if os.path.abspath(entry) != here]
if __name__ != "__main__":
    del sys.modules[__name__]
from search.cli import main  # noqa: E402

sys.path[:] = before

if __name__ == "__main__":
    os.environ.setdefault("RAY_ADDRESS", "auto")  # the cluster that this head belongs to
    sys.exit(main(["search", *sys.argv[1:]]))
