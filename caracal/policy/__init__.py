"""Policies in Rego: the check at upload and the decision at exchange.

The engine looks for ``RUST_LIB_BACKTRACE`` once, when its first error is made: without this line
each error carries a stack trace and costs ten times as much.
"""

import os

os.environ["RUST_LIB_BACKTRACE"] = "0"
