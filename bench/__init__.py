"""The measures of the product (design, section 9): ``python -m bench``.

It lifts limits, never the work: counters, signatures and audit acknowledgements stay on the path.
Load comes from processes of their own, so no interpreter measures itself under another's load.
"""
