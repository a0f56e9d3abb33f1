"""Published gallery versions: writing them, reading them, correcting them, purging them."""
