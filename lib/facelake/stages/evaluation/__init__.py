"""How good a gallery is: labels, accuracy, operating points."""
