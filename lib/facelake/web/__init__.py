"""The review page: a small web application over `stages/review/views.py`, for one reviewer on their own machine."""
