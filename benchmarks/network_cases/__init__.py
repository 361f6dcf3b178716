"""The networks of `networks.py`, and the judge of what forgetkit does to them."""
