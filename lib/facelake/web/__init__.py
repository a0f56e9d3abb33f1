"""The review page: a small web application over `stages/reviewing.py`, for one reviewer on his own machine."""
