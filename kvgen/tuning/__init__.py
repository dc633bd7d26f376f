"""The tuner: which configurations are legal, which are tried, how they are timed, what is kept."""
