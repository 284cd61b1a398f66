"""Have each side see its own package only.

An editable installation gives another package of its name what that does not have
itself: to 1.2.8 our `templatetags`.
"""

import sys

sys.meta_path[:] = [
    finder
    for finder in sys.meta_path
    if getattr(finder, "__name__", "") != "_EditableFinder"
]
