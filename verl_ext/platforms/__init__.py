"""verl on machines verl does not know."""
