"""What was derived, in the notation of the spec: the text of `kvgen explain`."""
