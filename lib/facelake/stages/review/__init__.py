"""The review page's views of the lake, and the answers of reviewers."""
