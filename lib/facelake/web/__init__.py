"""The review page: a small web application over `stages/review`, for one reviewer on their own machine."""
