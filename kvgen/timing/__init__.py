"""Model steps on random data, captured and timed on a GPU, with their errors against float64."""
