"""A run for the driver check to look at."""

RUN = ("+paper=w_reinforce", "+scale=cpu")
